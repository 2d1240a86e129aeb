"""Batches of token sequences in numpy: truncation, windows, special tokens and padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, SupportsIndex, get_args, overload

import numpy as np
from jaxtyping import Bool, Int

from deberta_jax.errors import InputError, check_at_least
from deberta_jax.tokenizers.template import Template

Truncation = Literal["longest_first", "first", "second"]


class Batch(NamedTuple):
    """The output of a tokenizer: B sequences of T tokens as numpy arrays, padded at the end.

    `model(**batch)` passes `input_ids`, `attention_mask` and `token_type_ids` to a model. Every field can also be read
    by name, as in `batch["offsets"]`, which raises KeyError for an unknown name. A batch is a named tuple and therefore
    a pytree of its arrays.

    Example:
        >>> import deberta_jax as dj
        >>> tokenizer = dj.Tokenizer.from_pretrained("microsoft/deberta-v3-base")
        >>> batch = tokenizer(["A man eats."], max_length=16)
        >>> start, end = batch.offsets[0, -2]  # the last token before [SEP]
        >>> "A man eats."[start:end]
        '.'
    """

    input_ids: Int[np.ndarray, "B T"]
    """Token ids; padding has the id of [PAD]."""
    attention_mask: Int[np.ndarray, "B T"]
    """1 for tokens, 0 for padding."""
    token_type_ids: Int[np.ndarray, "B T"]
    """0 for [CLS] A [SEP], 1 for B [SEP], 0 for padding; a tokenizer of RoBERTa has 0 only."""
    offsets: Int[np.ndarray, "B T 2"]
    """Start and end of each token in its text, in characters; (0, 0) for special tokens and padding."""
    sequence_ids: Int[np.ndarray, "B T"]
    """0 for tokens of the first text, 1 for tokens of the second, -1 for special tokens and padding."""
    word_starts: Bool[np.ndarray, "B T"]
    """True where a token begins a word; always True for the first token of a text (docs/numerics.md, "Tokenizers")."""
    sources: Int[np.ndarray, "B"]
    """Index of the input text that each sequence comes from; a text split into windows has several sequences."""

    def keys(self) -> tuple[str, ...]:
        """The names of the inputs of a model, so that `model(**batch)` passes these fields and no others."""
        return "input_ids", "attention_mask", "token_type_ids"

    # Any, so that type checkers accept model(**batch), whose keywords have different types.
    @overload
    def __getitem__(self, key: str) -> Any: ...
    @overload
    def __getitem__(self, key: SupportsIndex) -> np.ndarray: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[np.ndarray, ...]: ...
    def __getitem__(self, key: str | SupportsIndex | slice) -> Any:
        """A field by name or by index, or a tuple of fields by slice; raises KeyError for an unknown name.

        The fields are arrays of JAX, or tracers, once the batch has passed through a JAX function.
        """
        if not isinstance(key, str):
            return tuple.__getitem__(self, key)
        if key not in self._fields:
            raise KeyError(f"{key!r} is not a field of Batch ({', '.join(self._fields)})")
        return getattr(self, key)


class EncodedText(NamedTuple):
    """The tokens of one text, without special tokens."""

    ids: Int[np.ndarray, "T"]
    offsets: Int[np.ndarray, "T 2"]
    word_starts: Bool[np.ndarray, "T"]


@dataclass(frozen=True)
class BatchOptions:
    """The special tokens, and how long the sequences of a batch may be; raises InputError for a conflict."""

    template: Template
    pad_id: int
    max_length: int | None = None
    """Maximum length of a sequence, special tokens included; the longest bucket by default."""
    truncation: Truncation | None = "longest_first"
    """Which text of a pair is shortened; None raises InputError instead."""
    stride: int | None = None
    """Tokens that neighboring windows of a long text share; None truncates instead of making windows."""
    buckets: tuple[int, ...] = ()
    """Lengths to pad to: a batch takes the shortest one that fits."""
    pad_to_multiple_of: int = 1

    def __post_init__(self) -> None:
        for name, value, minimum in (
            ("max_length", self.max_length, 3),
            ("stride", self.stride, 0),
            ("buckets", min(self.buckets, default=None), 3),
            ("pad_to_multiple_of", self.pad_to_multiple_of, 1),
        ):
            check_at_least(name, value, minimum)
        check_truncation(self.truncation)
        if self.buckets and self.max_length is not None and self.max_length > max(self.buckets):
            raise InputError(
                f"max_length {self.max_length} is longer than the longest bucket, {max(self.buckets)}; add a bucket"
            )
        if self.buckets and self.pad_to_multiple_of != 1:
            raise InputError("buckets and pad_to_multiple_of both set the padded length; use one of them")
        if self.stride is not None and self.limit is None:
            raise InputError("stride requires a window length: set max_length or buckets")

    @property
    def limit(self) -> int | None:
        """Maximum length of a sequence, or None if there is no limit."""
        return max(self.buckets, default=None) if self.max_length is None else self.max_length

    def padded_length(self, longest: int) -> int:
        """T for a batch whose longest sequence has this many tokens."""
        if self.buckets:
            return min(bucket for bucket in self.buckets if bucket >= longest)
        return -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of


def check_truncation(value: object) -> None:
    """Raise InputError for an unknown truncation, such as True."""
    if value not in (None, *get_args(Truncation)):
        raise InputError(f"truncation is {value!r}; use {', '.join(get_args(Truncation))} or None")


def make_batch(firsts: Sequence[EncodedText], seconds: Sequence[EncodedText] | None, options: BatchOptions) -> Batch:
    """One sequence for each text or pair, or one for each of its windows."""
    inputs = [(first,) for first in firsts] if seconds is None else list(zip(firsts, seconds, strict=True))
    sequences = [
        (index, texts, spans)
        for index, texts in enumerate(inputs)
        for spans in _windows(index, [len(text.ids) for text in texts], options)
    ]
    parts = options.template.single if seconds is None else options.template.pair
    special = len(parts) - (1 if seconds is None else 2)
    lengths = [sum(span.stop - span.start for span in spans) + special for *_, spans in sequences]
    shape = len(sequences), options.padded_length(max(lengths, default=0))
    batch = Batch(
        np.full(shape, options.pad_id, np.int32),
        (np.arange(shape[1]) < np.asarray(lengths, np.int32)[:, None]).astype(np.int32),
        np.zeros(shape, np.int32),
        np.zeros((*shape, 2), np.int32),
        np.full(shape, -1, np.int32),
        np.zeros(shape, bool),
        np.asarray([index for index, *_ in sequences], np.int32),
    )
    for row, (_, texts, spans) in enumerate(sequences):
        start = 0
        for part in parts:
            if part.id is not None:
                end = start + 1
                batch.input_ids[row, start] = part.id
            else:
                text, span = texts[part.side], spans[part.side]
                end = start + span.stop - span.start
                batch.input_ids[row, start:end] = text.ids[span]
                batch.offsets[row, start:end] = text.offsets[span]
                batch.word_starts[row, start:end] = text.word_starts[span]
                batch.sequence_ids[row, start:end] = part.side
            batch.token_type_ids[row, start:end] = part.type_id
            start = end
    return batch


def _windows(index: int, sizes: list[int], options: BatchOptions) -> list[tuple[slice, ...]]:
    """For each sequence of an input, its tokens from each text; `sizes` are the numbers of tokens of the texts."""
    special = len(options.template.single if len(sizes) == 1 else options.template.pair) - len(sizes)
    if options.limit is None or sum(sizes) + special <= options.limit:
        return [tuple(slice(0, size) for size in sizes)]
    space = options.limit - special
    if options.truncation is None:
        raise InputError(
            f"text {index}: {sum(sizes) + special} tokens including special tokens, more than the limit of "
            f"{options.limit}; shorten it, set truncation, or increase max_length"
        )
    if options.truncation == "longest_first" and len(sizes) == 2:
        if options.stride is not None:
            raise InputError("stride splits one text of a pair into windows; set truncation to 'first' or 'second'")
        return [tuple(slice(0, size) for size in _truncated_sizes(sizes[0], sizes[1], space))]
    side = int(options.truncation == "second")
    if side == len(sizes):
        raise InputError("truncation 'second' requires pairs of texts")
    space -= sum(sizes) - sizes[side]
    step = space - (options.stride or 0)
    if step < 1:
        raise InputError(
            f"text {index}: with max_length {options.limit}, the special tokens"
            f"{' and the other text' * (len(sizes) == 2)} leave {space} tokens for the text to truncate"
            f"{f', which must exceed the stride of {options.stride}' * (options.stride is not None)}; "
            "increase max_length"
        )
    starts = [0] if options.stride is None else range(0, sizes[side] - space + step, step)
    spans = [slice(start, min(start + space, sizes[side])) for start in starts]
    return [tuple(span if other == side else slice(0, size) for other, size in enumerate(sizes)) for span in spans]


def _truncated_sizes(first: int, second: int, space: int) -> tuple[int, int]:
    """Sizes after removing tokens one by one from the longer text (the second if they are equal) until both fit."""
    if 2 * second <= space:
        return space - second, second
    if 2 * first <= space:
        return first, space - first
    return space - space // 2, space // 2
