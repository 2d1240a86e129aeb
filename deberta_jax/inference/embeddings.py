"""Texts as vectors."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from deberta_jax.errors import InputError
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.rows import Row, encode, encoder_of, limit_of
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.model.deberta import Deberta
from deberta_jax.ops.precision import upcast
from deberta_jax.tokenizers.tokenizer import Tokenizer

Pooling = Literal["mean", "cls"]


def embed(
    model: Any,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    pooling: Pooling = "mean",
    batching: Batching = BATCHING,
) -> Float[np.ndarray, "B D"]:
    """A vector for each text, float32, from the last layer of the encoder; `model` may have any head or none.

    "mean" is over all tokens of the text, [CLS] and [SEP] included, as sentence-transformers takes it; "cls" is the
    state of [CLS]. Longer texts are cut, which is logged. Raises InputError with the number of what is no text.
    """
    columns = [texts] if pairs is None else [texts, pairs]
    vectors = complete(embed_pipeline(model, tokenizer, pooling=pooling, batching=batching), *columns)
    return np.stack(vectors) if vectors else np.zeros((0, encoder_of(model).config.hidden_size), np.float32)


def embed_pipeline(
    model: Any, tokenizer: Tokenizer, *, pooling: Pooling = "mean", batching: Batching = BATCHING
) -> Pipeline[Float[np.ndarray, "D"]]:
    """The task of `embed`, for `stream`; an example is `(text,)` or `(text, pair)`."""
    if pooling not in _POOLED:
        raise InputError(f"no pooling {pooling!r}; there are {', '.join(get_args(Pooling))}")
    limit = limit_of(encoder_of(model), batching)

    def read(example: tuple, rows: list[Row]) -> Float[np.ndarray, "D"]:
        [row] = rows
        return row.outputs

    return Pipeline(
        encoder_of(model),
        _POOLED[pooling],
        lambda examples: encode(tokenizer, examples, max_length=limit),
        read,
        limit,
        tokenizer.pad_id,
        batching,
    )


@jax.jit
def pool_mean(
    encoder: Deberta, input_ids: Int[Array, "B T"], attention_mask: Int[Array, "B T"], token_type_ids: Int[Array, "B T"]
) -> Float[Array, "B D"]:
    """The mean of the states of all tokens, zero for a row of padding."""
    states = upcast(encoder(input_ids, attention_mask, token_type_ids=token_type_ids).last_hidden_state)
    weights = attention_mask.astype(states.dtype)
    weights = weights / jnp.maximum(weights.sum(1, keepdims=True), jnp.ones((), states.dtype))
    return jnp.einsum("BTD,BT->BD", states, weights, precision="highest").astype(jnp.float32)


@jax.jit
def pool_first(
    encoder: Deberta, input_ids: Int[Array, "B T"], attention_mask: Int[Array, "B T"], token_type_ids: Int[Array, "B T"]
) -> Float[Array, "B D"]:
    """The state of the first token."""
    states = encoder(input_ids, attention_mask, token_type_ids=token_type_ids).last_hidden_state
    return states[:, 0].astype(jnp.float32)


_POOLED = {"mean": pool_mean, "cls": pool_first}
