"""Documents packed in rows of one length, each document its own segment."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32


class Row(NamedTuple):
    """A row of T tokens: ids, and the number, from 1, of the document piece that each belongs to (0: padding)."""

    input_ids: Int32[np.ndarray, "T"]
    segment_ids: Int32[np.ndarray, "T"]


def pack(
    documents: Iterable[Int[np.ndarray, "_"]], length: int, *, cls_id: int, sep_id: int, pad_id: int
) -> Iterator[Row]:
    """Rows of `length` with the documents in order, each piece of one as [CLS] ... [SEP].

    A document is cut where a row ends, unless less than an eighth of the row is left: then that stays padding. A last
    row that is not full is padded too. Documents without tokens leave no trace.
    """
    least = max(3, length // 8)
    input_ids, segment_ids = np.full(length, pad_id, np.int32), np.zeros(length, np.int32)
    filled, segment = 0, 0
    for document in documents:
        taken = 0
        while taken < len(document):
            needed = len(document) - taken + 2
            if length - filled < min(needed, least):
                yield Row(input_ids, segment_ids)
                input_ids, segment_ids = np.full(length, pad_id, np.int32), np.zeros(length, np.int32)
                filled, segment = 0, 0
            end = min(length, filled + needed)
            piece = end - filled - 2
            segment += 1
            input_ids[filled] = cls_id
            input_ids[filled + 1 : end - 1] = document[taken : taken + piece]
            input_ids[end - 1] = sep_id
            segment_ids[filled:end] = segment
            filled, taken = end, taken + piece
    if filled:
        yield Row(input_ids, segment_ids)


def position_ids(segment_ids: Int[np.ndarray, "T"]) -> Int32[np.ndarray, "T"]:
    """Positions that restart at 0 in every segment; 0 for padding."""
    index = np.arange(len(segment_ids))
    begins = np.diff(segment_ids, prepend=-1) != 0
    start = np.maximum.accumulate(np.where(begins, index, 0))
    return np.where(segment_ids > 0, index - start, 0).astype(np.int32)
