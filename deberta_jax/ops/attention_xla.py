"""Disentangled attention in plain XLA: all heads at once, or one head after the other."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from deberta_jax.ops.devices import Arrays, Axes, Offset, on_each_device
from deberta_jax.ops.dropout import drop, keep_mask
from deberta_jax.ops.operands import Operands
from deberta_jax.ops.precision import einsum
from deberta_jax.ops.scores import Index, attention_probabilities, visible_pairs
from deberta_jax.sharding import MESH_AXES, current_mesh

# The logical axes of operands.
_AXES: Axes = {
    **dict.fromkeys("qkv", ("batch", None, "heads", None)),
    **dict.fromkeys(("rel_k", "rel_q"), (None, "heads", None)),
    **dict.fromkeys(("mask", "bias"), ("batch", "heads", None, None)),
    **dict.fromkeys(("query_positions", "segment_ids", "order"), ("batch", None)),
}


class Place(NamedTuple):
    """The first sequence and the first head of operands in a larger batch, and its numbers of sequences and heads."""

    sequence: Int[Array, ""] | int
    head: Int[Array, ""] | int
    sequences: int
    heads: int


def xla(operands: Operands, **options: Any) -> Float[Array, "B T N H"]:
    """All heads at once."""
    return _on_mesh(_all_heads, operands, options)


def xla_per_head(operands: Operands, **options: Any) -> Float[Array, "B T N H"]:
    """One head after the other: the scores of one head stay in a CPU's cache."""
    return _on_mesh(_per_head, operands, options)


def _on_mesh(
    attend: Callable[..., Float[Array, "B T N H"]], operands: Operands, options: dict[str, Any]
) -> Float[Array, "B T N H"]:
    """Attention of each device's own sequences and heads; on a mesh of other axes, as XLA chooses."""
    B, _, N, _ = operands.q.shape
    mesh = current_mesh()
    if mesh is None or not mesh.shape.keys() & set(MESH_AXES):
        return attend(operands, **options)
    traced = {name: x for name, x in options.items() if isinstance(x, jax.Array)}

    def run(arrays: Arrays, offset: Offset) -> Float[Array, "B T N H"]:
        local = Operands(**{name: arrays[name] for name in Operands._fields})
        place = Place(offset(0), offset(2), B, N)
        return attend(local, **options | {name: arrays[name] for name in traced}, place=place)

    return on_each_device(run, operands._asdict() | traced, _AXES)


def context_and_probabilities(
    operands: Operands,
    *,
    index: Index | None,
    scale: float,
    is_causal: bool,
    dropout_rate: float,
    place: Place | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B N T S"]]:
    """Context, and probabilities before dropout in `dtype`; the backward pass keeps them.

    `place` decides which entries drop: that of the operands in a larger batch.
    """
    q, k, v, rel_k, rel_q, query_positions, segment_ids, _, seed, bias, order = operands
    mask = visible_pairs(operands.mask, q, k, query_positions, is_causal, segment_ids, order=order)
    options: dict[str, Any] = {
        "index": index,
        "query_positions": query_positions,
        "mask": mask,
        "bias": bias,
        "scale": scale,
    }
    probabilities = attention_probabilities(q, k, rel_k, rel_q, **options, dtype=dtype)
    weights = probabilities
    if seed is not None:
        B, N, T, S = probabilities.shape
        place = place or Place(0, 0, B, N)
        shape, start = (place.sequences, place.heads, T, S), (place.sequence, place.head, 0, 0)
        keep = keep_mask(probabilities.shape, dropout_rate, seed=seed, full_shape=shape, start=start)
        weights = drop(probabilities, dropout_rate, keep)
    return einsum("BNTS,BSNH->BTNH", weights.astype(v.dtype), v), probabilities


def _all_heads(operands: Operands, **options: Any) -> Float[Array, "B T N H"]:
    return context_and_probabilities(operands, **options, dtype=operands.v.dtype)[0]


def _per_head(
    operands: Operands, *, is_causal: bool, place: Place | None = None, **options: Any
) -> Float[Array, "B T N H"]:
    B, _, N, _ = operands.q.shape
    place = place or Place(0, 0, B, N)
    at, segment_ids = operands.query_positions, operands.segment_ids
    mask = visible_pairs(operands.mask, operands.q, operands.k, at, is_causal, segment_ids, order=operands.order)
    operands = operands._replace(mask=mask, segment_ids=None, order=None)
    # A mask or bias without an axis of heads is the same for each.
    by_head = {
        name: jnp.moveaxis(pairs, 1, 0)[:, :, None]
        for name in ("mask", "bias")
        if (pairs := getattr(operands, name)) is not None and pairs.shape[1] > 1
    }
    # [N, ..., 1, H], to scan over the first axis; the layout is the one that `xla` expects.
    tensors = [None if x is None else jnp.moveaxis(x, -2, 0)[..., None, :] for x in operands[:5]]

    def attend(head: Any) -> Float[Array, "B T H"]:
        number, (q, k, v, rel_k, rel_q), pairs = head
        one = operands._replace(q=q, k=k, v=v, rel_k=rel_k, rel_q=rel_q, **pairs)
        at = place._replace(head=place.head + number)
        return _all_heads(one, **options, is_causal=False, place=at)[:, :, 0]

    return jnp.moveaxis(jax.lax.map(attend, (jnp.arange(N), tensors, by_head)), 0, 2)
