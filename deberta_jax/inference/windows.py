"""Texts longer than a row: overlapping windows, and one output per token of the text."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Int

from deberta_jax.hub.heads import Model
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.encode import EncodedRow, EncodedRows, Texts, encode
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.models import max_row_length
from deberta_jax.inference.stream import Pipeline
from deberta_jax.tokenizers.tokenizer import Tokenizer

Result = TypeVar("Result")

# Consecutive windows share a quarter of a row.
OVERLAP_DIVISOR = 4


class Tokens(NamedTuple):
    """All tokens of a text of any length, without special tokens, and the outputs of a program for each."""

    offsets: Int[np.ndarray, "T 2"]
    outputs: Any


def window_stride(max_length: int) -> int:
    """The number of tokens that consecutive windows share."""
    return max_length // OVERLAP_DIVISOR


def encode_windows(tokenizer: Tokenizer, examples: Sequence[tuple], max_length: int) -> EncodedRows:
    """The overlapping windows of examples `(text,)`."""
    return encode(tokenizer, examples, max_length, truncation="first", stride=window_stride(max_length))


def encode_second_windows(
    tokenizer: Tokenizer, examples: Sequence[tuple], max_length: int, *, texts_of: Callable[[tuple], list[Texts]]
) -> EncodedRows:
    """The overlapping windows of the second texts of pairs, each with its first text; `texts_of` as in `encode`."""
    stride = window_stride(max_length)
    return encode(tokenizer, examples, max_length, texts_of=texts_of, truncation="second", stride=stride)


def windows_pipeline(
    model: Model,
    tokenizer: Tokenizer,
    program: Callable[[Any, ModelInputs], Any],
    read_tokens: Callable[[str, Tokens], Result],
    batching: Batching,
) -> Pipeline[Result]:
    """A pipeline for texts of any length; an example is `(text,)`, its result `read_tokens(text, tokens)`."""
    max_length = max_row_length(model, batching)

    def read(example: tuple, rows: list[EncodedRow]) -> Result:
        [text] = example
        return read_tokens(text, merge_windows(rows, max_length))

    return Pipeline(model, tokenizer, program, encode_windows, read, batching)


def merge_windows(rows: Sequence[EncodedRow], max_length: int) -> Tokens:
    """The tokens of a text from its windows, each from the window in which it has the most context.

    Outputs are trees of arrays whose first axis is the tokens.
    """
    positions = assign_tokens([len(row.input_ids) for row in rows], max_length)

    def join(*columns: np.ndarray) -> np.ndarray:
        return np.concatenate([x[chosen] for x, chosen in zip(columns, positions, strict=True)])

    return Tokens(join(*(row.offsets for row in rows)), jax.tree.map(join, *(row.outputs for row in rows)))


def assign_tokens(lengths: Sequence[int], max_length: int) -> list[Int[np.ndarray, "_"]]:
    """Assign each token of a text to the window in which it has the most context.

    Returns, for each window, the positions in its row of the tokens assigned to it. The context of a token is the
    smaller number of tokens on either side; a side on which the text itself ends does not count. `lengths` are the
    lengths of the windows with special tokens.
    """
    step = max_length - 2 - window_stride(max_length)
    sizes = [length - 2 for length in lengths]
    total = (len(sizes) - 1) * step + sizes[-1]
    best_context, best_window = np.full(total, -1), np.zeros(total, np.int64)
    for window, size in enumerate(sizes):
        index = np.arange(size)
        left = index if window > 0 else np.full(size, total)
        right = index[::-1] if window < len(sizes) - 1 else np.full(size, total)
        context = np.minimum(left, right)
        tokens = slice(window * step, window * step + size)
        better = context > best_context[tokens]
        best_context[tokens] = np.where(better, context, best_context[tokens])
        best_window[tokens] = np.where(better, window, best_window[tokens])
    return [1 + np.flatnonzero(best_window == window) - window * step for window in range(len(sizes))]
