"""A stand-in on loopback is the hub of every test here."""

import errno
import hashlib
import json
import logging
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest
from mock_hub import CHUNK, serving

from deberta_jax.errors import InputError
from deberta_jax.hub.download import resolve

NAME = "me/tiny"
# Large enough for a download to stop halfway.
SIZE = 300_000
OTHERS = ("README.md", "tf_model.h5", "rust_model.ot", "runs/config.json", "training_args.bin", "optimizer.pt")


@pytest.fixture(autouse=True)
def no_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def folder(tmp_path):
    """A repository with all that Microsoft's have, and more; weights in `.bin`."""
    files = ("spm.model", "tokenizer_config.json", "pytorch_model.bin", "pytorch_model.generator.bin", *OTHERS)
    return written(tmp_path / "tiny", *files)


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    with serving({NAME: folder}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        yield hub


def written(folder, *files):
    """A folder with a v3 config and files of random bytes."""
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(file).randbytes(SIZE if "model." in file and file != "spm.model" else 500))
    (folder / "config.json").write_text(json.dumps({"model_type": "deberta-v2", "vocab_size": 64}))
    return folder


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def same(folder, source):
    return all((folder / file).read_bytes() == (source / file).read_bytes() for file in names(folder))


def closed_port():
    """An address at which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def refused(match, *args, **kwargs):
    """The one line with which a call is refused."""
    with pytest.raises(InputError, match=match) as error:
        resolve(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_local_folder_is_returned_as_it_is(hub, folder):
    assert resolve(folder) == folder
    assert resolve(str(folder)) == folder
    shutil.copytree(folder, NAME)
    assert resolve(NAME) == Path(NAME)
    refused("a local folder has no revision v1; leave it out", folder, revision="v1")
    assert hub.log == []


@pytest.mark.parametrize(
    "name", ["./x", "../x", "/no/such", "~/x", "runs/demo/model", "runs\\x", "C:/x", "x/", "", "https://a.b/c"]
)
def test_what_looks_like_a_path_is_never_asked_of_the_hub(hub, name):
    refused("no such folder; name a model's folder, or a model of the hub", name)
    assert hub.log == []


def test_a_file_is_not_taken_for_a_model(hub, folder, monkeypatch):
    monkeypatch.chdir(folder)
    refused("no such folder", "pytorch_model.bin")
    assert hub.log == []


@pytest.mark.parametrize("name", ["me/ti ny", "me/tiny?", "-me/tiny", "me--x/tiny", "m" * 97])
def test_what_cannot_be_the_name_of_a_model_is_said(hub, name):
    refused("no such folder, and no name of a model on the hub", name)


def test_only_what_a_deberta_needs_is_fetched_and_once(hub, folder):
    found = resolve(NAME)
    wanted = ["config.json", "pytorch_model.bin", "spm.model", "tokenizer_config.json"]
    assert names(found) == hub.fetched() == wanted
    assert same(found, folder)
    assert resolve(NAME) == found
    assert all(len(hub.ranges(file)) == 1 for file in wanted)


def test_the_generator_comes_when_it_is_asked_for(hub, folder):
    found = resolve(NAME, generator=True)
    assert "pytorch_model.generator.bin" in names(found) and same(found, folder)
    (folder / "pytorch_model.generator.bin").unlink()
    refused("has no pytorch_model.generator.bin on the hub", NAME, generator=True)


@pytest.mark.parametrize("stem", ["model.safetensors", "pytorch_model.bin"])
def test_shards_come_as_their_index_lists_them(hub, folder, stem):
    name, _, kind = stem.partition(".")
    shards = [f"{name}-0000{i}-of-00002.{kind}" for i in (1, 2)]
    (folder / "pytorch_model.bin").unlink()
    written(folder, *shards, f"{name}-00009-of-00009.{kind}")
    (folder / f"{stem}.index.json").write_text(
        json.dumps({"weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}})
    )
    found = resolve(NAME)
    assert names(found) == sorted(["config.json", *shards, f"{stem}.index.json", "spm.model", "tokenizer_config.json"])
    assert same(found, folder)
    (folder / shards[1]).unlink()
    refused(f"{stem}.index.json names {shards[1]}, which the hub does not have", NAME)


def test_safetensors_are_preferred(hub, folder):
    written(folder, "model.safetensors")
    found = resolve(NAME)
    assert "model.safetensors" in names(found)
    assert "pytorch_model.bin" not in hub.fetched()


def test_a_bare_name_is_a_model_too(folder, tmp_path, monkeypatch):
    with serving({"tiny": folder}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        assert same(resolve("tiny"), folder)
        refused("no such folder here and no such model on the hub", "tinier")


def test_a_revision_is_a_branch_or_a_commit(folder, tmp_path, monkeypatch):
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "spm.model").write_bytes(b"another")
    with serving({NAME: folder, f"{NAME}@refs/pr/1": other}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        newest, named = resolve(NAME), resolve(NAME, revision="refs/pr/1")
        assert same(newest, folder) and same(named, other)
        assert resolve(NAME, revision=named.name) == named
        assert len(hub.ranges("pytorch_model.bin")) == 1
        refused("no revision v9 on the hub; name a branch", NAME, revision="v9")


def test_a_model_that_moved_on_is_fetched_anew(hub, folder):
    old = resolve(NAME)
    (folder / "spm.model").write_bytes(b"another")
    new = resolve(NAME)
    assert new != old and same(new, folder)
    assert len(hub.ranges("pytorch_model.bin")) == 1


def test_a_name_on_neither_side_is_said_with_both(hub):
    refused("runs/x: no such folder here and no such model on the hub", "runs/x")
    refused("no such model on the hub; mind the spelling, and if it is private", "runs/x", token=hub.token)


def test_a_private_model_needs_its_token(hub, folder, monkeypatch):
    hub.private.add(NAME)
    refused("if it is private give its token, set HF_TOKEN or log in", NAME)
    refused("the hub .* refuses .*give its token", NAME, token="hf_wrong")
    assert same(resolve(NAME, token=hub.token), folder)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert same(resolve(NAME), folder)


def test_a_gated_model_says_where_its_terms_are(hub, folder):
    hub.gated.add(NAME)
    refused(f"gated; accept its terms at {hub.url}/{NAME}", NAME)
    assert same(resolve(NAME, token=hub.token), folder)


def test_no_other_origin_sees_the_token(hub):
    resolve(NAME, token=hub.token)
    elsewhere = [request for request in hub.log if request.path.startswith("/large/")]
    assert elsewhere and all(request.token is None for request in elsewhere)
    assert all(request.token == hub.token for request in hub.log if request not in elsewhere)


@pytest.mark.parametrize("missing", ["config.json", "pytorch_model.bin"])
def test_a_repository_without_a_model_is_refused_before_a_download(hub, folder, missing):
    (folder / missing).unlink()
    refused("no DeBERTa on the hub: config.json, and model.safetensors or pytorch_model.bin are wanted", NAME)
    assert hub.fetched() == []


def test_another_kind_of_model_is_refused_before_its_weights_come(hub, folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    refused("bert", NAME)
    assert "pytorch_model.bin" not in hub.fetched()


def test_microsofts_own_config_does_too(hub, folder):
    (folder / "config.json").rename(folder / "model_config.json")
    assert "model_config.json" in names(resolve(NAME))


def test_a_broken_connection_is_taken_up_where_it_broke(hub, folder):
    hub.cut("pytorch_model.bin", after=2 * CHUNK + 9)
    assert same(resolve(NAME), folder)
    assert hub.ranges("pytorch_model.bin") == [None, f"bytes={2 * CHUNK}-"]


def test_a_call_after_a_broken_one_goes_on_where_that_stopped(hub, folder):
    hub.cut("pytorch_model.bin", after=2 * CHUNK + 9, then=lambda: setattr(hub, "down", 503))
    refused("broke off .*the same call again goes on where it stopped", NAME)
    hub.down = None
    hub.log.clear()
    assert same(resolve(NAME), folder)
    assert hub.ranges("pytorch_model.bin") == [f"bytes={2 * CHUNK}-"]
    assert hub.ranges("spm.model") == []


def test_a_call_after_a_killed_process_goes_on_where_that_stopped(hub, folder, tmp_path):
    halfway, over = threading.Event(), threading.Event()
    hub.cut("pytorch_model.bin", after=5 * CHUNK, then=lambda: (halfway.set(), over.wait(30)))
    code = f"""
from huggingface_hub import constants
constants.DOWNLOAD_CHUNK_SIZE = {CHUNK}
from deberta_jax.hub.download import resolve
resolve({NAME!r})
"""
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ, stderr=subprocess.DEVNULL) as process:
        assert halfway.wait(60)
        [partial] = (tmp_path / "cache").rglob("*.partial")
        while partial.stat().st_size < 5 * CHUNK:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    over.set()
    hub.log.clear()
    assert same(resolve(NAME), folder)
    assert hub.ranges("pytorch_model.bin") == [f"bytes={5 * CHUNK}-"]


def test_callers_at_the_same_time_fetch_a_large_file_once(hub, folder):
    found = []
    threads = [threading.Thread(target=lambda: found.append(resolve(NAME))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and len(set(found)) == 1 and same(found[0], folder)
    assert len(hub.ranges("pytorch_model.bin")) == 1


def test_content_that_is_not_what_the_hub_lists_is_thrown_away(hub, folder):
    hub.garbled.add("pytorch_model.bin")
    refused("pytorch_model.bin came with sha256 .*the hub lists .*thrown away", NAME)
    hub.garbled.clear()
    assert same(resolve(NAME), folder)
    assert hub.ranges("pytorch_model.bin") == [None, None]


@pytest.mark.parametrize("kept", [b"?" * SIZE, b"?" * (SIZE + 1), b"?" * 9])
def test_a_spoilt_partial_file_does_no_harm(hub, folder, tmp_path, kept):
    sha256 = hashlib.sha256((folder / "pytorch_model.bin").read_bytes()).hexdigest()
    blobs = tmp_path / "cache" / "models--me--tiny" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{sha256}.partial").write_bytes(kept)
    if len(kept) <= SIZE:
        refused("thrown away", NAME)
    assert same(resolve(NAME), folder)


def test_a_full_disk_is_said_before_the_download(hub, folder, monkeypatch):
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(2, 1, SIZE - 1))
        refused("is full .*300,000 bytes of pytorch_model.bin are to come, 299,999 are free.*HF_HUB_CACHE", NAME)
    assert "pytorch_model.bin" not in hub.fetched()
    assert same(resolve(NAME), folder)


def test_a_disk_that_fills_up_and_a_cache_that_is_read_only_are_said(hub, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("deberta_jax.hub.download.os.replace", full)
    code = errno.ENOSPC
    refused("the disk of the cache .* is full .*free some, or set HF_HUB_CACHE", NAME)
    code = errno.EROFS
    refused("the cache .* cannot be used .*Read-only.*set HF_HUB_CACHE", NAME)


def test_without_the_network_the_cache_is_used_and_that_is_said(hub, folder, monkeypatch, caplog):
    found = resolve(NAME)
    monkeypatch.setenv("HF_ENDPOINT", closed_port())
    with caplog.at_level(logging.WARNING, "deberta_jax.hub.download"):
        assert resolve(NAME) == found
        assert resolve(NAME, revision=found.name) == found
    ours = [record for record in caplog.records if record.name == "deberta_jax.hub.download"]
    assert len(ours) == 2 and "is not reached, so the cache is used" in ours[0].message
    refused("not whole in the cache .* is not reached .*go online, or name a folder", NAME, generator=True)
    refused("at v1: no such folder here, not whole in the cache", NAME, revision="v1")


# Where a login page stands before the network, it answers all with 200.
@pytest.mark.parametrize("status", [200, 429, 500, 503])
def test_a_hub_that_is_down_is_as_none(hub, status, caplog):
    found = resolve(NAME)
    hub.down = status
    assert resolve(NAME) == found
    assert "so the cache is used" in caplog.text
    refused("runs/x: no such folder here, not whole in the cache .* is not reached", "runs/x")


def test_an_address_that_is_no_hub_is_said(hub):
    hub.down = 404
    refused("the hub .* refuses .*404.*mend HF_ENDPOINT", NAME)


def test_a_hub_that_does_not_answer_in_time_is_as_none(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        refused("is not reached .*timed out", NAME)


def test_offline_mode_asks_nobody(hub, monkeypatch, caplog):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("not whole in the cache .*HF_HUB_OFFLINE is set.*go online, or name a folder", NAME)
    assert hub.log == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    found = resolve(NAME)
    hub.log.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve(NAME) == found
    assert hub.log == [] and "so the cache is used" not in caplog.text


def test_a_half_fetched_model_in_the_cache_is_not_taken_for_a_whole_one(hub, monkeypatch):
    hub.cut("pytorch_model.bin", after=10, then=lambda: setattr(hub, "down", 503))
    refused("broke off", NAME)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("not whole in the cache", NAME)


def test_importing_the_package_does_not_import_the_hub():
    code = "import deberta_jax.hub.download, sys; assert 'huggingface_hub' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
