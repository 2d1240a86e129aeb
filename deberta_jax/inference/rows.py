"""Examples as rows of tokens: several for an example of several texts or windows, none for a bad one."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from deberta_jax.errors import InputError
from deberta_jax.inference.buckets import Batching
from deberta_jax.model.deberta import Deberta
from deberta_jax.tokenizers.batch import Batch, Truncation
from deberta_jax.tokenizers.tokenizer import Tokenizer

# A text, or a text and its pair, as they were given.
Texts = tuple[Any, ...]


class Rows(NamedTuple):
    """The rows of a chunk of examples, in their order.

    `batch.sources` are numbers of examples. `positions` are what else a program wants of each row, places of tokens
    in an array that is padded with 0. `errors` say what is wrong with an example, `cut` which were too long.
    """

    batch: Batch
    errors: dict[int, InputError]
    cut: set[int]
    positions: Sequence[Int[np.ndarray, "..."]] | None = None


class Row(NamedTuple):
    """A row without its padding, and what the program gave for it."""

    input_ids: Int[np.ndarray, "T"]
    offsets: Int[np.ndarray, "T 2"]
    sequence_ids: Int[np.ndarray, "T"]
    outputs: Any


def encoder_of(model: Any) -> Deberta:
    """The encoder under a head, or the model itself."""
    return model if isinstance(model, Deberta) else model.deberta


def limit_of(model: Any, batching: Batching) -> int:
    """How many tokens a row may have; raises InputError where the model has fewer positions than are asked for."""
    config = encoder_of(model).config
    most, asked = config.max_position_embeddings, batching.max_length
    absolute = config.position_biased_input or getattr(model, "decoder", None) is not None
    if absolute and asked is not None and asked > most:
        raise InputError(f"max_length is {asked}, the model has {most} absolute positions; give {most} or less")
    return most if asked is None else asked


def whole(example: tuple) -> list[Texts]:
    """The one text or pair that most examples are; a pair of None is no pair."""
    return [example[:1] if len(example) == 2 and example[1] is None else example]


def encode(
    tokenizer: Tokenizer,
    examples: Sequence[tuple],
    *,
    max_length: int,
    texts_of: Callable[[tuple], list[Texts]] = whole,
    truncation: Truncation = "longest_first",
    stride: int | None = None,
) -> Rows:
    """The rows of each example's texts; `texts_of` says which they are, and raises InputError for a bad example."""
    errors: dict[int, InputError] = {}
    owners: list[int] = []
    texts: list[Texts] = []
    for number, example in enumerate(examples):
        try:
            its = [_checked(part) for part in texts_of(example)]
        except InputError as error:
            errors[number] = error
        else:
            owners += [number] * len(its)
            texts += its

    def tokenize(which: Sequence[int]) -> Batch:
        columns = list(zip(*(texts[place] for place in which), strict=True))
        batch = tokenizer(*map(list, columns), max_length=max_length, truncation=truncation, stride=stride)
        return batch._replace(sources=np.asarray(which, np.int32)[batch.sources])

    batches = []
    for size in sorted({len(part) for part in texts}):
        which = [place for place, part in enumerate(texts) if len(part) == size]
        try:
            batches.append(tokenize(which))
        except InputError:
            good = []
            for place in which:
                try:
                    tokenize([place])
                    good.append(place)
                except InputError as error:
                    errors[owners[place]] = InputError(str(error).removeprefix("text 0: "))
            batches += [tokenize(good)] if good else []
    batch = _joined(batches or [tokenizer([])])
    cut = {owners[place] for place in _too_long(tokenizer, texts, batch, max_length)} if stride is None else set()
    return Rows(batch._replace(sources=np.asarray(owners, np.int32)[batch.sources]), errors, cut)


def _checked(texts: Texts) -> Texts:
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"a text is wanted, found {type(text).__name__}: {str(text)[:40]}")
    return texts


def _joined(batches: Sequence[Batch]) -> Batch:
    """Rows of several batches, in the order of their sources."""
    if len(batches) == 1:
        return batches[0]
    length = max(batch.input_ids.shape[1] for batch in batches)
    # Only rows without padding count as long: what stands in the padding is not read.
    fields = [
        [np.pad(x, [(0, 0), (0, length - x.shape[1])] + [(0, 0)] * (x.ndim - 2)) if x.ndim > 1 else x for x in column]
        for column in zip(*batches, strict=True)
    ]
    joined = Batch(*map(np.concatenate, fields))
    order = np.argsort(joined.sources, kind="stable")
    return Batch(*(field[order] for field in joined))


def _too_long(tokenizer: Tokenizer, texts: Sequence[Texts], batch: Batch, max_length: int) -> list[int]:
    """Which texts have more tokens than their rows."""
    full = batch.sources[batch.attention_mask.sum(1) == max_length].tolist()
    return [place for place in full if sum(len(tokenizer.encode(text)) + 1 for text in texts[place]) + 1 > max_length]
