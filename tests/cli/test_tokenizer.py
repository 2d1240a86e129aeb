"""`deberta-jax tokenizer`: the vocabulary, messages, and the files that it leaves."""

import json
import shutil
import subprocess
import sys

import pytest
from toy_tokenizers import TEXT

from deberta_jax.cli.main import main
from deberta_jax.files import lock_output
from deberta_jax.tokenizers.tokenizer import Tokenizer


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join([TEXT] * 10), encoding="utf-8")
    return path


@pytest.fixture
def train(text, tmp_path, capsys):
    """Run the command; returns the exit code, the output and the errors."""

    def run(*options, output=tmp_path / "spm.model"):
        code = main(["tokenizer", "--files", str(text), "--vocabulary", "330", "--output", str(output), *options])
        return code, *capsys.readouterr()

    return run


def test_text_becomes_a_vocabulary_and_the_next_command_is_printed(train, text, tmp_path):
    code, out, err = train()
    assert (code, err) == (0, "")
    tokenizer = Tokenizer(tmp_path / "spm.model")
    assert (tokenizer.vocab_size, tokenizer.special_ids) == (331, (0, 1, 2, 3, 330))
    first, last = out.splitlines()
    assert first.startswith(f"{tmp_path / 'spm.model'}: 331 tokens (")
    assert last == f"next: deberta-jax prepare --files {text} --tokenizer {tmp_path / 'spm.model'}"


def test_an_existing_file_is_not_overwritten(train, tmp_path):
    (tmp_path / "spm.model").write_text("precious")
    code, _, err = train()
    assert code == 2
    assert err.endswith("spm.model: this file exists; delete it, or name another file with --output\n")
    assert (tmp_path / "spm.model").read_text() == "precious"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--files"], "no text files given; name files or patterns with --files"),
        (["--files", "nowhere.txt"], "nowhere.txt: no such file"),
        (["--vocabulary", "5000"], "cannot train a vocabulary of 5000 pieces: Vocabulary size too high"),
    ],
)
def test_a_rejected_command_prints_one_line_and_leaves_no_folder(train, tmp_path, options, message):
    code, out, err = train(*options, output=tmp_path / "deep" / "new" / "spm.model")
    assert (code, out) == (2, "")
    assert err.startswith("deberta-jax tokenizer: ") and message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "deep").exists()


def test_unreadable_text_is_reported_with_its_position(train, text):
    text.write_bytes(text.read_bytes() + b"\n\ncaf\xe9 au lait\n")
    code, _, err = train()
    assert code == 2
    assert f"deberta-jax tokenizer: {text} byte " in err and "not UTF-8" in err


def test_a_path_that_cannot_be_written_is_reported_in_one_line(train):
    for output, reason in (("/proc/nope", "cannot be written"), ("/proc/nope/a.model", "cannot create this folder")):
        code, _, err = train(output=output)
        assert code == 2
        assert err.startswith(f"deberta-jax tokenizer: /proc/nope: {reason} (")
        assert err.count("\n") == 1


def test_the_file_depends_only_on_the_text_and_the_options(text, tmp_path):
    """Not on paths, the process or the time; the file contains no path."""
    words = ["tokenizer", "--vocabulary", "330", "--files"]
    other = tmp_path / "elsewhere" / "moved.txt"
    other.parent.mkdir()
    shutil.copy(text, other)
    assert main([*words, str(text), "--output", str(tmp_path / "a.model")]) == 0
    program = "import sys; from deberta_jax.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *words, "moved.txt", "--output", "deep/b.model"]
    subprocess.run(command, cwd=other.parent, check=True, capture_output=True)
    content = (tmp_path / "a.model").read_bytes()
    assert (other.parent / "deep" / "b.model").read_bytes() == content
    assert not any(part.encode() in content for part in (str(tmp_path), "a.model", "moved", "text.txt"))


def test_of_two_commands_that_write_one_file_one_wins_and_the_other_says_so(train, tmp_path):
    path = tmp_path / "new" / "spm.model"
    with lock_output(path, ".training"):
        code, _, err = train(output=path)
        assert code == 2
        assert err == (
            f"deberta-jax tokenizer: {path}: another process is writing this; wait for it, or choose another output\n"
        )
    assert train(output=path)[0] == 0
    assert [file.name for file in path.parent.iterdir()] == ["spm.model"]


def test_a_file_that_another_command_wrote_meanwhile_is_not_overwritten(train, tmp_path, monkeypatch):
    path = tmp_path / "spm.model"
    monkeypatch.setattr("deberta_jax.cli.tokenizer.find_files", lambda *_: path.write_text("another"))
    code, _, err = train()
    assert code == 2 and "this file exists" in err
    assert path.read_text() == "another"


def test_the_text_options_are_those_of_the_next_command(train, text, tmp_path):
    (tmp_path / "folder").mkdir()
    line = json.dumps({"raw content": TEXT})
    (tmp_path / "folder" / "part-0").write_text(f"{line}\n" * 10)
    code, out, err = train("--files", str(tmp_path / "folder"), "--text-field", "raw content")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].endswith("spm.model --text-field 'raw content'")
    code, _, err = train("--files", str(tmp_path / "folder"), output=tmp_path / "b.model")
    assert code == 2 and "(fields: raw content)" in err
