"""Perplexity of language models from left to right, over documents of any length."""

import dataclasses
import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from deberta_jax.config import LEFT_TO_RIGHT
from deberta_jax.errors import InputError
from deberta_jax.hub.heads import Model
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.encode import EncodedRow, EncodedRows
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.models import max_row_length, require_head, require_tokenizer
from deberta_jax.inference.stream import Pipeline, stream
from deberta_jax.model.deberta import encoder_of
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.ops.precision import upcast
from deberta_jax.tokenizers.batch import Batch
from deberta_jax.tokenizers.tokenizer import Tokenizer

# Positions of a batch whose logits are in memory together.
POSITIONS = 512
# Characters of the beginning of a document, for error messages.
_SHOWN = 40
_log = logging.getLogger(__name__)


class Perplexity(NamedTuple):
    """How well a language model predicts documents, as `perplexity` measures it.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("runs/clm/model", "masked_lm")
        >>> result = dj.perplexity(model, tokenizer, ["A man eats.", "A woman sings."])
        >>> result.words, result.per_word > result.per_token > 1  # 6 words and 2 line ends
        (8, True)
    """

    per_token: float
    """exp(nats / tokens)."""
    per_word: float
    """exp(nats / words), which models with different tokenizers can be compared by."""
    nats: float
    """The negative log-likelihood of all tokens, in nats."""
    tokens: int
    """The number of predicted tokens."""
    words: int
    """The number of words and line ends."""


class Window(NamedTuple):
    """Tokens of a document that are read together; the last `predicted` of them count. `text` begins the document."""

    text: str
    ids: Int[np.ndarray, "T"]
    predicted: int


def perplexity(
    model: Model,
    tokenizer: Tokenizer,
    documents: Iterable[str],
    *,
    max_length: int | None = None,
    stride: int | None = None,
    batch_tokens: int = BATCHING.batch_tokens,
) -> Perplexity:
    """The perplexity of a language model, such as those of the objectives clm and mt, from left to right.

    Every token of a document is predicted once, from [CLS] and the tokens before it; special tokens are not predicted.
    A window has `max_length` tokens: [CLS] and C = max_length - 1 tokens of the document. The first window predicts
    all of its tokens. Each of the others begins `stride` tokens later than the previous one, and predicts the tokens
    that this one does not contain, at most `stride`. So the context of a token is everything before it in the first
    window, and C - stride to C - 1 tokens later. A smaller stride gives more context and takes more time.

    The probabilities are over all rows of the model's word table, as in the loss of training. The text is tokenized as
    in pretraining: names of special tokens in it are plain text. Memory does not depend on the number of documents.

    Args:
        model: a model with the head "masked_lm"; a warning is logged if it was not trained from left to right.
        tokenizer: its tokenizer.
        documents: any iterable of documents. Those without tokens count with their line ends only.
        max_length: maximum number of tokens of a window, by default the model's number of positions.
        stride: number of tokens that windows move by, by default half of `max_length`.
        batch_tokens: number of tokens per batch, including padding.

    Returns:
        A `Perplexity` over all documents together.

    Raises:
        InputError: documents without any token; an invalid document, with its index; a stride larger than a window.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("runs/clm/model", "masked_lm")
        >>> result = dj.perplexity(model, tokenizer, ["A man eats.", "A woman sings."])
    """
    _check_model(model, tokenizer)
    if isinstance(documents, str):
        raise InputError(f"expected documents, not a single text: {documents[:_SHOWN]!r}; put it in a list")
    length = max_row_length(model, Batching(max_length=max_length))
    stride = _checked_stride(stride, length)
    batching = Batching(batch_tokens=batch_tokens, max_length=length)
    pipeline = Pipeline(model, tokenizer, window_nats, _encode, _read, batching)
    progress = _Progress()
    windows = _read_windows(tokenizer, documents, length - 1, stride, progress)
    nats = 0.0
    for result in stream(pipeline, windows):
        if isinstance(result, InputError):
            raise InputError(f"text {progress.indices[0]}: {result}")
        nats += result
        progress.indices.popleft()
    tokens, words = progress.tokens, progress.words
    if not tokens:
        raise InputError("the documents have no tokens: expected text")
    return Perplexity(_exp(nats / tokens), _exp(nats / words), nats, tokens, words)


@dataclasses.dataclass
class _Progress:
    """The numbers of tokens and words so far, and the index of the document of each window without a result."""

    tokens: int = 0
    words: int = 0
    indices: deque[int] = dataclasses.field(default_factory=deque)


def _read_windows(
    tokenizer: Tokenizer, documents: Iterable[str], capacity: int, stride: int, progress: _Progress
) -> Iterator[Window]:
    """The windows of all documents; `progress` is updated."""
    for index, text in enumerate(documents):
        ids = _tokenize(tokenizer, text, index)
        progress.tokens, progress.words = progress.tokens + len(ids), progress.words + count_words(text)
        for window in split_windows(text[:_SHOWN], ids, capacity, stride):
            progress.indices.append(index)
            yield window


def _check_model(model: Model, tokenizer: Tokenizer) -> None:
    """Raise InputError without a head or a tokenizer; log a warning for a model that may not be a language model."""
    require_head(model, "masked_lm", "perplexity")
    require_tokenizer(tokenizer)
    if encoder_of(model).config.objective not in LEFT_TO_RIGHT:
        _log.warning(
            "the model does not say that it was trained from left to right (objective clm or mt): its perplexity may "
            "mean nothing"
        )


def _checked_stride(stride: int | None, length: int) -> int:
    """The stride, by default half of a window; raises InputError if it skips tokens."""
    stride = length // 2 if stride is None else stride
    if not 1 <= stride < length:
        raise InputError(
            f"stride is {stride}, but windows of {length} tokens have {length - 1} beside [CLS]: use 1 to {length - 1}"
        )
    return stride


def count_words(text: str) -> int:
    """The number of words and line ends, as perplexities per word are reported for WikiText.

    Words are separated by white space. Every line end counts as a word (`<eos>` in the literature), also that of a
    blank line and of a last line without a line feed: 245,569 for the test set of WikiText-2.
    """
    ends = text.count("\n") + (text != "" and not text.endswith("\n"))
    return len(text.split()) + ends


def split_windows(text: str, ids: Int[np.ndarray, "_"], capacity: int, stride: int) -> Iterator[Window]:
    """The windows of a document of at most `capacity` tokens, each `stride` tokens after the previous one."""
    end = 0
    for start in range(0, len(ids), stride):
        window = ids[start : start + capacity]
        yield Window(text, window, start + len(window) - end)
        end = start + len(window)
        if end == len(ids):
            return


def _tokenize(tokenizer: Tokenizer, text: Any, index: int) -> Int[np.ndarray, "T"]:
    if not isinstance(text, str):
        raise InputError(f"text {index}: expected a string, not {type(text).__name__}: {str(text)[:_SHOWN]}")
    try:
        [ids] = tokenizer.encode_many([text])
    except InputError as error:
        raise InputError(f"text {index}: {error}") from None
    return ids


def _encode(tokenizer: Tokenizer, windows: Sequence[tuple], max_length: int) -> EncodedRows:
    """Rows [CLS] window, each with the position of the first token that it predicts."""
    lengths = np.asarray([len(ids) + 1 for _, ids, _ in windows], np.int32)
    mask = (np.arange(lengths.max(initial=1)) < lengths[:, None]).astype(np.int32)
    input_ids = np.full(mask.shape, tokenizer.pad_id, np.int32)
    for row, (_, ids, _) in zip(input_ids, windows, strict=True):
        row[0], row[1 : len(ids) + 1] = tokenizer.cls_id, ids
    zeros = np.zeros_like(mask)
    offsets, sources = np.zeros((*mask.shape, 2), np.int32), np.arange(len(windows), dtype=np.int32)
    batch = Batch(input_ids, mask, zeros, offsets, zeros, zeros.astype(bool), sources)
    first = [np.asarray([len(ids) + 1 - predicted], np.int32) for _, ids, predicted in windows]
    return EncodedRows(batch, {}, {}, positions=first)


def _read(window: tuple, rows: list[EncodedRow]) -> float:
    [row] = rows
    return float(row.outputs)


@jax.jit
def window_nats(model: MaskedLM, inputs: ModelInputs) -> Float[Array, "B"]:
    """The negative log-likelihood, in nats, of the tokens of each row from the position `inputs.positions` on.

    The logits [B, T, V] exist for `POSITIONS` positions at a time, and are not computed where no row predicts a token.
    """
    ids, first = jnp.asarray(inputs.input_ids), jnp.asarray(inputs.positions)
    B, T = ids.shape
    positions = jnp.arange(T, dtype=jnp.int32)
    states = model.states(ids, inputs.attention_mask, order=jnp.broadcast_to(positions, (B, T)))
    words = model.deberta.embeddings.word.embedding[...]
    # The state at t predicts token t + 1.
    next_token = positions + 1
    counts = (next_token >= first) & (next_token < jnp.asarray(inputs.attention_mask).sum(1, keepdims=True))
    size = min(T, max(1, POSITIONS // B))

    def chunked(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, -T % size), *[(0, 0)] * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(B, -1, size, *x.shape[2:]), 1, 0)

    def add(total: Float[Array, "B"], chunk: tuple[Array, ...]) -> tuple[Float[Array, "B"], None]:
        states, labels, counts = chunk
        nats = jax.lax.cond(
            counts.any(),
            lambda: jnp.where(counts, negative_log_likelihood(model.head(states, words), labels), 0).sum(1),
            lambda: jnp.zeros_like(total),
        )
        return total + nats, None

    chunks = tuple(map(chunked, (states, jnp.roll(ids, -1, axis=1), counts)))
    return jax.lax.scan(add, jnp.zeros(B, upcast(states[:0]).dtype), chunks)[0]


def negative_log_likelihood(logits: Float[Array, "B T V"], labels: Int[Array, "B T"]) -> Float[Array, "B T"]:
    """The negative log-likelihood of each label, in float32 or wider; a sharded vocabulary stays sharded."""
    logits = upcast(logits)
    is_label: Bool[Array, "B T V"] = labels[..., None] == jnp.arange(logits.shape[-1], dtype=labels.dtype)
    return jax.nn.logsumexp(logits, axis=-1) - jnp.where(is_label, logits, 0).sum(-1)


def _exp(x: float) -> float:
    """The exponential, infinite instead of an OverflowError."""
    return math.exp(x) if x < 709 else math.inf
