"""Samples from the softmax of logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Key

from deberta_jax.ops.precision import upcast

_BLOCK = 128


def sample(logits: Float[Array, "*B V"], draws: Float[Array, "*B 2"]) -> Int32[Array, "*B"]:
    """One index from each softmax of `logits`, by inverse transform sampling with two uniform `draws` from [0, 1).

    The first draw selects a block of 128 consecutive classes by its total probability, the second a class within the
    block. Two random numbers per row suffice, where Gumbel noise needs V, and no sum has more than V / 128 terms.
    """
    logits = upcast(jax.lax.stop_gradient(logits))
    V = logits.shape[-1]
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.pad(weights, [(0, 0)] * (logits.ndim - 1) + [(0, -V % _BLOCK)])
    blocks = weights.reshape(*weights.shape[:-1], -1, _BLOCK)
    block = _invert(jnp.sum(blocks, axis=-1), draws[..., 0])
    selected = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    return jnp.minimum(block * _BLOCK + _invert(selected, draws[..., 1]), V - 1)


def next_token(
    logits: Float[Array, "B V"],
    keys: Key[Array, "B"],
    *,
    temperature: float,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Int32[Array, "B"]:
    """The most likely class of each row at temperature 0, else a sample with the key of the row.

    Samples are from the softmax of logits / `temperature`, among the `top_k` most likely classes, and among the most
    likely ones whose probabilities add up to `top_p` (nucleus sampling, Holtzman et al. 2020, section 3.1).
    """
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        smallest = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    if top_p < 1:
        descending = jnp.sort(jax.nn.softmax(logits), axis=-1, descending=True)
        before = jnp.cumsum(descending, axis=-1) - descending
        smallest = jnp.min(jnp.where(before < top_p, descending, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(jax.nn.softmax(logits) < smallest, -jnp.inf, logits)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def _invert(weights: Float[Array, "*B K"], draw: Float[Array, "*B"]) -> Int32[Array, "*B"]:
    """The first index whose cumulative weight exceeds `draw` times the total."""
    # The maximum: partial sums round differently, and may decrease where a weight is 0.
    sums = jax.lax.cummax(jnp.cumsum(weights, axis=-1), axis=weights.ndim - 1)
    index = jnp.sum(sums <= draw.astype(sums.dtype)[..., None] * sums[..., -1:], axis=-1, dtype=jnp.int32)
    return jnp.minimum(index, weights.shape[-1] - 1)
