"""Disentangled attention on TPU: one kernel forward, one backward, no score in the chip's main memory (Pallas).

Queries are taken in tiles of 128. A tile's scores by distance become scores by key when row t is rotated by t, which
the vector unit does in place. The backward kernel computes scores and probabilities again.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Int, UInt32

from deberta_jax.ops.dropout import drop, keep_mask
from deberta_jax.sharding import partition_spec

# Rows of a tile, and lanes of a vector register.
TILE = 128
# The score of what is hidden: finite, so that no row has inf - inf.
_HIDDEN = float(np.finfo(np.float32).min)
# The grid goes over heads, rows and tiles of queries; what the backward kernel sums is summed over the last two.
_COMPILER = pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=96 << 20)


class _Operands(NamedTuple):
    """What the kernels read, heads outside; and, each in its operand's place, how that is split and tiled.

    q, k and v are [B, N, T, H]. `rel_k` [N, W, H] has a row for each distance, `rel_q` the same reversed. `mask` is
    int8 [#B, #N, T, T]. `seed` [2] is that of dropout, `place` [2] the first row and the first head of this device in
    the whole batch.
    """

    q: Any
    k: Any
    v: Any
    rel_k: Any
    rel_q: Any
    mask: Any
    seed: Any
    place: Any


@dataclasses.dataclass(frozen=True)
class _Options:
    """`shape` is that of the scores of the whole batch."""

    scale: float
    dropout_rate: float
    shape: tuple[int, int, int, int]
    interpret: bool


def runs_here() -> bool:
    """Whether what is being traced is for a TPU that can rotate rows by different amounts: v5 and later.

    The devices are those of the mesh in use or, without one, JAX's default.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    return device.platform == "tpu" and not device.device_kind.startswith(("TPU v2", "TPU v3", "TPU v4"))


def fused_attention(
    q: Float[Array, "B M N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    rel_k: Float[Array, "R N H"] | None,
    rel_q: Float[Array, "R N H"] | None,
    query_positions: Int[Array, "B M"] | None,
    mask: Bool[Array, "#B #N #M T"] | None,
    seed: UInt32[Array, "2"] | None,
    *,
    rows: Int[np.ndarray | Array, "W"] | None,
    scale: float,
    dropout_rate: float,
    interpret: bool = False,
) -> Float[Array, "B M N H"]:
    """`ops.attention.disentangled_attention` within one sequence; scores and softmax in float32.

    Without `query_positions` every token is a query, M = T. Under a mesh each device takes its own rows and heads, and
    drops what it would alone. `interpret` runs the kernels on any device, slowly.
    """
    if query_positions is not None:
        # The kernels want a query for each token: a zero, whose result is not read, where none stands.
        stands = query_positions[:, None, :] == jnp.arange(k.shape[1])[None, :, None]
        slot = jnp.argmax(stands, axis=-1)
        q = jnp.where(stands.any(-1)[..., None, None], jnp.take_along_axis(q, slot[..., None, None], axis=1), 0)
        if mask is not None and mask.shape[2] > 1:
            mask = jnp.take_along_axis(mask, slot[:, None, :, None], axis=2)
    context = _self_attention(q, k, v, rel_k, rel_q, mask, seed, rows, scale, dropout_rate, interpret)
    return context if query_positions is None else jnp.take_along_axis(context, query_positions[..., None, None], 1)


def _self_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    rel_k: Float[Array, "R N H"] | None,
    rel_q: Float[Array, "R N H"] | None,
    mask: Bool[Array, "#B #N #T T"] | None,
    seed: UInt32[Array, "2"] | None,
    rows: Int[np.ndarray | Array, "W"] | None,
    scale: float,
    dropout_rate: float,
    interpret: bool,
) -> Float[Array, "B T N H"]:
    """Tokens padded to whole tiles, the relative tables spread over distances, heads outside."""
    B, T, N, _ = q.shape
    padding = -T % TILE
    if padding:
        q, k, v = (jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))) for x in (q, k, v))
        mask = jnp.ones((1, 1, 1, T), bool) if mask is None else mask
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, padding if mask.shape[2] > 1 else 0), (0, padding)))
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], T + padding, T + padding)).astype(jnp.int8)

    def by_distance(table: Float[Array, "R N H"], rows: Int[Array, "W"]) -> Float[Array, "N D H"]:
        # One more than there are distances, so that tiles of the table are whole.
        # Its gradient is summed over the distances that share a row in float32, as in `attention.table_rows`.
        rows = jnp.pad(rows, (padding, padding + 1), "edge")
        return table.astype(jnp.float32)[rows].astype(table.dtype).swapaxes(0, 1)

    rel_k = None if rel_k is None else by_distance(rel_k, jnp.asarray(rows))
    rel_q = None if rel_q is None else by_distance(rel_q, jnp.asarray(rows)[::-1])
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    operands = _Operands(q, k, v, rel_k, rel_q, mask, seed, place=None)
    options = _Options(scale, dropout_rate, (B, N, T, T), interpret)
    return _on_mesh(options, operands).swapaxes(1, 2)[:, :T]


def _on_mesh(options: _Options, operands: _Operands) -> Float[Array, "B N T H"]:
    mesh = jax.sharding.get_abstract_mesh()
    content, table = ("batch", "heads", None, None), ("heads", None, None)
    axes = _Operands(content, content, content, table, table, content, seed=(None,), place=(None,))
    split = _Operands(
        *(
            None if x is None or mesh.empty else partition_spec(names, x.shape, mesh)
            for names, x in zip(axes, operands, strict=True)
        )
    )

    def attend(operands: _Operands) -> Float[Array, "B N T H"]:
        if operands.seed is not None:
            numbers = (0 if name is None else jax.lax.axis_index(name) for name in (split.q or (None, None))[:2])
            firsts = [number * size for number, size in zip(numbers, operands.q.shape[:2], strict=True)]
            operands = operands._replace(place=jnp.asarray(firsts, jnp.int32))
        return _attention(options, operands)

    if mesh.empty:
        return attend(operands)
    return jax.shard_map(attend, in_specs=(split,), out_specs=split.q, check_vma=False)(operands)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(options: _Options, operands: _Operands) -> Float[Array, "B N T H"]:
    B, N, T, H = operands.q.shape
    return pl.pallas_call(
        functools.partial(_forward_kernel, options),
        grid=(N, B, T // TILE),
        in_specs=[_specs(operands)],
        out_specs=_tile(H),
        out_shape=jax.ShapeDtypeStruct((B, N, T, H), operands.v.dtype),
        scratch_shapes=[pltpu.VMEM((TILE, T), jnp.float32)],
        compiler_params=_COMPILER,
        interpret=options.interpret,
        name="disentangled_attention",
    )(operands)


def _attention_forward(options: _Options, operands: _Operands) -> tuple[Float[Array, "B N T H"], _Operands]:
    return _attention(options, operands), operands


def _attention_backward(options: _Options, operands: _Operands, gradient: Float[Array, "B N T H"]) -> tuple[_Operands]:
    B, N, T, H = operands.q.shape
    tables = [None if rel is None else jax.ShapeDtypeStruct(rel.shape, jnp.float32) for rel in operands[3:5]]
    q, k, v, rel_k, rel_q = pl.pallas_call(
        functools.partial(_backward_kernel, options),
        grid=(N, B, T // TILE),
        in_specs=[_specs(operands), _tile(H)],
        out_specs=list(_specs(operands)[:5]),
        out_shape=[*(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in operands[:3]), *tables],
        scratch_shapes=[pltpu.VMEM((TILE, T), jnp.float32), *[pltpu.VMEM((T, H), jnp.float32)] * 2],
        compiler_params=_COMPILER,
        interpret=options.interpret,
        name="disentangled_attention_backward",
    )(operands, gradient)
    rel_k, rel_q = (
        None if rel is None else gradient.astype(rel.dtype)
        for rel, gradient in zip(operands[3:5], (rel_k, rel_q), strict=True)
    )
    return (_Operands(q, k, v, rel_k, rel_q, None, None, None),)


_attention.defvjp(_attention_forward, _attention_backward)


def _tile(width: int) -> pl.BlockSpec:
    return pl.BlockSpec((1, 1, TILE, width), lambda n, b, i: (b, n, i, 0))


def _specs(operands: _Operands) -> _Operands:
    """How the grid (head, row, tile of queries) walks over the operands."""
    T, H = operands.q.shape[2:]
    whole = pl.BlockSpec((1, 1, T, H), lambda n, b, i: (b, n, 0, 0))
    table = pl.BlockSpec((1, 2 * T, H), lambda n, b, i: (n, 0, 0))
    scalars = pl.BlockSpec(memory_space=pltpu.SMEM)
    mask = operands.mask
    rows, heads = (1, 1) if mask is None else (int(size > 1) for size in mask.shape[:2])
    specs = _Operands(
        q=_tile(H),
        k=whole,
        v=whole,
        rel_k=table,
        rel_q=table,
        mask=pl.BlockSpec((1, 1, TILE, T), lambda n, b, i: (b * rows, n * heads, i, 0)),
        seed=scalars,
        place=scalars,
    )
    return _Operands(*(None if x is None else spec for spec, x in zip(specs, operands, strict=True)))


def _forward_kernel(options: _Options, operands: _Operands, out: Any, scores: Any) -> None:
    probabilities = _probabilities(options, operands, scores)
    keep = _keep(options, operands)
    if keep is not None:
        probabilities = drop(probabilities, options.dropout_rate, keep)
    v = operands.v[0, 0]
    out[0, 0] = _product(probabilities.astype(v.dtype), v).astype(out.dtype)


def _backward_kernel(
    options: _Options,
    operands: _Operands,
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

    q, k, v, context = operands.q[0, 0], operands.k[0, 0], operands.v[0, 0], gradient[0, 0]
    probabilities = _probabilities(options, operands, scores)
    keep = _keep(options, operands)
    dropped, by_value = probabilities, _product(context, v, transposed=True)
    if keep is not None:
        dropped, by_value = (drop(x, options.dropout_rate, keep) for x in (dropped, by_value))
    v_sum[...] += _product(dropped.astype(v.dtype).T, context)
    mean = jnp.sum(probabilities * by_value, axis=-1, keepdims=True)
    by_score = probabilities * (by_value - mean) * options.scale
    narrow = by_score.astype(q.dtype)
    q_sum = _product(narrow, k)
    k_sum[...] += _product(narrow.T, q)

    if rel_k_gradient is not None:
        window = pl.ds((tiles - 1 - i) * TILE, scores.shape[1] + TILE)
        by_distance = _by_distance(_reverse(narrow)).astype(q.dtype)
        q_sum += _reverse(_product(by_distance, operands.rel_k[0, window]))
        rel_k_gradient[0, window] += _product(by_distance.T, _reverse(q).astype(q.dtype))
    if rel_q_gradient is not None:
        scores[...] = by_score

        def of_keys(j: Any, _: None) -> None:
            keys, window = pl.ds(j * TILE, TILE), pl.ds((tiles - 1 - j + i) * TILE, 2 * TILE)
            k = operands.k[0, 0, keys]
            by_distance = _by_distance(_reverse(scores[:, keys].T.astype(k.dtype))).astype(k.dtype)
            k_sum[keys] += _reverse(_product(by_distance, operands.rel_q[0, window]))
            rel_q_gradient[0, window] += _product(by_distance.T, _reverse(k).astype(k.dtype))

        jax.lax.fori_loop(0, tiles, of_keys, None)
    q_gradient[0, 0] = q_sum.astype(q_gradient.dtype)

    @pl.when(i == tiles - 1)
    def _() -> None:
        k_gradient[0, 0] = k_sum[...].astype(k_gradient.dtype)
        v_gradient[0, 0] = v_sum[...].astype(v_gradient.dtype)


def _probabilities(options: _Options, operands: _Operands, scores: Any) -> Float[Array, "T S"]:
    """Of one tile of queries, all keys; `scores` is room for them."""
    i, tiles = pl.program_id(2), scores.shape[1] // TILE
    q, k = operands.q[0, 0], operands.k[0, 0]
    total = _product(q, k, transposed=True)
    if operands.rel_k is not None:
        window = pl.ds((tiles - 1 - i) * TILE, scores.shape[1] + TILE)
        total += _by_key(_product(q, operands.rel_k[0, window], transposed=True))
    scores[...] = total
    if operands.rel_q is not None:

        def of_keys(j: Any, _: None) -> None:
            keys, window = pl.ds(j * TILE, TILE), pl.ds((tiles - 1 - j + i) * TILE, 2 * TILE)
            by_distance = _product(operands.k[0, 0, keys], operands.rel_q[0, window], transposed=True)
            scores[:, keys] += _by_key(by_distance).T

        jax.lax.fori_loop(0, tiles, of_keys, None)
    total = scores[...] * options.scale
    if operands.mask is not None:
        total = jnp.where(operands.mask[0, 0].astype(jnp.int32) != 0, total, _HIDDEN)
    highest = jnp.max(total, axis=-1, keepdims=True)
    weights = jnp.exp(total - highest)
    # A query that sees no key attends to nothing.
    return jnp.where(highest == _HIDDEN, 0, weights / jnp.sum(weights, axis=-1, keepdims=True))


def _by_key(by_distance: Float[Array, "T W"]) -> Float[Array, "T S"]:
    """out[t, s] = by_distance[t, T - 1 - t + s], W = S + T."""
    T, W = by_distance.shape
    return pltpu.roll(by_distance, W - T + 1, 1, stride=1, stride_axis=0)[:, : W - T]


def _by_distance(by_key: Float[Array, "T S"]) -> Float[Array, "T W"]:
    """The transpose of `_by_key`, rows in reverse order both here and there: a rotation can only grow with the row."""
    T, S = by_key.shape
    wide = jnp.concatenate([by_key, jnp.zeros((T, T), by_key.dtype)], axis=1)
    return pltpu.roll(wide, 0, 1, stride=1, stride_axis=0)


def _reverse(x: Float[Array, "T X"]) -> Float[Array, "T X"]:
    """The rows of a tile in reverse order, in float32: a product with a permutation, which is exact."""
    row, column = (jax.lax.broadcasted_iota(jnp.int32, (TILE, TILE), axis) for axis in (0, 1))
    return _product(jnp.where(row + column == TILE - 1, 1.0, 0.0).astype(x.dtype), x)


def _keep(options: _Options, operands: _Operands) -> Bool[Array, "T S"] | None:
    if operands.seed is None or operands.place is None:
        return None
    place, seed = operands.place, operands.seed
    start = (place[0] + pl.program_id(1), place[1] + pl.program_id(0), pl.program_id(2) * TILE, 0)
    shape = 1, 1, TILE, operands.k.shape[2]
    return keep_mask(shape, options.dropout_rate, seed=(seed[0], seed[1]), within=options.shape, start=start)[0, 0]


def _product(x: Float[Array, "I J"], y: Float[Array, "..."], *, transposed: bool = False) -> Float[Array, "I K"]:
    """x y, or x with y transposed, in float32."""
    return jax.lax.dot_general(
        x,
        y,
        (((1,), (1 if transposed else 0,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
