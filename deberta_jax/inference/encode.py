"""Examples as rows of tokens: one row per text, pair or window; an invalid example gives an error instead."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from deberta_jax.errors import InputError
from deberta_jax.tokenizers.batch import Batch, Truncation
from deberta_jax.tokenizers.tokenizer import Tokenizer

# A text, or a text and its pair, not checked yet.
Texts = tuple[Any, ...]


class EncodedRows(NamedTuple):
    """The rows of a chunk of examples, in the order of the examples.

    `batch.sources` are indices of examples. `errors` and `truncated` are by the same indices: invalid examples, and
    the number of truncated rows. `positions` are token positions that a program reads besides, one array per row,
    padded with 0. `parts` are the indices of the rows' texts among those of their example.
    """

    batch: Batch
    errors: dict[int, InputError]
    truncated: Mapping[int, int]
    positions: Sequence[Int[np.ndarray, "..."]] | None = None
    parts: Int[np.ndarray, "B"] | None = None


class EncodedRow(NamedTuple):
    """A row without padding, the outputs of the program for it, and the index of its text in the example."""

    input_ids: Int[np.ndarray, "T"]
    offsets: Int[np.ndarray, "T 2"]
    sequence_ids: Int[np.ndarray, "T"]
    outputs: Any
    part: int = 0


def text_or_pair(example: tuple) -> list[Texts]:
    """One row for an example `(text,)` or `(text, pair)`; a pair of None is left out."""
    return [example[:1] if len(example) == 2 and example[1] is None else example]


def encode(
    tokenizer: Tokenizer,
    examples: Sequence[tuple],
    max_length: int,
    *,
    texts_of: Callable[[tuple], list[Texts]] = text_or_pair,
    truncation: Truncation | None = "longest_first",
    stride: int | None = None,
) -> EncodedRows:
    """Tokenize examples into rows of at most `max_length` tokens.

    `texts_of` returns the texts or pairs of an example, and raises InputError for an invalid one. With `stride`, a
    longer text becomes several overlapping windows and nothing is truncated; without `truncation` it is an error.
    """
    errors: dict[int, InputError] = {}
    sources: list[int] = []
    parts: list[int] = []
    texts: list[Texts] = []
    for source, example in enumerate(examples):
        try:
            example_texts = [_check_strings(part) for part in texts_of(example)]
        except InputError as error:
            errors[source] = error
        else:
            sources += [source] * len(example_texts)
            parts += range(len(example_texts))
            texts += example_texts

    def tokenize(indices: Sequence[int]) -> Batch:
        columns = list(zip(*(texts[index] for index in indices), strict=True))
        batch = tokenizer(*map(list, columns), max_length=max_length, truncation=truncation, stride=stride)
        return batch._replace(sources=np.asarray(indices, np.int32)[batch.sources])

    batches = []
    # Texts and pairs are tokenized separately.
    for size in sorted({len(part) for part in texts}):
        indices = [index for index, part in enumerate(texts) if len(part) == size]
        tokenized, failures = _tokenize_valid(tokenize, indices)
        batches += tokenized
        errors |= {sources[index]: error for index, error in failures.items()}
    batch = concatenate(batches or [tokenizer([])])
    truncated = _truncated_texts(tokenizer, texts, batch, max_length) if stride is None else []
    row_parts = np.asarray(parts, np.int32)[batch.sources]
    batch = batch._replace(sources=np.asarray(sources, np.int32)[batch.sources])
    return EncodedRows(batch, errors, Counter(sources[index] for index in truncated), parts=row_parts)


def _check_strings(texts: Texts) -> Texts:
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"expected a string, not {type(text).__name__}: {str(text)[:40]}")
    return texts


def _tokenize_valid(
    tokenize: Callable[[Sequence[int]], Batch], indices: Sequence[int]
) -> tuple[list[Batch], dict[int, InputError]]:
    """The batch of all texts that can be tokenized, and the errors of the others."""
    try:
        return [tokenize(indices)], {}
    except InputError:
        failures: dict[int, InputError] = {}
        for index in indices:
            try:
                tokenize([index])
            except InputError as error:
                failures[index] = InputError(str(error).removeprefix("text 0: "))
        valid = [index for index in indices if index not in failures]
        return [tokenize(valid)] if valid else [], failures


def concatenate(batches: Sequence[Batch]) -> Batch:
    """One batch of the rows of several, sorted by source; their sources are indices of the same texts."""
    if len(batches) == 1:
        return batches[0]
    length = max(batch.input_ids.shape[1] for batch in batches)
    # Any value serves as padding: only tokens under the attention mask are read.
    fields = [
        [np.pad(x, [(0, 0), (0, length - x.shape[1])] + [(0, 0)] * (x.ndim - 2)) if x.ndim > 1 else x for x in column]
        for column in zip(*batches, strict=True)
    ]
    batch = Batch(*map(np.concatenate, fields))
    order = np.argsort(batch.sources, kind="stable")
    return Batch(*(field[order] for field in batch))


def _truncated_texts(tokenizer: Tokenizer, texts: Sequence[Texts], batch: Batch, max_length: int) -> list[int]:
    """Indices of the texts that have more tokens than their row."""
    full = batch.sources[batch.attention_mask.sum(1) == max_length].tolist()
    return [index for index in full if sum(len(tokenizer.encode(text)) + 1 for text in texts[index]) + 1 > max_length]
