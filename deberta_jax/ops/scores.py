"""The attention scores of He et al. 2021, equation 4, as functions of arrays.

    A[t, s]  =  q_t . k_s   +   q_t . rel_k[d(t, s)]   +   k_s . rel_q[d(t, s)]
                  c2c                   c2p                        p2c

`rel_k` and `rel_q` are the projected rows of the relative table, and d(t, s) is the row of the distance t - s. The
paper writes d(s, t) in the third term; released models use d(t, s) (docs/numerics.md, "Score terms and scale").
"""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Shaped

from deberta_jax.ops.arguments import check_axes, check_bias, check_pairs, check_range, check_rows
from deberta_jax.ops.gathered import c2p_scores_at, take_queries
from deberta_jax.ops.masks import as_boolean_mask, causal_mask, masked_softmax, order_mask, segment_mask
from deberta_jax.ops.precision import accumulation_dtype, einsum, position_dtype, upcast
from deberta_jax.ops.relative_shift import relative_shift, table_by_distance

# The row of the relative table for each distance, largest distance first.
Index = Int[np.ndarray | Array, "W"]
# Queries are processed in blocks: a block of t queries meets S + t - 1 distances, all T queries together T + S - 1.
QUERY_BLOCK = 64


def c2c_scores(q: Float[Array, "B T N H"], k: Float[Array, "B S N H"]) -> Float[Array, "B N T S"]:
    """Content-to-content: how well the content at s matches the content at t (He et al. 2021, equation 4, first term).

    Args:
        q: queries [B, T, N, H].
        k: keys [B, S, N, H].

    Returns:
        Scores [B, N, T, S] without the scale, in float32 or wider.

    Example:
        >>> import jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> dj.c2c_scores(jnp.ones((1, 5, 2, 4)), jnp.ones((1, 7, 2, 4))).shape
        (1, 2, 5, 7)
    """
    return einsum("BTNH,BSNH->BNTS", q, k, preferred_element_type=accumulation_dtype(q.dtype))


def c2p_scores(q: Float[Array, "B T N H"], rel_k: Float[Array, "R N H"], index: Index) -> Float[Array, "B N T S"]:
    """Content-to-position: how much the content at t attends to the distance t - s (equation 4, second term).

    Args:
        q: queries [B, T, N, H].
        rel_k: the projected relative table [R, N, H].
        index: the row of the table for each of T + S - 1 distances, from `relative_index`.

    Returns:
        Scores [B, N, T, S] without the scale; bfloat16 for bfloat16, else float32 or wider.

    Raises:
        ValueError: fewer than T distances; rows beyond the table (traced rows are not checked).

    Example:
        >>> import jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> index = dj.relative_index(5, 7, buckets=8, max_distance=32)
        >>> dj.c2p_scores(jnp.ones((1, 5, 2, 4)), jnp.ones((16, 2, 4)), index).shape
        (1, 2, 5, 7)
    """
    return relative_scores(q, rel_k, index)


def p2c_scores(k: Float[Array, "B S N H"], rel_q: Float[Array, "R N H"], index: Index) -> Float[Array, "B N T S"]:
    """Position-to-content: how much the distance t - s attends to the content at s (equation 4, third term).

    Released models use the row of t - s, where the paper writes s - t (docs/numerics.md, "Score terms and scale").

    Args:
        k: keys [B, S, N, H].
        rel_q: the projected relative table [R, N, H].
        index: the row of the table for each of T + S - 1 distances, from `relative_index`.

    Returns:
        Scores [B, N, T, S] without the scale; bfloat16 for bfloat16, else float32 or wider.

    Raises:
        ValueError: fewer than S distances; rows beyond the table (traced rows are not checked).

    Example:
        >>> import jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> index = dj.relative_index(5, 7, buckets=8, max_distance=32)
        >>> dj.p2c_scores(jnp.ones((1, 7, 2, 4)), jnp.ones((16, 2, 4)), index).shape
        (1, 2, 5, 7)
    """
    return relative_scores(k, rel_q, index[::-1]).swapaxes(2, 3)


def relative_scores(x: Float[Array, "B T N H"], table: Float[Array, "R N H"], index: Index) -> Float[Array, "B N T S"]:
    """x_t . table[index[T - 1 - t + s]] for S = W - T + 1; bfloat16 for bfloat16, in float32 or wider otherwise.

    `index` has one row of the table for each of the W distances, largest first, as `positions.relative_index` returns
    it. Scores are computed by distance, then shifted to keys: no gather over [T, S]. Raises ValueError for fewer than T
    distances, and for rows beyond the table (traced rows are not checked).
    """
    B, T, N, H = x.shape
    S = index.shape[0] - T + 1
    if S < 1:
        raise ValueError(f"index has {index.shape[0]} entries, but {T} tokens have at least {T} distances to others")
    check_rows(index, table)
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
    scores = einsum("NAMH,NAWH->NAMW", x, by_distance, preferred_element_type=position_dtype(x.dtype))
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
    mask: Shaped[Array, "#B #N #T S"] | None = None,
    bias: Float[Array, "#B #N #T #S"] | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    dtype: DTypeLike | None = None,
) -> Float[Array, "B N T S"]:
    """Softmax of scale x (c2c + c2p + p2c) + bias, before dropout (He et al. 2021, equation 4).

    Args:
        q: queries [B, T, N, H].
        k: keys [B, S, N, H].
        rel_k, rel_q: the projected relative tables [R, N, H]; a term without its table is omitted.
        index: the row of the tables for each of T + S - 1 distances, from `relative_index`.
        query_positions: the position of each query among the keys [B, T]; `index` is then that of S queries.
        mask: True or 1 where a query may attend to a key [B, N, T, S]; the first three axes may be 1.
        bias: added to the scaled scores [B, N, T, S]; each axis may be 1, and -inf hides a key.
        is_causal: hide the keys to the right of each query.
        scale: factor of the scores, by default 1 / sqrt(H x number of terms).
        dtype: that of the result, by default float32 or wider.

    Returns:
        Probabilities [B, N, T, S]; a query without a visible key has 0 everywhere.

    Raises:
        ValueError: relative terms without `index`, an index of another length or with rows beyond the table, a mask of
            floating-point numbers, a bias of integers, either with other than four axes, and positions that do not
            exist. Traced values are not checked: rows beyond the table count as the last one, and the result for
            positions beyond the keys is unspecified.

    Example:
        >>> import jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> q, k, rel_k = jnp.ones((1, 2, 1, 4)), jnp.ones((1, 2, 1, 4)), jnp.ones((16, 1, 4))
        >>> index = dj.relative_index(2, 2, buckets=8, max_distance=32)
        >>> dj.attention_probabilities(q, k, rel_k, index=index, is_causal=True)[0, 0].tolist()
        [[1.0, 0.0], [0.5, 0.5]]
    """
    check_arguments(q, k, query_positions, mask, bias)
    scores = c2c_scores(q, k)
    mask = visible_pairs(mask, q, k, query_positions, is_causal, bias=bias)
    positions = position_scores(q, k, rel_k, rel_q, index=index, query_positions=query_positions)
    if positions is not None:
        scores += positions
    scores = scores * (attention_scale(q, rel_k, rel_q) if scale is None else scale)
    return masked_softmax(scores if bias is None else scores + bias.astype(scores.dtype), mask, dtype)


def position_scores(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    rel_k: Float[Array, "R N H"] | None,
    rel_q: Float[Array, "R N H"] | None,
    *,
    index: Index | None,
    query_positions: Int[Array, "B T"] | None,
) -> Float[Array, "B N T S"] | None:
    """c2p + p2c in float32 or wider, or the one that is not None, or None; arguments as `attention_probabilities`."""
    if rel_k is None and rel_q is None:
        return None
    index, at = required_index(index, q, k, query_positions), query_positions
    terms = []
    if rel_k is not None:
        terms.append(c2p_scores(q, rel_k, index) if at is None else c2p_scores_at(q, rel_k, index, at))
    if rel_q is not None:
        p2c = p2c_scores(k, rel_q, index)
        terms.append(p2c if at is None else take_queries(p2c, at))
    return functools.reduce(jnp.add, map(upcast, terms))


def visible_pairs(
    mask: Array | None,
    q: Array,
    k: Array,
    query_positions: Int[Array, "B T"] | None,
    is_causal: bool,
    segment_ids: Int[Array, "B S"] | None = None,
    bias: Float[Array, "#B #N #T #S"] | None = None,
    order: Int[Array, "B S"] | None = None,
) -> Bool[Array, "#B #N #T #S"] | None:
    """The mask as booleans; causal, within segments and in order on request, without the pairs whose bias is -inf."""
    mask = None if mask is None else as_boolean_mask("mask", mask)
    if bias is not None:
        # Without this a query whose visible keys all have -inf is NaN, or attends to keys that the mask hides.
        finite = bias != -jnp.inf
        mask = finite if mask is None else mask & finite
    if segment_ids is not None:
        segments = segment_mask(segment_ids, query_positions)
        mask = segments if mask is None else mask & segments
    if order is not None:
        ordered = order_mask(order, query_positions)
        mask = ordered if mask is None else mask & ordered
    if not is_causal:
        return mask
    queries = jnp.arange(q.shape[1])[None] if query_positions is None else query_positions
    causal = causal_mask(queries, k.shape[1])[:, None]
    return causal if mask is None else mask & causal


def check_arguments(q: Array, k: Array, query_positions: Array | None, mask: Array | None, bias: Array | None) -> None:
    """Raise ValueError for a mask, a bias or query positions that do not fit these queries and keys."""
    (B, T, N, _), S = q.shape, k.shape[1]
    if mask is not None:
        check_axes("mask", mask)
        check_pairs("mask", mask, (B, N, T, S))
    if bias is not None:
        check_bias(bias)
        check_pairs("bias", bias, (B, N, T, S))
    if query_positions is not None:
        if query_positions.shape != (B, T):
            raise ValueError(f"query_positions has shape {query_positions.shape}, expected {(B, T)} as the queries")
        check_range("query_positions", query_positions, S)


def required_index(index: Index | None, q: Array, k: Array, query_positions: Array | None) -> Index:
    """The index of relative terms; raises ValueError if it is None, or if its length is not that of the distances."""
    if index is None:
        raise ValueError("index: relative terms need the table row of each distance, see positions.relative_index")
    T, S = q.shape[1] if query_positions is None else k.shape[1], k.shape[1]
    if index.shape[0] != T + S - 1:
        raise ValueError(
            f"index has {index.shape[0]} entries, but {T} queries and {S} keys have {T + S - 1} distances; use "
            f"relative_index({T}, {S}, ...)"
        )
    return index
