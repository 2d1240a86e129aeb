"""The attention scores of He et al. 2021, equation 4, as functions of arrays.

    A[t, s]  =  q_t . k_s   +   q_t . rel_k[d(t, s)]   +   k_s . rel_q[d(t, s)]
                  c2c                   c2p                        p2c

`rel_k` and `rel_q` are the projected rows of the relative table, and d(t, s) is the row of the distance t - s. The
paper writes d(s, t) in the third term; released models use d(t, s) (docs/numerics.md, "Score terms and scale").
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from deberta_jax.ops.gathered import c2p_scores_at, take_queries
from deberta_jax.ops.masks import masked_softmax
from deberta_jax.ops.precision import accumulation_dtype
from deberta_jax.ops.relative_shift import relative_shift, table_by_distance

# The row of the relative table for each distance, largest distance first.
Index = Int[np.ndarray | Array, "W"]
# Queries are processed in blocks: a block of t queries meets S + t - 1 distances, all T queries together T + S - 1.
QUERY_BLOCK = 64


def c2c_scores(q: Float[Array, "B T N H"], k: Float[Array, "B S N H"]) -> Float[Array, "B N T S"]:
    """Content-to-content: how well the content at s matches the content at t (equation 4, first term)."""
    return jnp.einsum("BTNH,BSNH->BNTS", q, k, preferred_element_type=accumulation_dtype(q.dtype))


def c2p_scores(q: Float[Array, "B T N H"], rel_k: Float[Array, "R N H"], index: Index) -> Float[Array, "B N T S"]:
    """Content-to-position: how much the content at t attends to the distance t - s (equation 4, second term)."""
    return relative_scores(q, rel_k, index)


def p2c_scores(k: Float[Array, "B S N H"], rel_q: Float[Array, "R N H"], index: Index) -> Float[Array, "B N T S"]:
    """Position-to-content: how much the distance t - s attends to the content at s (equation 4, third term)."""
    return relative_scores(k, rel_q, index[::-1]).swapaxes(2, 3)


def relative_scores(x: Float[Array, "B T N H"], table: Float[Array, "R N H"], index: Index) -> Float[Array, "B N T S"]:
    """x_t . table[index[T - 1 - t + s]], in float32 or wider, for S = W - T + 1.

    `index` has one row of the table for each of the W distances, largest first, as `positions.relative_index` returns
    it. Scores are computed by distance, then shifted to keys: no gather over [T, S].
    """
    B, T, N, H = x.shape
    S = index.shape[0] - T + 1
    block = min(QUERY_BLOCK, T)
    blocks = math.ceil(T / block)
    padding = blocks * block - T
    if padding:
        x = jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0)))
        index = jnp.concatenate([jnp.broadcast_to(index[:1], (padding,)), jnp.asarray(index)])
    width = S + block - 1
    starts = [(blocks - 1 - a) * block for a in range(blocks)]
    windows = jnp.stack([jnp.asarray(index[start : start + width]) for start in starts])
    # Heads and blocks lead in both factors, so the backward pass needs no transpose.
    x = x.reshape(B, blocks, block, N, H).transpose(3, 1, 0, 2, 4).reshape(N, blocks, B * block, H)
    by_distance = table_by_distance(table.swapaxes(0, 1), windows)
    scores = jnp.einsum("NAMH,NAWH->NAMW", x, by_distance, preferred_element_type=accumulation_dtype(x.dtype))
    scores = relative_shift(scores.reshape(N, blocks, B, block, width))
    return scores.transpose(2, 0, 1, 3, 4).reshape(B, N, blocks * block, S)[:, :, :T]


def attention_scale(q: Array, rel_k: Array | None, rel_q: Array | None) -> float:
    """1 / sqrt(H x number of terms) (docs/numerics.md, "Score terms and scale")."""
    return 1 / math.sqrt(q.shape[-1] * (1 + (rel_k is not None) + (rel_q is not None)))


def attention_probabilities(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    rel_k: Float[Array, "R N H"] | None = None,
    rel_q: Float[Array, "R N H"] | None = None,
    *,
    index: Index | None = None,
    query_positions: Int[Array, "B T"] | None = None,
    mask: Bool[Array, "#B #N #T S"] | None = None,
    scale: float | None = None,
) -> Float[Array, "B N T S"]:
    """Softmax of scale x (c2c + c2p + p2c), in float32 or wider, before dropout (equation 4).

    A term is omitted where its projected table is None. Relative terms need `index` (`positions.relative_index`), and
    raise ValueError without it. `scale` defaults to 1 / sqrt(H x number of terms). With `query_positions`, query t is
    at that position among the keys, and `index` is the one for S queries and S keys.
    """
    scores = c2c_scores(q, k)
    if rel_k is not None or rel_q is not None:
        index = required_index(index)
        at = query_positions
        if rel_k is not None:
            scores += c2p_scores(q, rel_k, index) if at is None else c2p_scores_at(q, rel_k, index, at)
        if rel_q is not None:
            p2c = p2c_scores(k, rel_q, index)
            scores += p2c if at is None else take_queries(p2c, at)
    return masked_softmax(scores * (attention_scale(q, rel_k, rel_q) if scale is None else scale), mask)


def required_index(index: Index | None) -> Index:
    """The index of relative terms; raises ValueError if it is None."""
    if index is None:
        raise ValueError("index: relative terms need the table row of each distance, see positions.relative_index")
    return index
