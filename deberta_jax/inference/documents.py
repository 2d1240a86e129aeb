"""Classification of texts of any length: overlapping windows of a text, and one result from the logits of all."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
import scipy.special
from jaxtyping import Float, Int

from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.encode import EncodedRow, EncodedRows, Texts, concatenate, encode, text_or_pair
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.stream import Pipeline
from deberta_jax.inference.windows import window_stride
from deberta_jax.model.deberta import encoder_of
from deberta_jax.model.heads import SequenceClassification
from deberta_jax.model.pooler import WindowLogits
from deberta_jax.tokenizers.batch import Truncation
from deberta_jax.tokenizers.tokenizer import Tokenizer

Result = TypeVar("Result")
# [CLS] and two separators, or three.
_SPECIAL_TOKENS = 4


def document_pipeline(
    model: Any, tokenizer: Tokenizer, read_logits: Callable[[Float[np.ndarray, "C"]], Result], batching: Batching
) -> Pipeline[Result]:
    """A pipeline from the logits of whole texts, for a model with `window_pooling`; an example is as in `encode`.

    Windows have the length that the model was fine-tuned with, whatever `batching.max_length` is.
    """
    config = encoder_of(model).config
    assert config.window_pooling is not None
    assert config.max_windows is not None
    pooling, max_windows = config.window_pooling, config.max_windows

    def read(example: tuple, rows: list[EncodedRow]) -> Result:
        logits = np.stack([row.outputs.logits for row in rows]).astype(np.float64)
        scores = np.stack([row.outputs.scores for row in rows]).astype(np.float64)
        return read_logits(combine_windows(logits, scores, pooling))

    return Pipeline(
        model,
        tokenizer,
        window_logits,
        functools.partial(encode_documents, max_windows=max_windows),
        read,
        dataclasses.replace(batching, max_length=config.sequence_length),
        limit=windows_limit(max_windows, config.sequence_length),
    )


def windows_limit(max_windows: int, length: int | None) -> str:
    """What longer texts are truncated to, for messages."""
    return f"{max_windows} windows of {length} tokens"


@jax.jit
def window_logits(model: SequenceClassification, inputs: ModelInputs) -> WindowLogits:
    """The logits of all labels for each row, which is a window, and its score."""
    return model.window_logits(inputs.input_ids, inputs.attention_mask, token_type_ids=inputs.token_type_ids)


def combine_windows(
    logits: Float[np.ndarray, "M C"], scores: Float[np.ndarray, "M"], pooling: str
) -> Float[np.ndarray, "C"]:
    """The logits of a text from those of its windows, as `ops.pooling` combines them in training."""
    return logits.max(0) if pooling == "max" else (scipy.special.softmax(scores)[:, None] * logits).sum(0)


def encode_documents(
    tokenizer: Tokenizer, examples: Sequence[tuple], max_length: int, *, max_windows: int
) -> EncodedRows:
    """The overlapping windows of examples `(text,)` or `(text, pair)`, at most `max_windows` of each.

    Of a pair, the longer text is split, and each window has all of the other one. If that does not fit into half a
    window, the pair becomes one row, truncated as usual. Texts with more windows count as truncated.
    """
    ways: dict[Truncation, list[int]] = {"first": [], "second": [], "longest_first": []}
    for index, example in enumerate(examples):
        ways[_split_text(tokenizer, text_or_pair(example)[0], max_length)].append(index)
    encoded: list[tuple[list[int], EncodedRows]] = []
    for truncation, indices in ways.items():
        if indices or not examples:
            stride = None if truncation == "longest_first" else window_stride(max_length)
            chosen = [examples[index] for index in indices]
            encoded.append((indices, encode(tokenizer, chosen, max_length, truncation=truncation, stride=stride)))
    batch = concatenate(
        [rows.batch._replace(sources=np.asarray(indices, np.int32)[rows.batch.sources]) for indices, rows in encoded]
    )
    number = _number_in_source(batch.sources)
    cut = batch.sources[number == max_windows].tolist()
    batch = type(batch)(*(field[number < max_windows] for field in batch))
    truncated = {indices[source]: 1 for indices, rows in encoded for source in rows.truncated}
    errors = {indices[source]: error for indices, rows in encoded for source, error in rows.errors.items()}
    return EncodedRows(batch, errors, truncated | dict.fromkeys(cut, 1))


def _split_text(tokenizer: Tokenizer, texts: Texts, max_length: int) -> Truncation:
    """Which text of an example is split into windows; "longest_first" if both are too long for it."""
    if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
        return "first"
    first, second = texts
    shorter = min(texts, key=len)
    space = (max_length - _SPECIAL_TOKENS) // 2
    # A token is at least a byte.
    if len(shorter.encode(errors="replace")) > space and len(tokenizer.encode(shorter)) > space:
        return "longest_first"
    return "first" if len(first) > len(second) else "second"


def _number_in_source(sources: Int[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
    """The number of each row among those of its example, from 0; rows are sorted by example."""
    return np.arange(len(sources)) - np.searchsorted(sources, sources)
