"""Batches of few shapes from rows of any length: rows are sorted by length, grouped and padded to a bucket."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from deberta_jax.errors import check_at_least

# If all rows fit into half a batch, batches are smaller by this factor: a single text does not wait for the
# computation of hundreds of rows of padding.
SMALL_BATCH_FACTOR = 16


@dataclasses.dataclass(frozen=True)
class Batching:
    """The size of batches and the maximum length of rows.

    Raises:
        InputError: a value that is too small.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("microsoft/deberta-v3-base")
        >>> dj.embed(model, tokenizer, ["A man eats."], batching=dj.Batching(max_length=128)).shape[0]
        1
    """

    batch_tokens: int = 4096
    """About the number of tokens of a batch, including padding."""
    max_length: int | None = None
    """Maximum number of tokens of a row, by default the model's `max_position_embeddings`; a model without absolute
    positions accepts more.
    """
    chunk: int = 4096
    """Examples of a stream that are tokenized and sorted together, which bounds its memory."""

    def __post_init__(self) -> None:
        for name, minimum in (("batch_tokens", 1), ("max_length", 3), ("chunk", 1)):
            check_at_least(name, getattr(self, name), minimum)


BATCHING = Batching()


class BatchPlan(NamedTuple):
    """A batch: the indices of its rows, and its shape, including padding."""

    indices: Int[np.ndarray, "B"]
    rows: int
    length: int


def bucket_lengths(max_length: int) -> list[int]:
    """The lengths that rows are padded to: 16, 24, 32, 48, 64, 96, … and `max_length`."""
    lengths, power = [], 16
    while power < max_length:
        lengths += [length for length in (power, power + power // 2) if length < max_length]
        power *= 2
    return [*lengths, max_length]


def bucket_width(size: int) -> int:
    """The smallest of 1, 4, 16, 64, … that is at least `size`: the padded number of positions per row."""
    width = 1
    while width < size:
        width *= 4
    return width


def plan(
    lengths: Sequence[int], max_length: int, batch_tokens: int, multiple: int = 1, new_tokens: int = 0
) -> Iterator[BatchPlan]:
    """Batches of rows, the longest rows first; each batch is as long as the bucket of its longest row.

    The number of rows depends only on the length of the batch, so there are at most two shapes per bucket: the regular
    one and the small one. It is a multiple of `multiple`, the number of devices that share the rows. `new_tokens` are
    those that a program adds to each row.
    """
    buckets = np.asarray(bucket_lengths(max_length))
    padded = buckets[np.searchsorted(buckets, lengths)] if len(lengths) else np.zeros(0, np.int64)
    if 2 * padded.sum() <= batch_tokens:
        batch_tokens = batch_tokens // SMALL_BATCH_FACTOR
    order = np.argsort(-np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        length = int(padded[order[start]])
        rows = -(-max(batch_tokens // (length + new_tokens), 1) // multiple) * multiple
        yield BatchPlan(order[start : start + rows], rows, length)
        start += rows
