"""Data with escape sequences and markup: harmless on a terminal, exact in a file or a pipe."""

import io
import json
import os
import pty

import jax.numpy as jnp
import pytest
from rich.console import Console

from deberta_jax.cli.main import main
from deberta_jax.printing import printable
from deberta_jax.progress import progress_bar
from deberta_jax.training.recorder import Recorder

DATA = "[MASK] \x1b[31m[red]a\x9b2J[/red]\u202e :smile:"


@pytest.fixture
def predict(masked_lm, tmp_path, monkeypatch):
    """Run `predict` on one text with standard output at a terminal or a file; returns what it wrote."""
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"text": DATA}) + "\n")

    def run(descriptor):
        before = os.dup(1)
        os.dup2(descriptor, 1)
        try:
            assert main(["predict", masked_lm, "--task", "fill-mask", "--input", str(path)]) == 0
        finally:
            os.dup2(before, 1)
            os.close(before)

    return run


def test_predictions_are_exact_in_a_file_and_printable_on_a_terminal(predict, tmp_path):
    with open(tmp_path / "out.jsonl", "wb") as file:
        predict(file.fileno())
    exact = (tmp_path / "out.jsonl").read_text()
    assert "\x9b" in exact and "\u202e" in exact
    controller, terminal = pty.openpty()
    predict(terminal)
    shown = os.read(controller, 100_000).decode().replace("\r\n", "\n")
    os.close(controller)
    os.close(terminal)
    assert shown == printable(exact) and shown.rstrip("\n").isprintable()
    assert json.loads(shown) == json.loads(exact)
    assert json.loads(shown)["text"] == DATA


def test_an_error_that_quotes_data_is_one_printable_line(tmp_path, capsys):
    name = str(tmp_path / f"no\n{DATA}")
    assert main(["tokenizer", "--files", name]) == 2
    error = capsys.readouterr().err
    assert error.startswith("deberta-jax tokenizer: ") and error.removesuffix("\n").isprintable()
    assert "[red]a" in error


def test_a_folder_with_control_characters_is_printed_with_codes(tmp_path, capsys):
    from toy_tokenizers import TEXT

    (tmp_path / "text.txt").write_text("\n\n".join([TEXT] * 10))
    output = tmp_path / "a\x1b[2J.model"
    files = ["--files", str(tmp_path / "text.txt")]
    assert main(["tokenizer", *files, "--vocabulary", "330", "--output", str(output)]) == 0
    assert output.exists()
    out = capsys.readouterr().out
    assert "a\\u001b[2J.model: 331 tokens" in out and "\x1b" not in out


def test_a_line_above_the_progress_bar_is_no_markup(tmp_path, capsys):
    recorder = Recorder(tmp_path / "run", 1, 0, {})
    recorder.print(DATA)
    recorder.evaluation(1, {"[red]f1[/red] :smile:": jnp.float32(1).item()})
    recorder.close()
    first, second = capsys.readouterr().err.splitlines()
    assert first == printable(DATA)
    assert second == "step 1: held-out [red]f1[/red] :smile: 1"


def test_the_label_of_a_progress_bar_is_no_markup(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    monkeypatch.setattr("deberta_jax.progress.Console", lambda **options: console)
    with progress_bar("[red]texts[/red]") as progress:
        progress(1, 2)
    assert "[red]texts[/red]" in console.file.getvalue()
