"""The backward kernel on TPU: all gradients in one pass over pairs of tiles, whose scores are computed again.

Gradients of keys and values of a whole sequence, and of the relative tables of a block of heads, are summed in vector
memory. The steps of the grid run in order, so sums are always in the same order.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from deberta_jax.ops.attention_tpu_blocks import block_specs, compiler_params, query_block, query_rows, table_block
from deberta_jax.ops.attention_tpu_tiles import (
    LANES,
    Plan,
    Tile,
    by_distance,
    chunk_of,
    far_column,
    far_columns,
    for_visible,
    head_lanes,
    head_rows,
    keep_chunk,
    product,
    reversal,
    score_chunks,
    upcast,
)
from deberta_jax.ops.dropout import drop
from deberta_jax.ops.fused import KernelInputs


class Residuals(NamedTuple):
    """What the backward kernel reads beside the inputs; `rel_q` has the largest distance first."""

    gradient: Any
    context: Any
    log_sum: Any
    rel_q: Any


class Gradients(NamedTuple):
    """What the backward kernel writes; `rel_q` has the largest distance first."""

    q: Any
    k: Any
    v: Any
    rel_k: Any
    rel_q: Any


class Scratch(NamedTuple):
    """Vector memory of the backward kernel; tokens are lanes in all but `k_sum` and `v_sum`, those of a sequence.

    `c2p` and `narrow` hold one number per pair of a tile: position scores and gradients of scores. `q_sum` and
    `reversed_q_sum` are gradients of the tile of queries, the latter with each 128 tokens in reverse order, as
    `reversed_q`. `mean` is the sum over keys of probability times its gradient.
    """

    c2p: Any
    narrow: Any
    q: Any
    reversed_q: Any
    k: Any
    q_sum: Any
    reversed_q_sum: Any
    mean: Any
    k_sum: Any
    v_sum: Any


def gradients(
    plan: Plan,
    inputs: KernelInputs,
    visible: tuple[Int[Array, "B Q"], Int[Array, "B Q"]],
    context: Float[Array, "B T D"],
    log_sum: Float[Array, "B X N T"],
    gradient: Float[Array, "B T D"],
) -> KernelInputs:
    """The gradients of queries, keys, values and tables, for the gradient of the context."""
    B, T, D = inputs.q.shape
    queries, keys = plan.settings.tiles
    tables = [None if rel is None else jax.ShapeDtypeStruct(rel.shape, jnp.float32) for rel in inputs[3:5]]
    table = table_block(plan)
    rel_q = None if inputs.rel_q is None else _other_order(inputs.rel_q)
    residuals = Residuals(gradient, context, log_sum, rel_q)
    specs = Residuals(query_block(plan), query_block(plan), query_rows(plan), None if rel_q is None else table)
    # Each tile of keys is written in the steps of the last tile of queries; before that the block stays the first one.
    content = pl.BlockSpec(
        (1, keys, plan.channels), lambda n, b, i, j, *_: (b, jnp.where(i == T // queries - 1, j, 0), n)
    )
    doubled = inputs._replace(segment_ids=None if inputs.segment_ids is None else (inputs.segment_ids,) * 2)
    out = pl.pallas_call(
        functools.partial(_backward_kernel, plan, T),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(D // plan.channels, B, T // queries, T // keys),
            in_specs=[block_specs(plan, inputs), specs],
            out_specs=Gradients(query_block(plan), content, content, *(None if x is None else table for x in tables)),
            scratch_shapes=_scratch(plan, inputs),
        ),
        out_shape=Gradients(*(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs[:3]), *tables),
        compiler_params=compiler_params(("parallel", "arbitrary", "arbitrary", "arbitrary")),
        interpret=plan.settings.interpret,
        name="disentangled_attention_backward",
    )(*visible, doubled, residuals)
    rel_k = None if out.rel_k is None else out.rel_k.astype(inputs.rel_k.dtype)
    rel_q = None if out.rel_q is None else _other_order(out.rel_q).astype(inputs.rel_q.dtype)
    return KernelInputs(out.q, out.k, out.v, rel_k, rel_q, None, None, None, None)


def _other_order(table: Float[Array, "D W"]) -> Float[Array, "D W"]:
    """A table by distance in the other order; the distance that only one order has takes the last column."""
    return jnp.roll(jnp.flip(table, 1), -1, 1)


def _scratch(plan: Plan, inputs: KernelInputs) -> Scratch:
    T, dtype, channels = inputs.q.shape[1], inputs.q.dtype, plan.channels
    queries, keys = plan.settings.tiles
    return Scratch(
        c2p=pltpu.VMEM((keys, queries), jnp.float32),
        narrow=pltpu.VMEM((keys, queries), dtype),
        q=pltpu.VMEM((channels, queries), dtype),
        reversed_q=pltpu.VMEM((channels, queries), dtype),
        k=pltpu.VMEM((channels, keys), dtype),
        q_sum=pltpu.VMEM((channels, queries), jnp.float32),
        reversed_q_sum=pltpu.VMEM((channels, queries), jnp.float32),
        mean=pltpu.VMEM((plan.heads, 1, queries), jnp.float32),
        k_sum=pltpu.VMEM((T, channels), jnp.float32),
        v_sum=pltpu.VMEM((T, channels), jnp.float32),
    )


def _backward_kernel(
    plan: Plan,
    tokens: int,
    first: Any,
    last: Any,
    inputs: KernelInputs,
    residuals: Residuals,
    *memory: Any,
) -> None:
    out, scratch = Gradients(*memory[: len(Gradients._fields)]), Scratch(*memory[len(Gradients._fields) :])
    tile = Tile(plan, inputs, *(pl.program_id(axis) for axis in range(4)))
    is_last_key = tile.key == pl.num_programs(3) - 1

    @pl.when((tile.key == 0) & (tile.query == 0))
    def start_sequence() -> None:
        scratch.k_sum[...] = jnp.zeros_like(scratch.k_sum)
        scratch.v_sum[...] = jnp.zeros_like(scratch.v_sum)

    @pl.when((tile.key == 0) & (tile.query == 0) & (tile.sequence == 0))
    def start_block() -> None:
        for table in (out.rel_k, out.rel_q):
            if table is not None:
                table[...] = jnp.zeros_like(table)

    pl.when(tile.key == 0)(lambda: _start_queries(tile, residuals, scratch))

    def attend(near: bool) -> None:
        scratch.k[...] = inputs.k[0].T
        jax.lax.fori_loop(0, plan.heads, lambda head, _: _add_head(tile, head, near, residuals, out, scratch), None)

    for_visible(tile, first, last, tokens, attend)

    @pl.when(is_last_key)
    def finish_queries() -> None:
        total = scratch.q_sum[...] + _reverse_lanes(tile, scratch.reversed_q_sum[...])
        out.q[0] = total.T.astype(out.q.dtype)

    @pl.when(tile.query == pl.num_programs(2) - 1)
    def finish_keys() -> None:
        keys = plan.settings.tiles[1]
        rows = pl.ds(pl.multiple_of(tile.key * keys, keys), keys)
        out.k[0] = scratch.k_sum[rows].astype(out.k.dtype)
        out.v[0] = scratch.v_sum[rows].astype(out.v.dtype)


def _start_queries(tile: Tile, residuals: Residuals, scratch: Scratch) -> None:
    """What depends on the tile of queries alone."""
    plan = tile.plan
    scratch.q[...] = tile.inputs.q[0].T
    if tile.inputs.rel_k is not None:
        scratch.reversed_q[...] = _reverse_lanes(tile, scratch.q[...]).astype(scratch.q.dtype)
    scratch.q_sum[...] = jnp.zeros_like(scratch.q_sum)
    scratch.reversed_q_sum[...] = jnp.zeros_like(scratch.reversed_q_sum)
    products = (upcast(residuals.gradient[0]) * upcast(residuals.context[0])).T
    for head in range(plan.heads):
        rows = slice(head * plan.width, (head + 1) * plan.width)
        scratch.mean[head] = jnp.sum(products[rows], axis=0, keepdims=True)


def _reverse_lanes(tile: Tile, x: Float[Array, "C T"]) -> Float[Array, "C T"]:
    """Each 128 lanes in reverse order, in float32."""
    permutation = reversal(x.dtype)
    blocks = [product(tile.plan.settings, x[:, i : i + LANES], permutation) for i in range(0, x.shape[1], LANES)]
    return jnp.concatenate(blocks, axis=1)


def _add_head(tile: Tile, head: Any, near: bool, residuals: Residuals, out: Gradients, scratch: Scratch) -> None:
    """Add a head's gradients for one pair of tiles."""
    inputs, plan = tile.inputs, tile.plan
    settings = plan.settings
    keys = settings.tiles[1]
    rows, lanes = head_rows(plan, head), head_lanes(plan, head, inputs.q.dtype)
    scores = score_chunks(tile, head, near, scratch.q, scratch.c2p)
    q, gradient = inputs.q[0], residuals.gradient[0] * lanes
    log_sum, mean = residuals.log_sum[0, 0, pl.ds(head, 1)], scratch.mean[head]

    def add_chunk(c: Any, of_queries: Float[Array, "1 T"]) -> Float[Array, "1 T"]:
        chunk = chunk_of(c)
        positions = pl.ds(pl.multiple_of(tile.key * keys + c * LANES, LANES), LANES)
        probabilities = jnp.exp(scores(c) - log_sum)
        dropped, probability_gradient = probabilities, product(settings, inputs.v[0, chunk], gradient, transposed=True)
        keep = keep_chunk(tile, head, c)
        if keep is not None:
            dropped, probability_gradient = (
                drop(x, settings.dropout_rate, keep) for x in (dropped, probability_gradient)
            )
        scratch.v_sum[positions] += product(settings, dropped.astype(q.dtype), gradient)
        score_gradient = probabilities * (probability_gradient - mean) * settings.scale
        narrow = score_gradient.astype(q.dtype)
        scratch.narrow[chunk] = narrow
        of_k = product(settings, narrow, q)
        of_q = product(settings, scratch.k[rows, chunk], narrow)
        scratch.q_sum[rows] += of_q
        if inputs.rel_q is not None:
            add = _near_p2c if near else _far_p2c
            of_k += add(tile, rows, c, narrow if near else (score_gradient, of_q), residuals.rel_q, out.rel_q, scratch)
        scratch.k_sum[positions] += of_k * upcast(lanes)
        return of_queries + jnp.sum(score_gradient, axis=0, keepdims=True)

    of_queries = jax.lax.fori_loop(0, keys // LANES, add_chunk, jnp.zeros((1, settings.tiles[0]), jnp.float32))
    if inputs.rel_k is not None:
        if near:
            _add_near_c2p(tile, rows, out.rel_k, scratch)
        else:
            _add_far_c2p(tile, rows, of_queries, out.rel_k, scratch)


def _near_p2c(
    tile: Tile, rows: Any, c: Any, narrow: Any, rel_q: Any, rel_q_gradient: Any, scratch: Scratch
) -> Float[Array, "S C"]:
    """The p2c term's gradient of a chunk of keys, other heads included; adds that of the relative table."""
    settings = tile.plan.settings
    queries = settings.tiles[0]
    permutation = reversal(narrow.dtype)
    blocks = [product(settings, narrow[:, i : i + LANES], permutation) for i in reversed(range(0, queries, LANES))]
    distances = by_distance(settings, jnp.concatenate(blocks, axis=1)).astype(narrow.dtype)
    window = tile.window(queries - LANES, c * LANES, queries + LANES)
    rel_q_gradient[rows, window] += product(settings, scratch.k[rows, chunk_of(c)], distances)
    return product(settings, distances, rel_q[:, window], transposed=True)


def _far_p2c(
    tile: Tile, rows: Any, c: Any, gradients: Any, rel_q: Any, rel_q_gradient: Any, scratch: Scratch
) -> Float[Array, "S C"]:
    """The same for a pair of tiles that is wholly beyond the band."""
    score_gradient, of_q = gradients
    columns = far_columns(tile, smallest_first=False)
    _add_column(rel_q_gradient, rows, columns, of_q)
    of_keys = jnp.sum(score_gradient, axis=1, keepdims=True)
    return of_keys * upcast(rel_q[:, columns].T[:1])


def _add_column(table: Any, rows: Any, columns: Any, x: Float[Array, "H T"]) -> None:
    """Add the sums of the rows of `x` to the first of some columns of a table."""
    is_first = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1) == 0
    table[rows, columns] += jnp.where(is_first, jnp.sum(x, axis=1, keepdims=True), 0)


def _add_near_c2p(tile: Tile, rows: Any, rel_k_gradient: Any, scratch: Scratch) -> None:
    """Add the c2p term's gradients of queries and of the relative table, one block of queries after the other."""
    settings = tile.plan.settings
    queries, keys = settings.tiles
    permutation = reversal(scratch.narrow.dtype)

    def add_block(number: Any, _: None) -> None:
        block = chunk_of(number)
        reversed_rows = product(settings, permutation, scratch.narrow[:, block], transposed=True)
        distances = by_distance(settings, reversed_rows).astype(permutation.dtype)
        window = tile.window(number * LANES, 0, keys + LANES)
        table = tile.inputs.rel_k[rows, window]
        scratch.reversed_q_sum[rows, block] += product(settings, table, distances, transposed=True)
        rel_k_gradient[rows, window] += product(settings, scratch.reversed_q[rows, block], distances)

    jax.lax.fori_loop(0, queries // LANES, add_block, None)


def _add_far_c2p(tile: Tile, rows: Any, of_queries: Float[Array, "1 T"], rel_k_gradient: Any, scratch: Scratch) -> None:
    """The same for a pair of tiles that is wholly beyond the band; `of_queries` are sums of score gradients."""
    scratch.q_sum[rows] += upcast(far_column(tile, tile.inputs.rel_k, rows)) * of_queries
    _add_column(rel_k_gradient, rows, far_columns(tile, smallest_first=False), upcast(scratch.q[rows]) * of_queries)
