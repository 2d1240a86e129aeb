"""Disentangled attention (He et al. 2021, section 3.1): the choice of an implementation, and the ones in plain XLA."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray, Shaped

from deberta_jax.errors import InputError
from deberta_jax.ops import attention_cudnn, attention_gpu, attention_tpu
from deberta_jax.ops.arguments import check_operands, check_rows
from deberta_jax.ops.devices import Arrays, Axes, Offset, on_each_device
from deberta_jax.ops.dropout import drop, dropout_seed, keep_mask
from deberta_jax.ops.masks import as_boolean_mask
from deberta_jax.ops.operands import Operands
from deberta_jax.ops.precision import einsum
from deberta_jax.ops.scores import (
    Index,
    attention_probabilities,
    attention_scale,
    check_arguments,
    required_index,
    visible_pairs,
)
from deberta_jax.sharding import MESH_AXES, current_device, current_mesh, on_explicit_meshes

# The logical axes of operands.
_AXES: Axes = {
    **dict.fromkeys("qkv", ("batch", None, "heads", None)),
    **dict.fromkeys(("rel_k", "rel_q"), (None, "heads", None)),
    **dict.fromkeys(("mask", "bias"), ("batch", "heads", None, None)),
    **dict.fromkeys(("query_positions", "segment_ids", "order"), ("batch", None)),
}
# Scores of at most this many bytes stay in a CPU's cache from one operation to the next.
CACHED_BYTES = 1 << 26


class Place(NamedTuple):
    """The first sequence and the first head of operands in a larger batch, and its numbers of sequences and heads."""

    sequence: Int[Array, ""] | int
    head: Int[Array, ""] | int
    sequences: int
    heads: int


@on_explicit_meshes
def disentangled_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    rel_k: Float[Array, "R N H"] | None = None,
    rel_q: Float[Array, "R N H"] | None = None,
    *,
    index: Index | None = None,
    query_positions: Int[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B S"] | None = None,
    order: Int[Array, "B S"] | None = None,
    mask: Shaped[Array, "#B #N #T S"] | None = None,
    bias: Float[Array, "#B #N #T #S"] | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    key: PRNGKeyArray | None = None,
    implementation: str = "auto",
) -> Float[Array, "B T N H"]:
    """Attention over content and relative positions, shaped as `jax.nn.dot_product_attention` (equation 4).

    Arguments and errors as `attention_probabilities`; `dropout_rate` in [0, 1) applies to the probabilities if `key` is
    given.
    Tokens attend to tokens with the same number in `segment_ids`, as in `masks.segment_mask`: packed documents and
    padding, without a mask of all pairs in memory. Negative numbers are padding; 0 is a document (models read 0 as
    padding). They attend to tokens with the same or a smaller number in `order`, as in `masks.order_mask`: language
    models in any direction, and sequence-to-sequence models.

    `implementation` is "auto" (`attention_implementation`) or a name of `IMPLEMENTATIONS` (docs/attention.md). All drop
    the same entries, but the Pallas kernels drop gathered queries by their positions, and need equal queries where a
    position is repeated. "cudnn" and "pallas_gpu" have never run on a GPU, so they are not a default there. "cudnn" and
    the kernels have no forward mode and no second derivatives.

    On a mesh with Explicit axes, the result has the sharding of the batch axis of k. Raises InputError for an unknown
    implementation, and for one that the current device does not have or that does not support the arguments, and
    ValueError for shapes that do not fit together.
    """
    seed = None if key is None or dropout_rate == 0.0 else dropout_seed(key)
    operands = Operands(q, k, v, rel_k, rel_q, query_positions, segment_ids, mask, seed, bias, order)
    operands, options = _prepare(operands, index, scale, dropout_rate)
    options |= {"is_causal": is_causal}
    if implementation != "auto":
        _check_implementation(implementation)
        return IMPLEMENTATIONS[implementation](operands, **options)
    platforms = "cpu", "tpu" if attention_tpu.is_supported() else "gpu"
    details: dict[str, Any] = {"is_gathered": query_positions is not None, "has_bias": bias is not None}
    details |= {"key_length": k.shape[1], "dtype": q.dtype}
    names = (attention_implementation(q.shape, platform=platform, **details) for platform in platforms)
    cpu, other = (IMPLEMENTATIONS[name] for name in names)
    if cpu is other:
        return cpu(operands, **options)
    return jax.lax.platform_dependent(operands, cpu=partial(cpu, **options), default=partial(other, **options))


@on_explicit_meshes
def attention_with_probabilities(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    rel_k: Float[Array, "R N H"] | None = None,
    rel_q: Float[Array, "R N H"] | None = None,
    *,
    index: Index | None = None,
    query_positions: Int[Array, "B T"] | None = None,
    mask: Shaped[Array, "#B #N #T S"] | None = None,
    bias: Float[Array, "#B #N #T #S"] | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B N T S"]]:
    """The result of `disentangled_attention`, and the probabilities before dropout that gave it ("xla")."""
    seed = None if key is None or dropout_rate == 0.0 else dropout_seed(key)
    operands = Operands(q, k, v, rel_k, rel_q, query_positions, None, mask, seed, bias)
    operands, options = _prepare(operands, index, scale, dropout_rate)
    return _attend(operands, **options, is_causal=is_causal)


def _prepare(
    operands: Operands, index: Index | None, scale: float | None, dropout_rate: float
) -> tuple[Operands, dict[str, Any]]:
    """Operands with a boolean mask, and options with the scale; raises ValueError for invalid ones."""
    q, k, v, rel_k, rel_q, query_positions, segment_ids, mask, _, bias, order = operands
    if not 0 <= dropout_rate < 1:
        raise ValueError(f"dropout_rate is {dropout_rate}, expected a number from 0 to below 1")
    check_operands(q, k, v, (rel_k, rel_q), segment_ids, order)
    check_arguments(q, k, query_positions, mask, bias)
    name = "order" if segment_ids is None else "segment_ids"
    if (segment_ids is not None or order is not None) and query_positions is None and q.shape[1] != k.shape[1]:
        raise ValueError(
            f"{name}: {q.shape[1]} queries and {k.shape[1]} keys are not the same tokens; pass query_positions, or "
            "mask instead"
        )
    mask = None if mask is None else as_boolean_mask("mask", mask)
    bias = None if bias is None else jnp.broadcast_to(bias, (*bias.shape[:3], k.shape[1]))
    if rel_k is not None or rel_q is not None:
        index = required_index(index, q, k, query_positions)
        for table in (rel_k, rel_q):
            if table is not None:
                check_rows(index, table)
    scale = attention_scale(q, rel_k, rel_q) if scale is None else scale
    return operands._replace(mask=mask, bias=bias), {"index": index, "scale": scale, "dropout_rate": dropout_rate}


def _check_implementation(name: str) -> None:
    """Raise InputError for an unknown implementation, and for one that the current devices do not have."""
    if name not in IMPLEMENTATIONS:
        raise InputError(f"implementation is {name!r}, expected auto, {', '.join(IMPLEMENTATIONS)}")
    platform, current = PLATFORMS.get(name), current_device().platform
    if platform not in (None, current):
        raise InputError(
            f"implementation: {name!r} runs on {str(platform).upper()}, and the current device is a {current.upper()}; "
            "use 'auto'"
        )
    if name == "pallas_tpu" and not attention_tpu.is_supported():
        raise InputError(f"implementation: {name!r} runs on TPU v5 and later, not on {current_device().device_kind}")


def attention_implementation(
    shape: tuple[object, ...],
    *,
    key_length: object = None,
    dtype: DTypeLike = jnp.bfloat16,
    is_gathered: bool = False,
    has_bias: bool = False,
    platform: str | None = None,
) -> str:
    """The implementation that `disentangled_attention` chooses for queries of this shape [B, T, N, H].

    `is_gathered` is for queries at `query_positions`. `platform` is "cpu", "gpu" or "tpu" (v5 or later), by default
    that of the current devices (docs/attention.md). Raises ValueError for another platform or number of axes.
    """
    if len(shape) != 4:
        raise ValueError(f"shape is {tuple(shape)}, expected [B, T, N, H]")
    if platform not in (None, "cpu", "gpu", "tpu"):
        raise ValueError(f"platform is {platform!r}, expected cpu, gpu or tpu")
    sizes: tuple[Any, ...] = (*shape, shape[1] if key_length is None else key_length)
    B, T, N, _, S = sizes
    if platform is None:
        platform = "tpu" if attention_tpu.is_supported() else jax.default_backend()
    if platform == "tpu":
        within_sequence = is_gathered or T == S
        return "pallas_tpu" if within_sequence and not has_bias and dtype != jnp.float64 else "xla"
    score_bytes = B * N * T * S * 4
    # The size is unknown in a program that is exported with a symbolic batch size.
    is_large = isinstance(score_bytes, int) and score_bytes > CACHED_BYTES
    return "xla_per_head" if platform == "cpu" and is_large else "xla"


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


def _attend(
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
    return _attend(operands, **options, dtype=operands.v.dtype)[0]


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


IMPLEMENTATIONS: dict[str, Callable[..., Float[Array, "B T N H"]]] = {
    "xla": xla,
    "xla_per_head": xla_per_head,
    "cudnn": attention_cudnn.cudnn,
    "pallas_tpu": attention_tpu.pallas_tpu,
    "pallas_gpu": attention_gpu.pallas_gpu,
}
# The devices of the implementations that do not run everywhere.
PLATFORMS = {"cudnn": "gpu", "pallas_tpu": "tpu", "pallas_gpu": "gpu"}
