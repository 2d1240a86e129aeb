"""Disentangled attention as functions of arrays (He et al. 2021, section 3.1).

Scores against relative positions are formed for every distance, then turned into scores for every key by a relative
shift: slices and reshapes, no gather over [T, S]. `rows` says which row of the relative table a distance uses, as
`positions.relative_index` gives it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

from deberta_jax.ops import attention_tpu
from deberta_jax.ops.dropout import drop, keep_mask
from deberta_jax.ops.dropout import seed as dropout_seed
from deberta_jax.ops.precision import accumulation_dtype

# Queries are taken in blocks of this many: a block of t queries meets S + t - 1 distances, all of them T + S - 1.
QUERY_BLOCK = 64
# Scores of this size and below stay in a CPU's cache from one operation to the next.
CACHED_BYTES = 1 << 26


def c2c_scores(q: Float[Array, "B T N H"], k: Float[Array, "B S N H"]) -> Float[Array, "B N T S"]:
    """Content-to-content: how well the word at s answers the word at t (eq. 4, first term), in float32 or wider."""
    return jnp.einsum("BTNH,BSNH->BNTS", q, k, preferred_element_type=accumulation_dtype(q.dtype))


def c2p_scores(
    q: Float[Array, "B T N H"], rel_k: Float[Array, "R N H"], rows: Int[np.ndarray | Array, "W"]
) -> Float[Array, "B N T S"]:
    """Content-to-position: how much the word at t attends to the offset t - s (eq. 4, second term).

    `rows` has one entry for each of the W = T + S - 1 distances, largest first.
    """
    B, T, N, H = q.shape
    S = rows.shape[0] - T + 1
    block = min(QUERY_BLOCK, T)
    blocks = math.ceil(T / block)
    padding = blocks * block - T
    if padding:
        q = jnp.pad(q, ((0, 0), (0, padding), (0, 0), (0, 0)))
        rows = jnp.concatenate([jnp.broadcast_to(rows[:1], (padding,)), jnp.asarray(rows)])
    width = S + block - 1
    first = [(blocks - 1 - a) * block for a in range(blocks)]
    windows = jnp.stack([jnp.asarray(rows[start : start + width]) for start in first])
    # Heads and blocks lead in both factors: no transpose is left to the backward pass.
    q = q.reshape(B, blocks, block, N, H).transpose(3, 1, 0, 2, 4).reshape(N, blocks, B * block, H)
    rel_k = table_rows(rel_k.swapaxes(0, 1), windows)
    scores = jnp.einsum("NAMH,NAWH->NAMW", q, rel_k, preferred_element_type=accumulation_dtype(q.dtype))
    scores = relative_shift(scores.reshape(N, blocks, B, block, width))
    return scores.transpose(2, 0, 1, 3, 4).reshape(B, N, blocks * block, S)[:, :, :T]


def p2c_scores(
    k: Float[Array, "B S N H"], rel_q: Float[Array, "R N H"], rows: Int[np.ndarray | Array, "W"]
) -> Float[Array, "B N T S"]:
    """Position-to-content: how much the word at s answers the offset t - s (eq. 4, third term).

    The row is that of c2p, bucket(t - s), as in all released code, not the paper's bucket(s - t) (spec 1.4).
    """
    return c2p_scores(k, rel_q, rows[::-1]).swapaxes(2, 3)


def table_rows(table: Float[Array, "N R H"], rows: Int[np.ndarray | Array, "*W"]) -> Float[Array, "N *W H"]:
    """The row of a relative table for each distance, heads outside; its gradient is summed in float32 or wider.

    Hundreds of distances share a far bucket, and a narrow sum of so many terms stops growing.
    """
    return table.astype(accumulation_dtype(table.dtype))[:, jnp.asarray(rows)].astype(table.dtype)


@jax.custom_jvp
def relative_shift(scores: Float[Array, "*batch T W"]) -> Float[Array, "*batch T S"]:
    """Scores by distance to scores by key: out[t, s] = scores[t, T - 1 - t + s], S = W - T + 1.

    Read with rows one entry shorter, each row of the flat array starts one entry earlier.
    """
    *batch, T, W = scores.shape
    if T == 1:
        return scores
    flat = scores.reshape(*batch, T * W)[..., T - 1 : T * W - 1]
    return flat.reshape(*batch, T, W - 1)[..., : W - T + 1]


@relative_shift.defjvp
def _relative_shift_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # As the transpose of its transpose: going backward, that is what runs.
    shifted = relative_shift(*primals)
    (tangent,) = jax.linear_transpose(_relative_unshift, jax.ShapeDtypeStruct(shifted.shape, shifted.dtype))(*tangents)
    return shifted, tangent


def _relative_unshift(gradient: Float[Array, "*batch T S"]) -> Float[Array, "*batch T W"]:
    """Each row back to its distances, one run of W read for a row: on CPU four times as fast as pads and reshapes."""
    *batch, T, S = gradient.shape
    lead = len(batch)
    padded = jnp.pad(gradient, [(0, 0)] * (lead + 1) + [(T - 1, T - 1)])
    run = jax.lax.GatherDimensionNumbers(
        offset_dims=(*range(lead), lead + 1), collapsed_slice_dims=(lead,), start_index_map=(lead, lead + 1)
    )
    starts = np.stack([np.arange(T)] * 2, axis=1)
    sizes = (*batch, 1, S + T - 1)
    return jax.lax.gather(padded, starts, run, sizes, indices_are_sorted=True, unique_indices=True, mode="clip")


def rows_at(scores: Float[Array, "B N T W"], query_positions: Int[Array, "B M"]) -> Float[Array, "B N M W"]:
    """The rows of the queries that stand at `query_positions`."""
    return jax.vmap(lambda one, at: one[:, at])(scores, query_positions)


def c2p_scores_at(
    q: Float[Array, "B M N H"],
    rel_k: Float[Array, "R N H"],
    rows: Int[np.ndarray | Array, "W"],
    query_positions: Int[Array, "B M"],
) -> Float[Array, "B N M S"]:
    """`c2p_scores` of gathered queries: query m stands at `query_positions[:, m]`, `rows` is that of S queries, S keys.

    A query's S scores are one run of its scores by distance: one slice is cut for a query, not one for a score.
    """
    S = (rows.shape[0] + 1) // 2
    rel_k = table_rows(rel_k.swapaxes(0, 1), rows)
    scores = jnp.einsum("BMNH,NWH->BMNW", q, rel_k, preferred_element_type=accumulation_dtype(q.dtype))
    cut = jax.vmap(jax.vmap(lambda one, start: jax.lax.dynamic_slice_in_dim(one, start, S, axis=1)))
    return cut(scores, S - 1 - query_positions).swapaxes(1, 2)


def make_attention_mask(
    attention_mask: Bool[Array, "B S"] | None = None,
    segment_ids: Int[Array, "B S"] | None = None,
    pair_mask: Bool[Array, "B #N #T S"] | None = None,
    query_positions: Int[Array, "B M"] | None = None,
) -> Bool[Array, "B #N #Q S"] | None:
    """Which key a query may see: both real, both of one packed document, and `pair_mask` allows it."""
    mask = None
    for tokens, together in ((attention_mask, jnp.logical_and), (segment_ids, jnp.equal)):
        if tokens is not None:
            queries = tokens if query_positions is None else jnp.take_along_axis(tokens, query_positions, axis=1)
            pair = together(queries[:, None, :, None], tokens[:, None, None, :])
            mask = pair if mask is None else mask & pair
    if pair_mask is not None:
        if query_positions is not None and pair_mask.shape[2] > 1:
            pair_mask = jax.vmap(lambda one, at: one[:, at])(pair_mask, query_positions)
        mask = pair_mask if mask is None else mask & pair_mask
    return mask


@jax.custom_jvp
def masked_softmax(scores: Float[Array, "B N T S"], mask: Bool[Array, "#B #N #T S"] | None) -> Float[Array, "B N T S"]:
    """Softmax over the visible keys; a row that sees none is all zero, with zero gradient (spec 1.7)."""
    if mask is not None:
        # A finite fill: no inf - inf in a row without a visible key. In any other row the hidden ones become zero.
        # It hangs on the mask, since JAX would fill a constant of the scores' shape before a scan and keep it.
        fill = jnp.where(mask, 0, jnp.finfo(scores.dtype).min).astype(scores.dtype)
        scores = jnp.where(mask, scores, fill)
    exponentials = jnp.exp(scores - scores.max(-1, keepdims=True))
    weight = 1 / exponentials.sum(-1, keepdims=True)
    if mask is not None:
        weight = jnp.where(mask.any(-1, keepdims=True), weight, 0)
    return exponentials * weight


@masked_softmax.defjvp
def _masked_softmax_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    # The result alone is kept for the backward pass: it is zero wherever no gradient flows.
    probabilities = checkpoint_name(masked_softmax(*primals), "probabilities")
    weighted = probabilities * tangents[0]
    return probabilities, weighted - probabilities * weighted.sum(-1, keepdims=True)


def attention_probabilities(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    rel_k: Float[Array, "R N H"] | None = None,
    rel_q: Float[Array, "R N H"] | None = None,
    *,
    rows: Int[np.ndarray | Array, "W"] | None = None,
    query_positions: Int[Array, "B T"] | None = None,
    mask: Bool[Array, "#B #N #T S"] | None = None,
    scale: float | None = None,
) -> Float[Array, "B N T S"]:
    """Softmax of scale x (c2c + c2p + p2c), in float32 or wider, before dropout (eq. 4).

    A term is left out where its projected table is None. `scale` is 1 / sqrt(H x number of terms) by default.
    With `query_positions`, query t stands at that position among the keys and `rows` is that of S queries and S keys.
    """
    scores = c2c_scores(q, k)
    if rel_k is not None or rel_q is not None:
        if rows is None:
            raise ValueError("rows: relative terms need the row of each distance (positions.relative_index)")
        p2c = None if rel_q is None else p2c_scores(k, rel_q, rows)
        if query_positions is None:
            c2p = None if rel_k is None else c2p_scores(q, rel_k, rows)
        else:
            c2p = None if rel_k is None else c2p_scores_at(q, rel_k, rows, query_positions)
            p2c = None if p2c is None else rows_at(p2c, query_positions)
        scores = sum((term for term in (c2p, p2c) if term is not None), scores)
    scale = _scale(q, rel_k, rel_q) if scale is None else scale
    return masked_softmax(scores * scale, mask)


def disentangled_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    rel_k: Float[Array, "R N H"] | None = None,
    rel_q: Float[Array, "R N H"] | None = None,
    *,
    rows: Int[np.ndarray | Array, "W"] | None = None,
    query_positions: Int[Array, "B T"] | None = None,
    mask: Bool[Array, "#B #N #T S"] | None = None,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    key: PRNGKeyArray | None = None,
    implementation: Literal["all_heads", "head_by_head", "fused"] | None = None,
) -> Float[Array, "B T N H"]:
    """Attention with content and relative positions, shaped as `jax.nn.dot_product_attention` (eq. 4).

    Arguments as `attention_probabilities`; `dropout_rate` applies to the probabilities where `key` is given.
    `implementation` None takes one kernel ("fused", within a sequence) on TPU; on CPU the heads one after the other
    where the scores of all would not stay in the cache; all heads at once elsewhere. Each drops the same entries, but
    for gathered queries, of which "fused" drops those of their positions.
    """
    seed = None if key is None or dropout_rate == 0.0 else dropout_seed(key)
    operands = q, k, v, rel_k, rel_q, query_positions, mask, seed
    if (rel_k is not None or rel_q is not None) and rows is None:
        raise ValueError("rows: relative terms need the row of each distance (positions.relative_index)")
    scale = _scale(q, rel_k, rel_q) if scale is None else scale
    options: dict[str, Any] = {"rows": rows, "scale": scale, "dropout_rate": dropout_rate}
    if implementation is None:
        within = query_positions is not None or q.shape[1] == k.shape[1]
        large = q.shape[0] * q.shape[2] * q.shape[1] * k.shape[1] * 4 > CACHED_BYTES
        on_cpu = functools.partial(_head_by_head if large else _all_heads, **options)
        fuses = within and q.dtype != jnp.float64 and attention_tpu.runs_here()
        elsewhere = functools.partial(attention_tpu.fused_attention if fuses else _all_heads, **options)
        if on_cpu.func is elsewhere.func:
            return elsewhere(*operands)
        return jax.lax.platform_dependent(*operands, cpu=on_cpu, default=elsewhere)
    chosen: dict[str, Callable[..., Array]] = {
        "all_heads": _all_heads,
        "head_by_head": _head_by_head,
        "fused": attention_tpu.fused_attention,
    }
    return chosen[implementation](*operands, **options)


def _scale(q: Array, rel_k: Array | None, rel_q: Array | None) -> float:
    return 1 / math.sqrt(q.shape[-1] * (1 + (rel_k is not None) + (rel_q is not None)))


def _all_heads(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    rel_k: Float[Array, "R N H"] | None,
    rel_q: Float[Array, "R N H"] | None,
    query_positions: Int[Array, "B T"] | None,
    mask: Bool[Array, "#B #N #T S"] | None,
    seed: UInt32[Array, "2"] | None,
    heads: tuple[Int[Array, ""] | int, int] | None = None,
    *,
    rows: Int[np.ndarray | Array, "W"] | None,
    scale: float,
    dropout_rate: float,
) -> Float[Array, "B T N H"]:
    """`heads`: the number of the first one here, and of all there are, by which the dropped entries are chosen."""
    probabilities = attention_probabilities(
        q, k, rel_k, rel_q, rows=rows, query_positions=query_positions, mask=mask, scale=scale
    )
    if seed is not None:
        B, N, T, S = probabilities.shape
        first, N = heads or (0, N)
        keep = keep_mask(probabilities.shape, dropout_rate, seed=seed, within=(B, N, T, S), start=(0, first, 0, 0))
        probabilities = drop(probabilities, dropout_rate, keep)
    return jnp.einsum("BNTS,BSNH->BTNH", probabilities.astype(v.dtype), v)


def _head_by_head(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    rel_k: Float[Array, "R N H"] | None,
    rel_q: Float[Array, "R N H"] | None,
    query_positions: Int[Array, "B T"] | None,
    mask: Bool[Array, "#B #N #T S"] | None,
    seed: UInt32[Array, "2"] | None,
    **options: Any,
) -> Float[Array, "B T N H"]:
    N = q.shape[2]
    masks = mask if mask is not None and mask.shape[1] > 1 else None
    # [N, ..., 1, H]: a scan over the first axis, in the order that all heads want.
    scanned = [None if x is None else jnp.moveaxis(x, -2, 0)[..., None, :] for x in (q, k, v, rel_k, rel_q)]

    def one(head: Any) -> Float[Array, "B T H"]:
        number, (q, k, v, rel_k, rel_q), own = head
        own = mask if own is None else own[:, None]
        return _all_heads(q, k, v, rel_k, rel_q, query_positions, own, seed, (number, N), **options)[:, :, 0]

    masks = None if masks is None else jnp.moveaxis(masks, 1, 0)
    return jnp.moveaxis(jax.lax.map(one, (jnp.arange(N), scanned, masks)), 0, 2)
