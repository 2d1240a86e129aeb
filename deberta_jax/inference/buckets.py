"""How rows of any length become batches of a few shapes: sorted, grouped, padded."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from deberta_jax.errors import InputError

# Texts of a call that would not fill half a batch go in small ones, of so small a part: one text must not wait for
# the padding of hundreds.
SMALL = 16


@dataclasses.dataclass(frozen=True)
class Batching:
    """How much goes to the device at once, and how long rows may be.

    A batch holds about `batch_tokens` tokens, padding included. Rows are at most `max_length` tokens long, as many as
    the model's `max_position_embeddings` by default; a model without absolute positions takes more. Of a stream
    `chunk` examples are tokenised, sorted and held at a time.
    """

    batch_tokens: int = 4096
    max_length: int | None = None
    chunk: int = 4096

    def __post_init__(self) -> None:
        for name, least in (("batch_tokens", 1), ("max_length", 3), ("chunk", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}, at least {least} is wanted")


BATCHING = Batching()


class Planned(NamedTuple):
    """A batch: which rows go into it, and its shape, padding included."""

    places: Int[np.ndarray, "B"]
    rows: int
    length: int


def bucket_lengths(limit: int) -> list[int]:
    """The lengths that rows are padded to: 16, 24, 32, 48, 64, 96, … and the limit."""
    lengths, power = [], 16
    while power < limit:
        lengths += [length for length in (power, power + power // 2) if length < limit]
        power *= 2
    return [*lengths, limit]


def bucket_width(number: int) -> int:
    """The least of 1, 4, 16, 64, … that holds so many positions in a row."""
    width = 1
    while width < number:
        width *= 4
    return width


def plan(lengths: Sequence[int], limit: int, batch_tokens: int, multiple: int = 1) -> Iterator[Planned]:
    """Batches of rows, the longest first; each is as long as the bucket of its longest row.

    How many rows a batch has follows from its length alone, so that there are as many shapes as buckets, and as many
    small ones again. It is a multiple of `multiple`, the number of devices that share the rows.
    """
    buckets = np.asarray(bucket_lengths(limit))
    padded = buckets[np.searchsorted(buckets, lengths)] if len(lengths) else np.zeros(0, np.int64)
    if 2 * padded.sum() <= batch_tokens:
        batch_tokens = batch_tokens // SMALL
    order = np.argsort(-np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        length = int(padded[order[start]])
        rows = -(-max(batch_tokens // length, 1) // multiple) * multiple
        yield Planned(order[start : start + rows], rows, length)
        start += rows
