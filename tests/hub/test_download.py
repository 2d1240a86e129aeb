"""All tests use a local mock hub."""

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
from deberta_jax.hub.download import GeneratorNotFound, resolve

NAME = "me/tiny"
# Several chunks, so that a download can be interrupted.
SIZE = 300_000
OTHERS = ("README.md", "tf_model.h5", "rust_model.ot", "runs/config.json", "training_args.bin", "optimizer.pt")
LOGGER = "deberta_jax.hub.download"


@pytest.fixture(autouse=True)
def empty_working_directory(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def folder(tmp_path):
    """A repository with all files of a Microsoft model, and more; weights in `.bin`."""
    files = ("spm.model", "tokenizer_config.json", "pytorch_model.bin", "pytorch_model.generator.bin", *OTHERS)
    return write_repository(tmp_path / "tiny", *files)


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    with serving({NAME: folder}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        yield hub


def write_repository(folder, *files):
    """Write a v3 config and files of random bytes."""
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
    """An address without a server."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def refused(match, *args, error=InputError, **kwargs):
    """Check that a call raises an error of one line."""
    with pytest.raises(error, match=match) as raised:
        resolve(*args, **kwargs)
    assert "\n" not in str(raised.value)
    return raised.value


def test_a_local_folder_is_returned_unchanged(hub, folder):
    assert resolve(folder) == folder
    assert resolve(str(folder)) == folder
    shutil.copytree(folder, NAME)
    assert resolve(NAME) == Path(NAME)
    refused("a local folder has no revision v1; omit it", folder, revision="v1")
    assert hub.log == []


def test_a_name_that_looks_like_a_path_is_never_requested(hub, folder, monkeypatch):
    for name in (
        *("./x", "../x", "/no/such", "~/x", "runs/demo/model"),
        "runs\\x",
        "C:/x",
        "x/",
        "",
        "https://a.b/c",
        "a/b\n",
        "a\tb",
    ):
        refused("no such folder; name a model folder, or a model on the Hub", name)
    monkeypatch.chdir(folder)
    refused("no such folder", "pytorch_model.bin")
    assert hub.log == []


def test_a_name_that_is_not_valid_is_refused(hub):
    for name in ("me/ti ny", "me/tiny?", "-me/tiny", "me--x/tiny", "m" * 97):
        refused("no such folder, and not a valid name of a model", name)


def test_only_required_files_are_downloaded_and_only_once(hub, folder):
    path = resolve(NAME)
    required = ["config.json", "pytorch_model.bin", "spm.model", "tokenizer_config.json"]
    assert names(path) == hub.fetched() == required
    assert same(path, folder)
    assert resolve(NAME) == path
    assert all(len(hub.ranges(file)) == 1 for file in required)


@pytest.mark.parametrize(
    ("part", "required"),
    [("config", ["config.json"]), ("tokenizer", ["spm.model", "tokenizer.json", "tokenizer_config.json"])],
)
def test_only_the_files_of_one_part_are_downloaded(part, required, hub, folder, monkeypatch):
    (folder / "model_config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    path = resolve(NAME, part=part)
    assert names(path) == hub.fetched() == required
    assert same(path, folder)
    # The part is complete in the cache, the other parts are not.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve(NAME, part=part) == path
    for other in {"model", "config", "tokenizer"} - {part}:
        refused("not complete in the cache", NAME, part=other)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert resolve(NAME) == path


def test_a_tokenizer_without_settings_is_downloaded(hub, folder):
    for file in ("tokenizer_config.json", "spm.model"):
        (folder / file).unlink()
    (folder / "vocab.json").write_text("{}")
    (folder / "merges.txt").write_text("#version: 0.2")
    assert names(resolve(NAME, part="tokenizer")) == hub.fetched() == ["merges.txt", "vocab.json"]


def test_a_part_that_the_hub_does_not_have_is_refused(hub, folder):
    (folder / "config.json").unlink()
    (folder / "spm.model").unlink()
    refused("no config on the Hub; expected one of config.json, model_config.json", NAME, part="config")
    refused("no tokenizer on the Hub; expected one of tokenizer.json, spm.model, vocab", NAME, part="tokenizer")


def test_the_generator_is_downloaded_on_request(hub, folder):
    path = resolve(NAME, generator=True)
    assert "pytorch_model.generator.bin" in names(path) and same(path, folder)
    (folder / "pytorch_model.generator.bin").unlink()
    problem = "the Hub has no pytorch_model.generator.bin"
    assert not refused(problem, NAME, generator=True, error=GeneratorNotFound).offline


@pytest.mark.parametrize("stem", ["model.safetensors", "pytorch_model.bin"])
def test_the_files_that_an_index_lists_are_downloaded(hub, folder, stem):
    name, _, kind = stem.partition(".")
    shards = [f"{name}-0000{i}-of-00002.{kind}" for i in (1, 2)]
    (folder / "pytorch_model.bin").unlink()
    write_repository(folder, *shards, f"{name}-00009-of-00009.{kind}")
    file_of = {"a": shards[0], "b": shards[1], "c": shards[0]}
    (folder / f"{stem}.index.json").write_text(json.dumps({"weight_map": file_of}))
    path = resolve(NAME)
    assert names(path) == sorted(["config.json", *shards, f"{stem}.index.json", "spm.model", "tokenizer_config.json"])
    assert same(path, folder)
    (folder / shards[1]).unlink()
    refused(f"{stem}.index.json refers to {shards[1]}, which is not on the Hub", NAME)


def test_safetensors_are_preferred(hub, folder):
    write_repository(folder, "model.safetensors")
    assert "model.safetensors" in names(resolve(NAME))
    assert "pytorch_model.bin" not in hub.fetched()


SENTENCE_MODULES = [
    {"type": "sentence_transformers.models.Transformer", "path": "0_Transformer"},
    {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    {"type": "sentence_transformers.models.Dense", "path": "2_Dense"},
    {"type": "sentence_transformers.models.Normalize", "path": "3_Normalize"},
]
SENTENCE_FILES = [
    *("0_Transformer/config.json", "0_Transformer/model.safetensors", "0_Transformer/sentence_bert_config.json"),
    *("0_Transformer/spm.model", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/pytorch_model.bin"),
    *("config_sentence_transformers.json", "modules.json"),
]


@pytest.fixture
def sentence_repository(folder):
    """A sentence-transformers model whose transformer is in a subfolder, and files that are not required."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_repository(folder / "0_Transformer", "spm.model", "model.safetensors", "sentence_bert_config.json", "x.onnx")
    for name in ("1_Pooling/config.json", "2_Dense/config.json", "2_Dense/pytorch_model.bin", "README.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        # Equal files would be downloaded once.
        (folder / name).write_text(json.dumps({"file": name}))
    (folder / "config_sentence_transformers.json").write_text("{}")
    (folder / "modules.json").write_text(json.dumps(SENTENCE_MODULES))
    return folder


def test_the_modules_of_a_sentence_encoder_are_downloaded(hub, sentence_repository, monkeypatch):
    path = resolve(NAME)
    assert names(path) == hub.fetched() == SENTENCE_FILES
    assert same(path, sentence_repository)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve(NAME) == path
    (path / "0_Transformer" / "model.safetensors").unlink()
    refused("not complete in the cache", NAME)


@pytest.mark.parametrize(("part", "file"), [("config", "config.json"), ("tokenizer", "spm.model")])
def test_the_parts_of_a_sentence_encoder_are_in_its_subfolder(part, file, hub, sentence_repository, monkeypatch):
    path = resolve(NAME, part=part)
    assert path.name == "0_Transformer" and names(path) == [file]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve(NAME, part=part) == path
    assert resolve(sentence_repository, part=part) == sentence_repository / "0_Transformer"


def test_an_adapter_is_downloaded_without_other_weights(hub, folder):
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.bin").write_bytes(b"weights")
    required = ["adapter_config.json", "adapter_model.bin", "spm.model", "tokenizer_config.json"]
    assert names(resolve(NAME)) == hub.fetched() == required


def test_a_name_without_an_owner_is_a_model_too(folder, tmp_path, monkeypatch):
    with serving({"tiny": folder}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        assert same(resolve("tiny"), folder)
        refused("no such folder, and no such model on the Hub", "tinier")


def test_a_revision_is_a_branch_or_a_commit(folder, tmp_path, monkeypatch):
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "spm.model").write_bytes(b"another")
    with serving({NAME: folder, f"{NAME}@refs/pr/1": other}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        newest, branch = resolve(NAME), resolve(NAME, revision="refs/pr/1")
        assert same(newest, folder) and same(branch, other)
        assert resolve(NAME, revision=branch.name) == branch
        assert len(hub.ranges("pytorch_model.bin")) == 1
        refused("no revision v9 on the Hub; name a branch", NAME, revision="v9")


def test_a_changed_model_is_downloaded_again_except_for_unchanged_files(hub, folder):
    old = resolve(NAME)
    (folder / "spm.model").write_bytes(b"another")
    new = resolve(NAME)
    assert new != old and same(new, folder)
    assert len(hub.ranges("pytorch_model.bin")) == 1


def test_an_unknown_model_is_neither_a_folder_nor_on_the_hub(hub):
    refused("runs/x: no such folder, and no such model on the Hub", "runs/x")
    refused("no such model on the Hub; check the spelling, and if it is private", "runs/x", token=hub.token)


def test_a_private_model_needs_its_token(hub, folder, monkeypatch):
    hub.private.add(NAME)
    refused("if it is private pass its token, set HF_TOKEN or log in", NAME)
    refused("the Hub .* refused the request .*pass its token", NAME, token="hf_wrong")
    assert same(resolve(NAME, token=hub.token), folder)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert same(resolve(NAME), folder)


def test_the_error_of_a_gated_model_gives_the_page_of_its_terms(hub, folder):
    hub.gated.add(NAME)
    refused(f"gated; accept its terms at {hub.url}/{NAME}", NAME)
    assert same(resolve(NAME, token=hub.token), folder)


def test_other_origins_do_not_receive_the_token(hub):
    resolve(NAME, token=hub.token)
    elsewhere = [request for request in hub.log if request.path.startswith("/large/")]
    assert elsewhere and all(request.token is None for request in elsewhere)
    assert all(request.token == hub.token for request in hub.log if request not in elsewhere)


@pytest.mark.parametrize("missing", ["config.json", "pytorch_model.bin"])
def test_a_repository_without_a_model_is_refused_before_a_download(hub, folder, missing):
    (folder / missing).unlink()
    expected = "expected config.json, and model.safetensors or pytorch_model.bin"
    if missing == "pytorch_model.bin":
        # The repository has TensorFlow's weights too.
        expected = "it contains TensorFlow weights; convert them with transformers 4"
    refused(f"not a DeBERTa on the Hub; {expected}", NAME)
    assert hub.fetched() == []


def test_another_kind_of_model_is_refused_before_its_weights_are_downloaded(hub, folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    refused("bert", NAME)
    assert "pytorch_model.bin" not in hub.fetched()


def test_a_model_config_of_microsoft_is_sufficient(hub, folder):
    (folder / "config.json").rename(folder / "model_config.json")
    assert "model_config.json" in names(resolve(NAME))


def test_a_broken_connection_is_resumed(hub, folder):
    hub.cut("pytorch_model.bin", after=2 * CHUNK + 9)
    assert same(resolve(NAME), folder)
    assert hub.ranges("pytorch_model.bin") == [None, f"bytes={2 * CHUNK}-"]


def test_a_call_after_a_failed_one_resumes_its_download(hub, folder):
    hub.cut("pytorch_model.bin", after=2 * CHUNK + 9, then=lambda: setattr(hub, "down", 503))
    refused("was interrupted .*the same call resumes the download", NAME)
    hub.down = None
    hub.log.clear()
    assert same(resolve(NAME), folder)
    assert hub.ranges("pytorch_model.bin") == [f"bytes={2 * CHUNK}-"]
    assert hub.ranges("spm.model") == []


def test_a_call_after_a_killed_process_resumes_its_download(hub, folder, tmp_path):
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


def test_simultaneous_calls_download_a_large_file_once(hub, folder):
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(resolve(NAME))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 3 and len(set(paths)) == 1 and same(paths[0], folder)
    assert len(hub.ranges("pytorch_model.bin")) == 1


def test_content_with_another_sha256_is_deleted(hub, folder):
    hub.garbled.add("pytorch_model.bin")
    refused("pytorch_model.bin has sha256 .*the Hub lists .*was deleted", NAME)
    hub.garbled.clear()
    assert same(resolve(NAME), folder)
    assert hub.ranges("pytorch_model.bin") == [None, None]


@pytest.mark.parametrize("content", [b"?" * SIZE, b"?" * (SIZE + 1), b"?" * 9])
def test_a_corrupt_partial_file_does_no_harm(hub, folder, tmp_path, content):
    sha256 = hashlib.sha256((folder / "pytorch_model.bin").read_bytes()).hexdigest()
    blobs = tmp_path / "cache" / "models--me--tiny" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{sha256}.partial").write_bytes(content)
    if len(content) <= SIZE:
        refused("was deleted", NAME)
    assert same(resolve(NAME), folder)


def test_a_full_disk_is_detected_before_the_download(hub, folder, monkeypatch):
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(2, 1, SIZE - 1))
        refused("is full .*pytorch_model.bin needs 300,000 more bytes, 299,999 are free.*HF_HUB_CACHE", NAME)
    assert "pytorch_model.bin" not in hub.fetched()
    assert same(resolve(NAME), folder)


def test_a_disk_that_fills_up_and_a_read_only_cache_are_reported(hub, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("deberta_jax.hub.download.os.replace", full)
    code = errno.ENOSPC
    refused("the disk of the cache .* is full .*free some space, or set HF_HUB_CACHE", NAME)
    code = errno.EROFS
    refused("the cache .* cannot be used .*Read-only.*set HF_HUB_CACHE", NAME)


def test_without_a_network_the_cache_is_used_and_a_warning_logged(hub, folder, monkeypatch, caplog):
    path = resolve(NAME)
    monkeypatch.setenv("HF_ENDPOINT", closed_port())
    with caplog.at_level(logging.WARNING, LOGGER):
        assert resolve(NAME) == path
        assert resolve(NAME, revision=path.name) == path
    records = [record for record in caplog.records if record.name == LOGGER]
    assert len(records) == 2 and "cannot be reached; using the cache" in records[0].message
    problem = "not complete in the cache .* cannot be reached .*go online, or name a folder"
    assert refused(problem, NAME, generator=True, error=GeneratorNotFound).offline
    refused("at v1: no such folder here, not complete in the cache", NAME, revision="v1")


# A login portal of a network answers every request with 200.
@pytest.mark.parametrize("status", [200, 429, 500, 503])
def test_a_hub_that_is_down_is_treated_as_unreachable(hub, status, caplog):
    path = resolve(NAME)
    hub.down = status
    assert resolve(NAME) == path
    assert "using the cache" in caplog.text
    refused("runs/x: no such folder here, not complete in the cache .* cannot be reached", "runs/x")


def test_an_address_that_is_not_a_hub_is_reported(hub):
    hub.down = 404
    refused("the Hub .* refused the request .*404.*correct HF_ENDPOINT", NAME)


def test_a_hub_that_does_not_respond_in_time_is_treated_as_unreachable(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        refused("cannot be reached .*timed out", NAME)


def test_offline_mode_sends_no_request(hub, monkeypatch, caplog):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("not complete in the cache .*HF_HUB_OFFLINE is set.*go online, or name a folder", NAME)
    assert hub.log == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    path = resolve(NAME)
    hub.log.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve(NAME) == path
    assert hub.log == [] and "using the cache" not in caplog.text


def test_an_incomplete_model_in_the_cache_is_not_used(hub, monkeypatch):
    hub.cut("pytorch_model.bin", after=10, then=lambda: setattr(hub, "down", 503))
    refused("was interrupted", NAME)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("not complete in the cache", NAME)


def test_importing_the_module_does_not_import_huggingface_hub():
    code = "import deberta_jax.hub.download, sys; assert 'huggingface_hub' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("digest", ["../../../x", "", "0" * 63, "G" * 64, "/etc/passwd", None])
def test_a_digest_that_is_not_one_is_refused(digest, hub, folder, monkeypatch):
    import huggingface_hub

    original = huggingface_hub.HfApi.model_info

    def model_info(*arguments, **options):
        info = original(*arguments, **options)
        for file in info.siblings:
            if file.lfs:
                file.lfs.sha256 = digest
        return info

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    refused("me/tiny: the Hub .* lists a wrong sha256 for .*; check HF_ENDPOINT", NAME)


def test_a_commit_that_is_not_one_is_refused(hub, folder, monkeypatch):
    import huggingface_hub

    original = huggingface_hub.HfApi.model_info

    def model_info(*arguments, **options):
        info = original(*arguments, **options)
        info.sha = "../../x"
        return info

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    refused("me/tiny: the Hub .* lists '../../x' as the commit", NAME)


@pytest.mark.parametrize("file", ["../x.bin", "/x.bin", "", "a\\x.bin", "sub/x.bin", 3])
def test_an_index_of_the_hub_that_names_other_folders_is_refused(file, hub, folder):
    (folder / "pytorch_model.bin").unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    refused("expected a weight_map from tensors to names of files in the same folder", NAME)


@pytest.mark.parametrize("from_environment", [True, False])
def test_a_token_is_not_sent_unencrypted_to_another_machine(from_environment, monkeypatch, hub):
    requests = []

    def list_files(repository):
        requests.append(repository.endpoint)
        raise ConnectionError("no network")

    monkeypatch.setattr("deberta_jax.hub.download._list_files", list_files)
    if from_environment:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
    token = None if from_environment else "hf_secret"
    for endpoint in (
        "http://hub.example",
        "HTTP://hub.example/",
        "http://10.0.0.1:8080",
        "http://127.0.0.1.hub.example",
    ):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        refused("would receive your token unencrypted; use https, or remove the token", NAME, token=token)
    assert requests == []
    monkeypatch.setenv("HF_ENDPOINT", "http://[hub")
    refused("HF_ENDPOINT is not a URL", NAME)
    for endpoint in ("https://hub.example", "http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1"):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        refused("cannot be reached", NAME, token=token)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    refused("cannot be reached", NAME)
    assert len(requests) == 5
