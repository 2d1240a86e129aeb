"""The tables of docs/tasks.md agree with the code."""

import re

import pytest
from documents import read_page

from deberta_jax.finetuning.published import GRIDS, MAX_LENGTHS, MODELS, PUBLISHED
from deberta_jax.tasks.catalogue import DESCRIPTIONS, TASKS

PAGES = {name: read_page(name) for name in ("README.md", "docs/tasks.md")}


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
