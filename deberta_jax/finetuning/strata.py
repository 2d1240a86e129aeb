"""The strata of examples, which a split distributes evenly: labels, or quantiles of numbers."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

# Fewer quantiles for fewer examples: one for each `_PER_QUANTILE`.
_QUANTILES, _PER_QUANTILE = 10, 5
# The stratum of an example without any label.
_NONE = ""


class Stratification(NamedTuple):
    """What is distributed evenly, in words, and the strata of each example."""

    name: str
    strata: Callable[[Sequence[Any]], list[tuple[Hashable, ...]]]


def _one(examples: Sequence[Any]) -> list[tuple[Hashable, ...]]:
    return [(_NONE,)] * len(examples)


def _labels(examples: Sequence[Any]) -> list[tuple[Hashable, ...]]:
    """The label, or each of several labels or tags."""
    answers = (example.answer for example in examples)
    return [tuple(dict.fromkeys(answer)) or (_NONE,) if isinstance(answer, tuple) else (answer,) for answer in answers]


def _quantiles(examples: Sequence[Any]) -> list[tuple[Hashable, ...]]:
    """The quantile of the number, or of each number."""
    values = np.asarray([np.atleast_1d(example.answer) for example in examples], np.float64)
    count = int(np.clip(len(values) // _PER_QUANTILE, 1, _QUANTILES))
    columns = []
    for column in values.T:
        edges = np.quantile(column, np.arange(1, count) / count)
        columns.append(np.searchsorted(edges, column, side="right").tolist())
    return [tuple(enumerate(row)) for row in zip(*columns, strict=True)]


def _answerable(examples: Sequence[Any]) -> list[tuple[Hashable, ...]]:
    return [(bool(example.answer),) for example in examples]


NOT_STRATIFIED = Stratification("", _one)
BY_LABEL = Stratification("label", _labels)
BY_TAG = Stratification("tag", _labels)
BY_QUANTILE = Stratification("quantile", _quantiles)
BY_ANSWERABLE = Stratification("whether there is an answer", _answerable)
