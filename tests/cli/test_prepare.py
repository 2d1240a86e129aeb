"""`deberta-jax prepare`: shards, messages, and the folders that it leaves."""

import os
import re

import pytest
from toy_tokenizers import write_unigram

from deberta_jax.cli.main import main
from deberta_jax.data.manifest import read_manifest


@pytest.fixture
def tokenizer(tmp_path):
    return write_unigram(tmp_path)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"Document {i}: she sells sea shells." for i in range(200)), encoding="utf-8")
    return path


@pytest.fixture
def prepare(text, tokenizer, tmp_path, capsys):
    """Run the command; returns the exit code, the output and the errors."""

    def run(*options, folder=tmp_path / "shards"):
        named = ["--files", str(text), "--tokenizer", str(tokenizer.path), "--output", str(folder), "--length", "64"]
        code = main(["prepare", *named, *options])
        return code, *capsys.readouterr()

    return run


def test_text_becomes_shards_and_the_next_command_is_printed(prepare, tokenizer, tmp_path):
    code, out, err = prepare("--shards", "2")
    manifest = read_manifest(tmp_path / "shards", tokenizer.sha256)
    assert (code, err) == (0, "")
    assert (manifest.documents, manifest.length, len(manifest.shards)) == (200, 64, 2)
    first, last = out.splitlines()
    assert f"200 documents, {manifest.tokens:,} tokens in {manifest.sequences} sequences of 64, 2 shards" in first
    assert "tokens/s" in first
    assert last == (
        f"next: deberta-jax pretrain v3-base --data.shards {tmp_path / 'shards'} --tokenizer {tokenizer.path} "
        "--data.length 64"
    )


def test_the_same_command_repairs_a_truncated_shard(prepare, tmp_path):
    prepare("--shards", "2")
    shard = tmp_path / "shards" / read_manifest(tmp_path / "shards").shards[0].name
    size = shard.stat().st_size
    os.truncate(shard, size // 2)
    assert prepare("--shards", "2")[0] == 0
    assert shard.stat().st_size == size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokenizer", "nowhere.model"], "nowhere.model: no tokenizer found"),
        (["--files", "nowhere.txt"], "nowhere.txt: no such file"),
        (["--files"], "no text files given; name files or patterns with --files"),
        (["--length", "4"], "length is 4; it must be at least 8"),
        (["--workers", "0"], "workers is 0; it must be at least 1"),
    ],
)
def test_a_rejected_command_prints_one_line_and_leaves_no_folder(prepare, tmp_path, options, message):
    code, out, err = prepare(*options, folder=tmp_path / "deep" / "shards")
    assert (code, out) == (2, "")
    assert err.startswith(f"deberta-jax prepare: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "deep").exists()


def test_a_scheduler_that_does_not_answer_is_reported_in_one_line(prepare):
    code, _, err = prepare("--scheduler", "nonsense")
    assert code == 2
    assert err.startswith("deberta-jax prepare: nonsense: cannot connect to a dask scheduler")
    assert err.count("\n") == 1


def test_an_output_that_cannot_be_a_folder_is_reported_in_one_line(prepare, text):
    for folder in ("/proc/nope", text / "shards"):
        code, _, err = prepare(folder=folder)
        assert code == 2
        assert err.startswith(f"deberta-jax prepare: {folder}: cannot create this folder (")
        assert err.count("\n") == 1


def test_the_text_options_define_the_documents_and_can_be_wrong(prepare, text, tmp_path):
    text.write_text("a shell\nsea shells\n\nshe sells\n")
    code, out, err = prepare("--document", "line")
    assert (code, err) == (0, "")
    assert "3 documents" in out
    code, _, err = prepare("--max-document-bytes", "5", folder=tmp_path / "b")
    assert code == 2
    assert f"{text} line 1, byte 0: a line of more than 5 bytes; fix the file, or increase max-document-bytes" in err
    text.with_suffix(".jsonl").write_text('{"content": "she sells"}\n')
    code, _, err = prepare("--files", str(text.with_suffix(".jsonl")), folder=tmp_path / "c")
    assert code == 2
    assert 'expected an object with a string in the field "text" (fields: content)' in err
    code, out, _ = prepare("--files", str(text.with_suffix(".jsonl")), "--text-field", "content", folder=tmp_path / "c")
    assert code == 0 and "1 documents" in out


def test_text_without_spaces_is_reported_in_one_line(prepare, text):
    text.write_text("\n\n".join("acgt" * 40 for _ in range(20)))
    code, out, err = prepare()
    assert (code, err) == (0, "")
    line = (
        r'text without spaces: 9\d% of the tokens; each of them is masked as a word \(docs/pretraining.md, "Masking"\)'
    )
    assert re.fullmatch(line, out.splitlines()[1])
