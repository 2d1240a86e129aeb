"""A small model, and one finished run per kind of task."""

import contextlib
import functools
import io
from pathlib import Path
from typing import NamedTuple

import jax
import pytest
from separable import OPTIONS, SEPARABLE, Separable
from toy_runs import CONFIG, call, two_devices

from deberta_jax.finetuning import bootstrap
from deberta_jax.hub.pretrained import save_pretrained
from deberta_jax.model.deberta import Deberta


class Prepared(NamedTuple):
    """A data set in a folder, and the words of a command that trains on it."""

    root: Path
    separable: Separable
    words: list


class Finished(NamedTuple):
    """A finished run: its folder, its data set, the words of its command, and what it printed."""

    folder: Path
    separable: Separable
    words: list
    output: str


@pytest.fixture(autouse=True)
def few_sets(monkeypatch):
    """Confidence intervals of runs are drawn from few sets: scoring the usual number takes longer than training."""
    monkeypatch.setattr(bootstrap, "_SETS", 20)


@pytest.fixture(autouse=True)
def few_devices():
    """Runs have two devices: meshes of eight are tested with the models and the training loop."""
    with two_devices():
        yield


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("pretrained")
    save_pretrained(folder, jax.jit(lambda key: Deberta(CONFIG, key=key))(jax.random.key(0)), tokenizer)
    return folder


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, pretrained):
    """A function that writes the data set of a kind, once."""

    @functools.cache
    def prepare(kind):
        root = tmp_path_factory.mktemp(kind)
        separable = SEPARABLE[kind](root)
        data = ("--data", root / separable.data, "--model", pretrained)
        return Prepared(root, separable, [separable.task, *data, *OPTIONS, *separable.options])

    return prepare


@pytest.fixture(scope="session")
def finished(prepared):
    """A function that returns the finished run of a kind; each kind is trained once per worker."""

    @functools.cache
    def run(kind):
        root, separable, words = prepared(kind)
        return Finished(root / "run", separable, words, _output_of("finetune", *words, "--folder", root / "run"))

    return run


def _output_of(*words):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert call(*words) == 0
    return output.getvalue()
