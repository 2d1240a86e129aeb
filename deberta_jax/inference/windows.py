"""Texts longer than a model's rows: windows that overlap, and one reading of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from deberta_jax.inference.rows import Row

# How much of a row is in the next one, too.
SHARED = 4


class Tokens(NamedTuple):
    """All tokens of a text of any length, without special ones, and what a program gave for each."""

    offsets: Int[np.ndarray, "T 2"]
    outputs: Any


def stride_of(limit: int) -> int:
    """How many tokens two windows share."""
    return limit // SHARED


def stitched(rows: Sequence[Row], limit: int) -> Tokens:
    """A text's tokens out of its windows, each from that in which it has most context.

    Context is the number of tokens on the side where there are fewer, of the sides where the window is not the text's
    own end. Outputs are trees of arrays with an axis of tokens first.
    """
    step = limit - 2 - stride_of(limit)
    sizes = [len(row.input_ids) - 2 for row in rows]
    number = (len(rows) - 1) * step + sizes[-1]
    most, window = np.full(number, -1), np.zeros(number, np.int64)
    for place, size in enumerate(sizes):
        inside = np.arange(size)
        left = inside if place > 0 else np.full(size, number)
        right = inside[::-1] if place < len(rows) - 1 else np.full(size, number)
        context = np.minimum(left, right)
        its = slice(place * step, place * step + size)
        better = context > most[its]
        most[its] = np.where(better, context, most[its])
        window[its] = np.where(better, place, window[its])
    chosen = [1 + np.flatnonzero(window == place) - place * step for place in range(len(rows))]

    def join(*columns: np.ndarray) -> np.ndarray:
        return np.concatenate([x[which] for x, which in zip(columns, chosen, strict=True)])

    return Tokens(join(*(row.offsets for row in rows)), jax.tree.map(join, *(row.outputs for row in rows)))
