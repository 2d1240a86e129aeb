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

    Outputs are trees of arrays with an axis of tokens first.
    """
    chosen = owned([len(row.input_ids) for row in rows], limit)

    def join(*columns: np.ndarray) -> np.ndarray:
        return np.concatenate([x[which] for x, which in zip(columns, chosen, strict=True)])

    return Tokens(join(*(row.offsets for row in rows)), jax.tree.map(join, *(row.outputs for row in rows)))


def owned(lengths: Sequence[int], limit: int) -> list[Int[np.ndarray, "_"]]:
    """For each window of a text the places of those tokens that have most context there, each token in one window.

    Context is the number of tokens on the side where there are fewer, of the sides where the window is not the text's
    own end. `lengths` are those of the windows with their special tokens.
    """
    step = limit - 2 - stride_of(limit)
    sizes = [length - 2 for length in lengths]
    number = (len(sizes) - 1) * step + sizes[-1]
    most, window = np.full(number, -1), np.zeros(number, np.int64)
    for place, size in enumerate(sizes):
        inside = np.arange(size)
        left = inside if place > 0 else np.full(size, number)
        right = inside[::-1] if place < len(sizes) - 1 else np.full(size, number)
        context = np.minimum(left, right)
        its = slice(place * step, place * step + size)
        better = context > most[its]
        most[its] = np.where(better, context, most[its])
        window[its] = np.where(better, place, window[its])
    return [1 + np.flatnonzero(window == place) - place * step for place in range(len(sizes))]
