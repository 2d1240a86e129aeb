"""A small model, and one finished run per kind of task."""

import contextlib
import io
from typing import NamedTuple

import jax
import pytest
from separable import OPTIONS, SEPARABLE, Separable
from toy_runs import CONFIG, call

from deberta_jax.hub.pretrained import save_pretrained
from deberta_jax.model.deberta import Deberta


class Finished(NamedTuple):
    """A finished run: its folder, its data set, the words of its command, and what it printed."""

    folder: object
    separable: Separable
    words: list
    output: str


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("pretrained")
    save_pretrained(folder, jax.jit(lambda key: Deberta(CONFIG, key=key))(jax.random.key(0)), tokenizer)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory, pretrained):
    """A function that returns the finished run of a kind; each kind is trained once."""
    runs = {}

    def run(kind):
        if kind not in runs:
            folder = tmp_path_factory.mktemp(kind)
            separable = SEPARABLE[kind](folder)
            data = ("--data", folder / separable.data, "--model", pretrained)
            words = [separable.task, *data, *separable.options, *OPTIONS]
            runs[kind] = Finished(
                folder / "run", separable, words, _output_of("finetune", *words, "--folder", folder / "run")
            )
        return runs[kind]

    return run


def _output_of(*words):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert call(*words) == 0
    return output.getvalue()
