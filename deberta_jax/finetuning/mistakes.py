"""Rows of the table of mistakes in a report."""

import math
from typing import NamedTuple

from deberta_jax.tasks.examples import TextExample


class Mistake(NamedTuple):
    """A labelled example and its prediction in words; `severity` is 0 if the prediction is correct."""

    severity: float
    true: str
    predicted: str
    text: str


def log_loss(probability: float) -> float:
    """Minus the logarithm of a probability, bounded for probability 0."""
    return -math.log(max(probability, 1e-12))


def joined(first: str, second: str) -> str:
    """Two texts that are read together."""
    return f"{first} ⟷ {second}"


def text_of(example: TextExample) -> str:
    """The text or the text pair of an example."""
    return example.text if example.pair is None else joined(example.text, example.pair)
