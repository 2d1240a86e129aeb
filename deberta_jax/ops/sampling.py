"""Draws from the softmax of logits, by numbers that are drawn beforehand."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from deberta_jax.ops.precision import accumulation_dtype

_BLOCK = 128


def sample(logits: Float[Array, "*B V"], draws: Float[Array, "*B 2"]) -> Int32[Array, "*B"]:
    """One index from each softmax of `logits`, by two uniform `draws` from [0, 1): inverse transform sampling.

    The first draw chooses a block of 128 neighbours by the sum of its probabilities, the second one of the block. So a
    row of V logits needs two random numbers, where Gumbel noise needs V, and no sum runs over more than V / 128 terms.
    """
    logits = jax.lax.stop_gradient(logits).astype(accumulation_dtype(logits.dtype))
    V = logits.shape[-1]
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.pad(weights, [(0, 0)] * (logits.ndim - 1) + [(0, -V % _BLOCK)])
    blocks = weights.reshape(*weights.shape[:-1], -1, _BLOCK)
    block = _invert(jnp.sum(blocks, axis=-1), draws[..., 0])
    inside = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    return jnp.minimum(block * _BLOCK + _invert(inside, draws[..., 1]), V - 1)


def _invert(weights: Float[Array, "*B K"], draw: Float[Array, "*B"]) -> Int32[Array, "*B"]:
    """The first index up to which the weights sum to more than `draw` of their total."""
    # Rounded differently from place to place, sums of weights may fall where a weight is 0.
    sums = jax.lax.cummax(jnp.cumsum(weights, axis=-1), axis=weights.ndim - 1)
    index = jnp.sum(sums <= draw.astype(sums.dtype)[..., None] * sums[..., -1:], axis=-1, dtype=jnp.int32)
    return jnp.minimum(index, weights.shape[-1] - 1)
