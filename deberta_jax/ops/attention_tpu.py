"""Disentangled attention on TPU (Pallas): one kernel forward, one backward; scores never reach main memory.

Queries are processed in tiles of 128. A tile's scores by distance become scores by key when row t is rotated by t,
which the vector unit does in place. The backward kernel recomputes scores and probabilities.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

from deberta_jax.ops.dropout import drop
from deberta_jax.ops.fused import KernelInputs, KernelSettings, fused_attention, tile_keep_mask
from deberta_jax.ops.operands import Operands

# Rows of a tile, and lanes of a vector register.
TILE = 128
# The score of a hidden pair: finite, so that no row has inf - inf.
_HIDDEN = float(np.finfo(np.float32).min)
# The grid iterates over heads, sequences and tiles of queries; the backward kernel accumulates over the last two.
_COMPILER = pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=96 << 20)


def is_supported() -> bool:
    """Whether the current devices are TPUs that can rotate rows by different amounts: v5 and later.

    The devices are those of the current mesh or, without one, JAX's default device.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    return device.platform == "tpu" and not device.device_kind.startswith(("TPU v2", "TPU v3", "TPU v4"))


def pallas_tpu(operands: Operands, **options: Any) -> Float[Array, "B M N H"]:
    """`ops.attention.disentangled_attention` within one sequence; options as `fused.fused_attention`."""
    return fused_attention(_attention, (TILE, TILE), operands, **options)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(settings: KernelSettings, inputs: KernelInputs) -> Float[Array, "B N T H"]:
    B, N, T, H = inputs.q.shape
    return pl.pallas_call(
        functools.partial(_forward_kernel, settings),
        grid=(N, B, T // TILE),
        in_specs=[_specs(inputs)],
        out_specs=_tile(H),
        out_shape=jax.ShapeDtypeStruct((B, N, T, H), inputs.v.dtype),
        scratch_shapes=[pltpu.VMEM((TILE, T), jnp.float32)],
        compiler_params=_COMPILER,
        interpret=settings.interpret,
        name="disentangled_attention",
    )(inputs)


def _attention_forward(settings: KernelSettings, inputs: KernelInputs) -> tuple[Float[Array, "B N T H"], KernelInputs]:
    return _attention(settings, inputs), inputs


def _attention_backward(
    settings: KernelSettings, inputs: KernelInputs, gradient: Float[Array, "B N T H"]
) -> tuple[KernelInputs]:
    B, N, T, H = inputs.q.shape
    tables = [None if rel is None else jax.ShapeDtypeStruct(rel.shape, jnp.float32) for rel in inputs[3:5]]
    q, k, v, rel_k, rel_q = pl.pallas_call(
        functools.partial(_backward_kernel, settings),
        grid=(N, B, T // TILE),
        in_specs=[_specs(inputs), _tile(H)],
        out_specs=list(_specs(inputs)[:5]),
        out_shape=[*(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs[:3]), *tables],
        scratch_shapes=[pltpu.VMEM((TILE, T), jnp.float32), *[pltpu.VMEM((T, H), jnp.float32)] * 2],
        compiler_params=_COMPILER,
        interpret=settings.interpret,
        name="disentangled_attention_backward",
    )(inputs, gradient)
    rel_k, rel_q = (
        None if rel is None else gradient.astype(rel.dtype)
        for rel, gradient in zip(inputs[3:5], (rel_k, rel_q), strict=True)
    )
    return (KernelInputs(q, k, v, rel_k, rel_q, None, None, None, None),)


_attention.defvjp(_attention_forward, _attention_backward)


def _tile(width: int) -> pl.BlockSpec:
    return pl.BlockSpec((1, 1, TILE, width), lambda n, b, i: (b, n, i, 0))


def _specs(inputs: KernelInputs) -> KernelInputs:
    """Which block of each input the grid (head, sequence, tile of queries) reads."""
    T, H = inputs.q.shape[2:]
    whole = pl.BlockSpec((1, 1, T, H), lambda n, b, i: (b, n, 0, 0))
    table = pl.BlockSpec((1, 2 * T, H), lambda n, b, i: (n, 0, 0))
    scalars = pl.BlockSpec(memory_space=pltpu.SMEM)
    mask = inputs.mask
    # An axis of size 1 is broadcast.
    sequences, heads = (1, 1) if mask is None else (int(size > 1) for size in mask.shape[:2])
    specs = KernelInputs(
        q=_tile(H),
        k=whole,
        v=whole,
        rel_k=table,
        rel_q=table,
        segment_ids=pl.BlockSpec((1, T), lambda n, b, i: (b, 0)),
        mask=pl.BlockSpec((1, 1, TILE, T), lambda n, b, i: (b * sequences, n * heads, i, 0)),
        seed=scalars,
        offset=scalars,
    )
    return KernelInputs(*(None if x is None else spec for spec, x in zip(specs, inputs, strict=True)))


def _forward_kernel(settings: KernelSettings, inputs: KernelInputs, out: Any, scores: Any) -> None:
    probabilities = _probabilities(settings, inputs, scores)
    keep = _keep_mask(settings, inputs)
    if keep is not None:
        probabilities = drop(probabilities, settings.dropout_rate, keep)
    v = inputs.v[0, 0]
    out[0, 0] = _product(probabilities.astype(v.dtype), v).astype(out.dtype)


def _backward_kernel(
    settings: KernelSettings,
    inputs: KernelInputs,
    gradient: Any,
    q_gradient: Any,
    k_gradient: Any,
    v_gradient: Any,
    rel_k_gradient: Any,
    rel_q_gradient: Any,
    scores: Any,
    k_sum: Any,
    v_sum: Any,
) -> None:
    b, i, tiles = pl.program_id(1), pl.program_id(2), scores.shape[1] // TILE

    @pl.when(i == 0)
    def _() -> None:
        k_sum[...] = jnp.zeros_like(k_sum)
        v_sum[...] = jnp.zeros_like(v_sum)

    @pl.when((i == 0) & (b == 0))
    def _() -> None:
        for table in (rel_k_gradient, rel_q_gradient):
            if table is not None:
                table[...] = jnp.zeros_like(table)

    q, k, v, context = inputs.q[0, 0], inputs.k[0, 0], inputs.v[0, 0], gradient[0, 0]
    probabilities = _probabilities(settings, inputs, scores)
    keep = _keep_mask(settings, inputs)
    dropped, probability_gradient = probabilities, _product(context, v, transposed=True)
    if keep is not None:
        dropped, probability_gradient = (drop(x, settings.dropout_rate, keep) for x in (dropped, probability_gradient))
    v_sum[...] += _product(dropped.astype(v.dtype).T, context)
    mean = jnp.sum(probabilities * probability_gradient, axis=-1, keepdims=True)
    score_gradient = probabilities * (probability_gradient - mean) * settings.scale
    narrow = score_gradient.astype(q.dtype)
    q_sum = _product(narrow, k)
    k_sum[...] += _product(narrow.T, q)

    if rel_k_gradient is not None:
        window = pl.ds((tiles - 1 - i) * TILE, scores.shape[1] + TILE)
        by_distance = _by_distance(_reverse(narrow)).astype(q.dtype)
        q_sum += _reverse(_product(by_distance, inputs.rel_k[0, window]))
        rel_k_gradient[0, window] += _product(by_distance.T, _reverse(q).astype(q.dtype))
    if rel_q_gradient is not None:
        scores[...] = score_gradient
        _accumulate_p2c(inputs, scores, k_sum, rel_q_gradient)
    q_gradient[0, 0] = q_sum.astype(q_gradient.dtype)

    @pl.when(i == tiles - 1)
    def _() -> None:
        k_gradient[0, 0] = k_sum[...].astype(k_gradient.dtype)
        v_gradient[0, 0] = v_sum[...].astype(v_gradient.dtype)


def _accumulate_p2c(inputs: KernelInputs, score_gradient: Any, k_sum: Any, rel_q_gradient: Any) -> None:
    """Add the p2c term's gradients of keys and of the relative table, one tile of keys after the other."""
    i, tiles = pl.program_id(2), score_gradient.shape[1] // TILE

    def add_tile(j: Any, _: None) -> None:
        keys, window = pl.ds(j * TILE, TILE), pl.ds((tiles - 1 - j + i) * TILE, 2 * TILE)
        k = inputs.k[0, 0, keys]
        by_distance = _by_distance(_reverse(score_gradient[:, keys].T.astype(k.dtype))).astype(k.dtype)
        k_sum[keys] += _reverse(_product(by_distance, inputs.rel_q[0, window]))
        rel_q_gradient[0, window] += _product(by_distance.T, _reverse(k).astype(k.dtype))

    jax.lax.fori_loop(0, tiles, add_tile, None)


def _probabilities(settings: KernelSettings, inputs: KernelInputs, scores: Any) -> Float[Array, "T S"]:
    """The probabilities of one tile of queries over all keys; `scores` is scratch memory of that shape."""
    i, tiles = pl.program_id(2), scores.shape[1] // TILE
    q, k = inputs.q[0, 0], inputs.k[0, 0]
    total = _product(q, k, transposed=True)
    if inputs.rel_k is not None:
        window = pl.ds((tiles - 1 - i) * TILE, scores.shape[1] + TILE)
        total += _by_key(_product(q, inputs.rel_k[0, window], transposed=True))
    scores[...] = total
    if inputs.rel_q is not None:

        def add_tile(j: Any, _: None) -> None:
            keys, window = pl.ds(j * TILE, TILE), pl.ds((tiles - 1 - j + i) * TILE, 2 * TILE)
            by_distance = _product(inputs.k[0, 0, keys], inputs.rel_q[0, window], transposed=True)
            scores[:, keys] += _by_key(by_distance).T

        jax.lax.fori_loop(0, tiles, add_tile, None)
    total = scores[...] * settings.scale
    if inputs.mask is not None:
        total = jnp.where(inputs.mask[0, 0].astype(jnp.int32) != 0, total, _HIDDEN)
    highest = jnp.max(total, axis=-1, keepdims=True)
    weights = jnp.exp(total - highest)
    # A query without a visible key attends to nothing.
    return jnp.where(highest == _HIDDEN, 0, weights / jnp.sum(weights, axis=-1, keepdims=True))


def _keep_mask(settings: KernelSettings, inputs: KernelInputs) -> Bool[Array, "T S"] | None:
    n, b, i = (pl.program_id(axis) for axis in range(3))
    shape = TILE, inputs.k.shape[2]
    return tile_keep_mask(settings, inputs, sequence=b, head=n, start=(i * TILE, 0), shape=shape)


def _by_key(by_distance: Float[Array, "T W"]) -> Float[Array, "T S"]:
    """out[t, s] = by_distance[t, T - 1 - t + s], W = S + T."""
    T, W = by_distance.shape
    return pltpu.roll(by_distance, W - T + 1, 1, stride=1, stride_axis=0)[:, : W - T]


def _by_distance(by_key: Float[Array, "T S"]) -> Float[Array, "T W"]:
    """The transpose of `_by_key`, for rows in reverse order: the rotation can only grow with the row."""
    T, S = by_key.shape
    wide = jnp.concatenate([by_key, jnp.zeros((T, T), by_key.dtype)], axis=1)
    return pltpu.roll(wide, 0, 1, stride=1, stride_axis=0)


def _reverse(x: Float[Array, "T X"]) -> Float[Array, "T X"]:
    """The rows of a tile in reverse order, in float32: a product with a permutation, which is exact."""
    row, column = (jax.lax.broadcasted_iota(jnp.int32, (TILE, TILE), axis) for axis in (0, 1))
    return _product(jnp.where(row + column == TILE - 1, 1.0, 0.0).astype(x.dtype), x)


def _product(x: Float[Array, "I J"], y: Float[Array, "..."], *, transposed: bool = False) -> Float[Array, "I K"]:
    """x y, or x with y transposed, in float32."""
    return jax.lax.dot_general(
        x,
        y,
        (((1,), (1 if transposed else 0,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
