"""The examples of README run as they are written, with a local mock hub and toy models in released forms."""

import json
import re
import shlex
from pathlib import Path

import pytest
from mock_hub import serving
from toy_folders import released

from deberta_jax.cli.main import main

README = Path(__file__).resolve().parents[2] / "README.md"


def block(name, language):
    text = README.read_text(encoding="utf-8")
    return re.search(rf"^<!-- {name} -->\n```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return released(tmp_path_factory.mktemp("models"))


@pytest.fixture
def hub(models, tmp_path, monkeypatch):
    with serving(models) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        (tmp_path / "work").mkdir()
        monkeypatch.chdir(tmp_path / "work")
        yield hub


def test_the_code_that_uses_released_models_runs(hub, capsys):
    exec(compile(block("released", "python"), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.count("%  ") == 5
    assert "(2, 32)" in printed
    written = {path.name for path in Path("my-model").iterdir()}
    assert written >= {"config.json", "model.safetensors", "vocab.json", "merges.txt", "tokenizer.json"}


def test_the_commands_that_use_released_models_run(hub, capsys):
    Path("texts.jsonl").write_text('{"text": "The match ended two all."}\n{"text": "They vote today."}\n')
    for line in block("released commands", "bash").splitlines():
        program, *words = shlex.split(line)
        assert program == "deberta-jax"
        assert main(words) == 0, capsys.readouterr().err
    assert len(Path("labels.jsonl").read_text().splitlines()) == 2
    assert json.loads(Path("my-v2/config.json").read_text())["architectures"] == ["DebertaV2ForMaskedLM"]
