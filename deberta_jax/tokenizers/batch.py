"""Rows of tokens in numpy, ready for a model: cut or in windows, with special tokens, padded."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from deberta_jax.errors import InputError

Truncation = Literal["longest_first", "first", "second"]


class Batch(NamedTuple):
    """Rows of tokens, numpy; padding has the id of [PAD] and 0, False or -1 everywhere else."""

    input_ids: Int[np.ndarray, "B T"]
    # 1 for tokens, 0 for padding.
    attention_mask: Int[np.ndarray, "B T"]
    # 0 for [CLS] A [SEP], 1 for B [SEP].
    token_type_ids: Int[np.ndarray, "B T"]
    # Start and end, in characters of the text that the token is of; (0, 0) for special tokens.
    offsets: Int[np.ndarray, "B T 2"]
    # 0 for tokens of the first text, 1 of the second, -1 for special tokens.
    sequence_ids: Int[np.ndarray, "B T"]
    # Whether a token begins a word (spec 5.4); the first of a text does.
    word_starts: Bool[np.ndarray, "B T"]
    # Which of the given texts a row is of.
    sources: Int[np.ndarray, "B"]


class Encoded(NamedTuple):
    """A text's tokens without special ones."""

    ids: Int[np.ndarray, "T"]
    offsets: Int[np.ndarray, "T 2"]
    word_starts: Bool[np.ndarray, "T"]


class Frame(NamedTuple):
    """How long rows may be, and what is around and after the tokens; `stride` tokens are in two windows."""

    cls_id: int
    sep_id: int
    pad_id: int
    max_length: int | None
    truncation: Truncation | None
    stride: int | None
    buckets: tuple[int, ...]
    multiple: int


def frame(
    special_ids: tuple[int, int, int],
    max_length: int | None,
    truncation: Truncation | None,
    stride: int | None,
    buckets: Sequence[int],
    multiple: int,
) -> Frame:
    """Check the options against each other; without `max_length` the longest bucket is the limit."""
    buckets = tuple(sorted(buckets))
    if buckets and max_length is None:
        max_length = buckets[-1]
    for name, value, least in (
        ("max_length", max_length, 3),
        ("stride", stride, 0),
        ("buckets", buckets[0] if buckets else None, 3),
        ("pad_to_multiple_of", multiple, 1),
    ):
        if value is not None and value < least:
            raise InputError(f"{name} is {value}, at least {least} is wanted")
    if buckets and max_length is not None and max_length > buckets[-1]:
        raise InputError(f"max_length {max_length} is above the longest of the buckets, {buckets[-1]}; add a bucket")
    if buckets and multiple != 1:
        raise InputError("buckets and pad_to_multiple_of both say how long rows are; give one of them")
    if stride is not None and max_length is None:
        raise InputError("stride needs to know how long a window is; give max_length or buckets")
    return Frame(*special_ids, max_length, truncation, stride, buckets, multiple)


def assemble(firsts: Sequence[Encoded], seconds: Sequence[Encoded] | None, frame: Frame) -> Batch:
    """One row for each text or pair, or one for each of its windows."""
    together = [[first] for first in firsts]
    for texts, second in zip(together, seconds or [], strict=seconds is not None):
        texts.append(second)
    rows = [
        (number, texts, cut)
        for number, texts in enumerate(together)
        for cut in _cuts(number, [len(text.ids) for text in texts], frame)
    ]
    lengths = [sum(part.stop - part.start + 1 for part in cut) + 1 for *_, cut in rows]
    length = _length(max(lengths, default=0), frame)
    shape = len(rows), length
    batch = Batch(
        np.full(shape, frame.pad_id, np.int32),
        (np.arange(length) < np.asarray(lengths, np.int32)[:, None]).astype(np.int32),
        np.zeros(shape, np.int32),
        np.zeros((*shape, 2), np.int32),
        np.full(shape, -1, np.int32),
        np.zeros(shape, bool),
        np.asarray([number for number, *_ in rows], np.int32),
    )
    for row, (_, texts, cut) in enumerate(rows):
        batch.input_ids[row, 0] = frame.cls_id
        start = 1
        for side, (encoded, part) in enumerate(zip(texts, cut, strict=True)):
            end = start + part.stop - part.start
            batch.input_ids[row, start:end] = encoded.ids[part]
            batch.input_ids[row, end] = frame.sep_id
            batch.offsets[row, start:end] = encoded.offsets[part]
            batch.word_starts[row, start:end] = encoded.word_starts[part]
            batch.sequence_ids[row, start:end] = side
            batch.token_type_ids[row, start : end + 1] = side
            start = end + 1
    return batch


def _length(longest: int, frame: Frame) -> int:
    if frame.buckets:
        return next(bucket for bucket in frame.buckets if bucket >= longest)
    return -(-longest // frame.multiple) * frame.multiple


def _cuts(number: int, sizes: list[int], frame: Frame) -> list[tuple[slice, ...]]:
    """The parts of a text of so many tokens, or of a pair, that each of its rows holds."""
    specials = 1 + len(sizes)
    if frame.max_length is None or sum(sizes) + specials <= frame.max_length:
        return [tuple(slice(0, size) for size in sizes)]
    room = frame.max_length - specials
    if frame.truncation is None:
        raise InputError(
            f"text {number}: {sum(sizes) + specials} tokens with the special ones, at most {frame.max_length} are "
            "wanted; say what to cut by truncation"
        )
    if frame.truncation == "longest_first" and len(sizes) == 2:
        if frame.stride is not None:
            raise InputError("stride: windows of a pair are of one side; give truncation 'first' or 'second'")
        return [tuple(slice(0, size) for size in _shortened(sizes[0], sizes[1], room))]
    side = int(frame.truncation == "second")
    if side == len(sizes):
        raise InputError("truncation 'second' needs pairs")
    room -= sum(sizes) - sizes[side]
    step = room - (frame.stride or 0)
    if step < 1:
        raise InputError(
            f"text {number}: of max_length {frame.max_length} the special tokens"
            f"{' and the other text' * (len(sizes) == 2)} leave {room} for the text that is cut"
            f"{f', not more than the stride of {frame.stride}' * (frame.stride is not None)}; give a larger max_length"
        )
    starts = [0] if frame.stride is None else range(0, sizes[side] - room + step, step)
    parts = [slice(start, min(start + room, sizes[side])) for start in starts]
    return [tuple(part if place == side else slice(0, size) for place, size in enumerate(sizes)) for part in parts]


def _shortened(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths after the longer was cut, token by token and the second of equals, until both have room."""
    if 2 * second <= room:
        return room - second, second
    if 2 * first <= room:
        return first, room - first
    return room - room // 2, room // 2
