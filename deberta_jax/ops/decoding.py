"""Attention of one query per sequence to stored keys and values, for generation."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from deberta_jax.ops.masks import masked_softmax
from deberta_jax.ops.precision import accumulation_dtype, einsum, upcast


def attend_to_cache(
    q: Float[Array, "B 1 N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    rel_k: Float[Array, "R N H"] | None,
    rel_q: Float[Array, "R N H"] | None,
    *,
    rows: Int[Array, "S"] | None,
    mask: Bool[Array, "B S"],
    scale: float,
) -> Float[Array, "B 1 N H"]:
    """`disentangled_attention` of the query at one position, the same in all sequences.

    `rows` are the rows of the relative tables for the distances from the query to each key, `mask` is True for the keys
    that it attends to.
    """
    wide = accumulation_dtype(q.dtype)
    scores = einsum("BTNH,BSNH->BNTS", q, k, preferred_element_type=wide)
    if rel_k is not None and rows is not None:
        c2p = einsum("BTNH,RNH->BNTR", q, rel_k, preferred_element_type=wide)
        scores += jnp.take(c2p, rows, axis=3)
    if rel_q is not None and rows is not None:
        by_key = jnp.take(rel_q, rows, axis=0)
        scores += upcast(einsum("BSNH,SNH->BNS", k, by_key, preferred_element_type=wide))[:, :, None]
    probabilities = masked_softmax(scores * scale, mask[:, None, None], v.dtype)
    return einsum("BNTS,BSNH->BTNH", probabilities, v)
