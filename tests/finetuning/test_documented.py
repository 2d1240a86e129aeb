"""The commands in README.md and docs/tasks.md are valid, and the tables of docs/tasks.md agree with the code."""

import re
import shlex
from pathlib import Path

import pytest

from deberta_jax.cli import evaluate, finetune
from deberta_jax.cli.evaluate_options import EvaluateConfig
from deberta_jax.cli.main import main
from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.finetuning.published import GRIDS, MAX_LENGTHS, MODELS, PUBLISHED
from deberta_jax.tasks.catalogue import DESCRIPTIONS, TASKS

ROOT = Path(__file__).resolve().parents[2]
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/tasks.md", "docs/tables.md")}


def commands(text):
    joined = text.replace("\\\n", " ")
    return re.findall(r"^deberta-jax ((?:finetune|evaluate) (?!--help).*)$", joined, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_documented_commands_are_valid(page, monkeypatch):
    configs = []

    def record_finetune(config: FinetuneConfig) -> None:
        configs.append(config)

    def record_evaluate(config: EvaluateConfig) -> None:
        configs.append(config)

    monkeypatch.setattr(finetune, "run", record_finetune)
    monkeypatch.setattr(evaluate, "run", record_evaluate)
    documented = commands(PAGES[page])
    assert documented
    for command in documented:
        assert main(shlex.split(command, comments=True)) == 0, command
    assert len(configs) == len(documented)


def test_every_task_is_documented():
    page = PAGES["docs/tasks.md"]
    for name in TASKS:
        assert f"`{name}`" in page
    assert f"{len(TASKS)} tasks" in PAGES["README.md"]
    assert DESCRIPTIONS.keys() - TASKS.keys() == {"generic"}


def test_documented_settings_are_those_of_the_code():
    page = PAGES["docs/tasks.md"]
    for name, settings in PUBLISHED.items():
        (row,) = re.findall(rf"^\| `{name}` \({MAX_LENGTHS[name]}\) \|(.*)\|$", page, re.MULTILINE)
        cells = [cell.strip() for cell in row.split("|")]
        for cell, model in zip(cells, MODELS, strict=True):
            if model not in settings:
                assert cell == "–"
                continue
            epochs, warmup, rate, batch, dropout = cell.split(" / ")
            warmup = float(warmup.rstrip("%")) / 100 if warmup.endswith("%") else float(warmup)
            values = (int(epochs), warmup, float(rate), int(batch), float(dropout))
            assert values == pytest.approx(tuple(settings[model]))


def test_the_documented_grid_is_that_of_the_code():
    page, grid = PAGES["docs/tasks.md"], GRIDS["v2-xxlarge"]
    rows = {
        name: re.findall(r"[\d.e-]+", re.findall(rf"^\| {name} \| ([^|]*) \|", page, re.MULTILINE)[0])
        for name in ("learning rate", "batch size", "warm-up steps")
    }
    assert tuple(map(float, rows["learning rate"])) == grid.learning_rates
    assert tuple(map(int, rows["batch size"])) == grid.batch_size
    assert tuple(map(int, rows["warm-up steps"])) == grid.warmup
