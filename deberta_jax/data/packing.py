"""Packing of documents into sequences of a fixed length, with one segment for each piece of a document."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from deberta_jax.errors import check_at_least


class PackedSequence(NamedTuple):
    """A sequence of T tokens from one or more documents."""

    input_ids: Int32[np.ndarray, "T"]
    segment_ids: Int32[np.ndarray, "T"]
    """The number of the piece that each token belongs to, from 1; 0 for padding."""

    @property
    def position_ids(self) -> Int32[np.ndarray, "T"]:
        """Positions that restart at 0 in every piece; 0 for padding."""
        return position_ids(self.segment_ids)


def pack(
    documents: Iterable[Int[np.ndarray, "_"]], length: int, *, cls_id: int, sep_id: int, pad_id: int
) -> Iterator[PackedSequence]:
    """Sequences of `length` tokens with the documents in order, each piece of a document as [CLS] ... [SEP].

    A document is split at the end of a sequence, unless less than an eighth of the sequence is left: that part becomes
    padding, like the rest of the last sequence. Documents without tokens are dropped.

    Args:
        documents: arrays of token ids [T] without special tokens, of any lengths.
        length: T, the number of tokens of a sequence.
        cls_id, sep_id, pad_id: the ids of the special tokens.

    Yields:
        Packed sequences with `input_ids`, `segment_ids` (from 1; 0 is padding) and `position_ids` [T] in int32.

    Raises:
        InputError: a length below 3.

    Example:
        >>> import numpy as np
        >>> import deberta_jax as dj
        >>> [row] = dj.pack([np.array([7, 8]), np.array([9])], 8, cls_id=1, sep_id=2, pad_id=0)
        >>> row.input_ids.tolist(), row.segment_ids.tolist()
        ([1, 7, 8, 2, 1, 9, 2, 0], [1, 1, 1, 1, 2, 2, 2, 0])
    """
    check_at_least("length", length, 3)
    min_space = max(3, length // 8)
    input_ids, segment_ids = np.full(length, pad_id, np.int32), np.zeros(length, np.int32)
    filled, segment = 0, 0
    for document in documents:
        consumed = 0
        while consumed < len(document):
            needed = len(document) - consumed + 2
            if length - filled < min(needed, min_space):
                yield PackedSequence(input_ids, segment_ids)
                input_ids, segment_ids = np.full(length, pad_id, np.int32), np.zeros(length, np.int32)
                filled, segment = 0, 0
            end = min(length, filled + needed)
            size = end - filled - 2
            segment += 1
            input_ids[filled] = cls_id
            input_ids[filled + 1 : end - 1] = document[consumed : consumed + size]
            input_ids[end - 1] = sep_id
            segment_ids[filled:end] = segment
            filled, consumed = end, consumed + size
    if filled:
        yield PackedSequence(input_ids, segment_ids)


def position_ids(segment_ids: Int[np.ndarray, "T"]) -> Int32[np.ndarray, "T"]:
    """Positions that restart at 0 in every segment; 0 for padding."""
    starts = np.append(0, np.flatnonzero(segment_ids[1:] != segment_ids[:-1]) + 1)
    lengths = np.diff(np.append(starts, len(segment_ids)))
    return np.where(segment_ids > 0, np.arange(len(segment_ids)) - np.repeat(starts, lengths), 0).astype(np.int32)
