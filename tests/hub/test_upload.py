"""Uploads to a local mock hub: what is uploaded, what is refused before, and the model card."""

import dataclasses
import json
import re
import socket

import numpy as np
import pytest
import yaml
from toy_folders import READING, toy_model
from toy_runs import call

from deberta_jax.errors import InputError
from deberta_jax.hub.card import Part, card, escape, table, write_card, write_minimal_card
from deberta_jax.hub.pretrained import from_pretrained, save_pretrained
from deberta_jax.hub.upload import check_upload, upload_files, upload_folder

# huggingface_hub calls httpx in a deprecated way where it uploads large files without xet.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def folder(tmp_path, tokenizer):
    """A saved model, beside files that must stay on this machine."""
    folder = tmp_path / "home" / "model"
    # transformers writes the folder that a model was loaded from into its config.
    config = dataclasses.replace(READING, extra={"_name_or_path": "me/base", "cache": "/home/someone/cache"})
    save_pretrained(folder, toy_model(config), tokenizer)
    for name in ("train.csv", "notes.txt", ".lock", "optimizer.pt", "train.json"):
        (folder / name).write_text("secret")
    return folder


def test_a_folder_is_uploaded_in_one_commit_and_loads_again(writable_hub, folder, tmp_path, monkeypatch):
    write_minimal_card(folder)
    check_upload("me/toy")
    assert writable_hub.posted == []
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert upload_folder(folder, "me/toy") == f"{writable_hub.url}/me/toy"
    repository = writable_hub.repositories["me/toy@main"]
    expected = {"README.md", "config.json", "model.safetensors", "spm.model", "tokenizer_config.json"}
    uploaded = {path.name for path in repository.iterdir()}
    assert expected <= uploaded and not uploaded & {"train.csv", "notes.txt", ".lock", "optimizer.pt", "train.json"}
    assert writable_hub.private == {"me/toy"}
    assert len([path for path in writable_hub.posted if "/commit/" in path]) == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    model, _ = from_pretrained("me/toy", "masked_lm")
    expected_model, _ = from_pretrained(folder, "masked_lm")
    tables = (each.deberta.embeddings.word.embedding[...] for each in (model, expected_model))
    np.testing.assert_array_equal(*map(np.asarray, tables))


def test_paths_of_this_machine_are_removed_from_the_uploaded_files(writable_hub, folder):
    upload_folder(folder, "me/toy")
    repository = writable_hub.repositories["me/toy@main"]
    config = json.loads((repository / "config.json").read_text())
    assert "_name_or_path" not in config and "cache" not in config
    assert config == {
        key: value
        for key, value in json.loads((folder / "config.json").read_text()).items()
        if key not in ("_name_or_path", "cache")
    }
    for path in repository.iterdir():
        assert str(folder.parent).encode() not in path.read_bytes()
        assert b"secret" not in path.read_bytes()


def test_a_public_repository_and_a_second_upload(writable_hub, folder):
    upload_folder(folder, "team/toy", public=True)
    assert not writable_hub.private
    (folder / "README.md").write_text("---\nlicense: mit\n---\nnew\n")
    upload_folder(folder, "team/toy")
    assert (writable_hub.repositories["team/toy@main"] / "README.md").read_text().endswith("new\n")
    assert not writable_hub.private


def refused(match, name="me/toy"):
    with pytest.raises(InputError, match=match) as raised:
        check_upload(name)
    assert "\n" not in str(raised.value)
    assert "hf_" not in str(raised.value)


def test_a_name_that_is_not_a_repository_is_refused(writable_hub):
    for name in ("toy", "a/b/c", "me/", "/toy", "me/..", "me/to y"):
        refused(f"{re.escape(repr(name))} is not a repository of the Hub; write owner/name", name)
    assert not writable_hub.log


def test_a_missing_or_wrong_token_is_refused(writable_hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused("me/toy: the Hub http.* refused the token .*; set another HF_TOKEN")
    monkeypatch.delenv("HF_TOKEN")
    refused("me/toy: no token of the Hub; set HF_TOKEN, or log in with `hf auth login`")


def test_a_token_that_cannot_write_is_refused(writable_hub):
    writable_hub.role = "read"
    refused(f"your token can read, but not write; create one with the role write at {writable_hub.url}/settings/tokens")
    writable_hub.role = "fineGrained"
    refused("your token can read, but not write")
    writable_hub.scopes = [{"entity": {"type": "user", "name": "me"}, "permissions": ["repo.content.read"]}]
    refused("your token can read, but not write")
    writable_hub.scopes[0]["permissions"] += ["repo.write"]
    check_upload("me/toy")
    refused("your token can read, but not write", "team/toy")


def test_another_owner_is_refused(writable_hub):
    refused("stranger/toy: your token cannot write for stranger, only for me, team; correct the name", "stranger/toy")
    refused("readers/toy: your token cannot write for readers", "readers/toy")
    check_upload("team/toy")


def test_a_hub_that_cannot_be_reached_is_refused(writable_hub, monkeypatch):
    writable_hub.down = 503
    refused("me/toy: the Hub http.* cannot be reached .*; go online, or omit the upload")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
    refused("cannot be reached")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("cannot upload while HF_HUB_OFFLINE is set")


def test_the_token_is_not_sent_unencrypted_to_another_machine(writable_hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://example.org")
    refused("would receive your token unencrypted")


def test_an_upload_that_fails_is_one_line_with_the_command_to_repeat(writable_hub, folder):
    writable_hub.read_only = True
    with pytest.raises(InputError, match="the upload to me/toy on the Hub .* failed") as raised:
        upload_folder(folder, "me/toy", public=True)
    assert str(raised.value).endswith(f"the folder is complete: `deberta-jax upload {folder} me/toy --public`")
    assert "\n" not in str(raised.value)


def test_an_incomplete_folder_is_refused(folder, tmp_path):
    for path, message in (
        (tmp_path / "none", "no such folder; name a model folder"),
        (tmp_path / "home", f"not a model folder with config.json and weights; name {folder}"),
        (tmp_path, "not a model folder with config.json and weights"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            upload_files(path)


def test_all_shards_are_uploaded_and_a_missing_one_is_named(tmp_path):
    save_pretrained(tmp_path, toy_model(READING), max_file_bytes=20_000)
    shards = sorted(path.name for path in tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert set(upload_files(tmp_path)) == {"config.json", "model.safetensors.index.json", *shards}
    (tmp_path / shards[1]).unlink()
    with pytest.raises(InputError, match=f"refers to {shards[1]}; restore the missing files"):
        upload_files(tmp_path)


def test_the_command_uploads_a_folder_and_writes_a_card_into_one_without(writable_hub, folder, capsys):
    assert call("upload", folder, "me/toy") == 0
    assert capsys.readouterr().out == f"uploaded to {writable_hub.url}/me/toy\n"
    card_text = (writable_hub.repositories["me/toy@main"] / "README.md").read_text()
    assert "2 layers of width 32" in card_text and "to be added" in card_text
    assert card_text == (folder / "README.md").read_text()
    assert call("upload", folder / "none", "me/toy") == 2
    assert "no such folder" in capsys.readouterr().err
    assert call("upload", folder, "stranger/toy") == 2
    assert "cannot write for stranger" in capsys.readouterr().err


def test_a_card_has_metadata_that_the_hub_reads_and_placeholders_for_the_licenses():
    text = card('a "title": #1', READING, [Part("Data", "x")], metadata={"base_model": "me/base"}, head="masked_lm")
    _, front, body = text.split("---", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "license": "unknown",
        "base_model": "me/base",
        "tags": ["deberta-v2", "deberta-jax"],
    }
    assert '# a "title": \\#1' in body and "## Data\n\nx\n" in body
    assert body.count("*to be added*") == 3 and 'from_pretrained("owner/name", "masked_lm")' in body
    assert re.search(r"deberta-jax \d", body) and re.search(r"jax \d+\.\d+", body)


def test_a_card_that_was_edited_is_not_written_again(tmp_path):
    text = card("first", READING, [], metadata={})
    path = write_card(tmp_path, text)
    assert path.read_text() == text
    write_card(tmp_path, text.replace("first", "second"))
    assert "# second" in path.read_text()
    path.write_text("my own text")
    write_card(tmp_path, text)
    assert path.read_text() == "my own text"


def test_text_in_a_card_is_one_line_without_markup():
    assert escape("a|b\n<script> *x* [l](u) _y_ `z` #") == r"a\|b \<script\> \*x\* \[l\](u) \_y\_ \`z\` \#"
    assert table(("a", "b"), [(1, "x|y")]).splitlines() == ["| a | b |", "| --- | --- |", r"| 1 | x\|y |"]
