"""Texts as vectors."""

from collections.abc import Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deberta_jax.errors import InputError
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.encode import EncodedRow, encode
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.names import Pooling
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.model.deberta import Deberta, encoder_of
from deberta_jax.ops.precision import einsum, upcast
from deberta_jax.tokenizers.tokenizer import Tokenizer


def embed(
    model: Any,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    pooling: Pooling = "mean",
    batching: Batching = BATCHING,
) -> Float[np.ndarray, "B D"]:
    """A float32 vector per text, from the last layer of the encoder; `model` may have any head or none.

    Pooling "mean" averages over all tokens of the text, including [CLS] and [SEP], as sentence-transformers does;
    "cls" takes the state of [CLS]. Longer texts are truncated, which is logged. Raises InputError with the index of an
    invalid text.
    """
    columns = [texts] if pairs is None else [texts, pairs]
    vectors = complete(embed_pipeline(model, tokenizer, pooling=pooling, batching=batching), *columns)
    return np.stack(vectors) if vectors else np.zeros((0, encoder_of(model).config.hidden_size), np.float32)


def embed_pipeline(
    model: Any, tokenizer: Tokenizer, *, pooling: Pooling = "mean", batching: Batching = BATCHING
) -> Pipeline[Float[np.ndarray, "D"]]:
    """The pipeline of `embed`; an example is `(text,)` or `(text, pair)`."""
    if pooling not in _POOLING:
        raise InputError(f"unknown pooling {pooling!r}: use one of {', '.join(get_args(Pooling))}")
    return Pipeline(encoder_of(model), tokenizer, _POOLING[pooling], encode, _read_vector, batching)


def _read_vector(example: tuple, rows: list[EncodedRow]) -> Float[np.ndarray, "D"]:
    [row] = rows
    return row.outputs


@jax.jit
def pool_mean(encoder: Deberta, inputs: ModelInputs) -> Float[Array, "B D"]:
    """The mean of the states of all tokens; zero for a row of padding."""
    attention_mask = jnp.asarray(inputs.attention_mask)
    output = encoder(inputs.input_ids, attention_mask, token_type_ids=inputs.token_type_ids)
    states = upcast(output.last_hidden_state)
    weights = attention_mask.astype(states.dtype)
    weights = weights / jnp.maximum(weights.sum(1, keepdims=True), jnp.ones((), states.dtype))
    return einsum("BTD,BT->BD", states, weights).astype(jnp.float32)


@jax.jit
def pool_first(encoder: Deberta, inputs: ModelInputs) -> Float[Array, "B D"]:
    """The state of the first token, [CLS]."""
    output = encoder(inputs.input_ids, inputs.attention_mask, token_type_ids=inputs.token_type_ids)
    return output.last_hidden_state[:, 0].astype(jnp.float32)


_POOLING = {"mean": pool_mean, "cls": pool_first}
