"""Commands of README and docs/tasks.md have the options that they name; the tables of docs are those of the code."""

import re
import shlex
from pathlib import Path

import pytest

from deberta_jax.cli import evaluate, finetune
from deberta_jax.cli.evaluate import EvaluateConfig
from deberta_jax.cli.main import main
from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.finetuning.recipes import LENGTHS, PUBLISHED
from deberta_jax.tasks.catalogue import ABOUT, TASKS

MODELS = "v1-base", "v1-large", "v1-xlarge", "v2-xlarge", "v2-xxlarge", "v3-large"
ROOT = Path(__file__).resolve().parents[2]
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/tasks.md")}


def commands(text):
    whole = text.replace("\\\n", " ")
    return re.findall(r"^deberta-jax ((?:finetune|evaluate) (?!--help).*)$", whole, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_documented_commands_are_understood(page, monkeypatch):
    seen = []

    def fine_tuned(config: FinetuneConfig) -> None:
        seen.append(config.task)

    def evaluated(config: EvaluateConfig) -> None:
        seen.append(config.task)

    monkeypatch.setattr(finetune, "run", fine_tuned)
    monkeypatch.setattr(evaluate, "run", evaluated)
    found = commands(PAGES[page])
    assert found
    for command in found:
        assert main(shlex.split(command, comments=True)) == 0, command
    assert len(seen) == len(found)


def test_every_task_has_a_row_and_every_option_exists():
    page = PAGES["docs/tasks.md"]
    for name in TASKS:
        assert f"`{name}`" in page
    assert f"{len(TASKS)} tasks are read" in PAGES["README.md"]
    assert ABOUT.keys() - TASKS.keys() == {"generic"}


def test_published_settings_of_the_page_are_those_of_the_code():
    page = PAGES["docs/tasks.md"]
    for name, its in PUBLISHED.items():
        (row,) = re.findall(rf"^\| `{name}` \({LENGTHS[name]}\) \|(.*)\|$", page, re.MULTILINE)
        cells = [cell.strip() for cell in row.split("|")]
        for cell, model in zip(cells, MODELS, strict=True):
            if model not in its:
                assert cell == "–"
                continue
            epochs, warmup, rate, batch, dropout = cell.split(" / ")
            warmup = float(warmup.rstrip("%")) / 100 if warmup.endswith("%") else float(warmup)
            assert (int(epochs), warmup, float(rate), int(batch), float(dropout)) == pytest.approx(tuple(its[model]))
