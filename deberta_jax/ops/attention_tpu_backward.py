"""The backward kernel on TPU: all gradients in one pass over pairs of tiles, whose scores are computed again.

Gradients of the keys and values of a sequence, and of the relative tables, are summed in vector memory, head by head.
The steps of the grid run in order, so that sums are always in the same order.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from deberta_jax.errors import InputError
from deberta_jax.ops.attention_tpu_blocks import (
    block_specs,
    compiler_params,
    cost_estimate,
    gradient_of_keys,
    of_both_sides,
    query_block,
    query_numbers,
    table_block,
    vector_memory,
)
from deberta_jax.ops.attention_tpu_tiles import (
    LANES,
    Tile,
    by_distance,
    chunk_of,
    far_column,
    far_columns,
    for_visible,
    keep_chunk,
    permute,
    product,
    reversal,
    score_chunks,
    upcast,
)
from deberta_jax.ops.dropout import drop
from deberta_jax.ops.fused import KernelInputs, KernelSettings


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
    """Vector memory of the backward kernel.

    `query_rows`, `key_rows` and `value_rows` are the tiles with one token per row; in all others tokens are lanes.
    `c2p` and `narrow` hold a position score and a gradient per pair of a tile. `reversed_q` are the queries and
    `reversed_q_sum` gradients of them, each 128 in reverse order. `mean` is the sum over keys of probability times its
    gradient. `k_sum` and `v_sum` are gradients of a whole sequence.
    """

    query_rows: Any
    key_rows: Any
    value_rows: Any
    c2p: Any
    narrow: Any
    reversed_q: Any
    q_sum: Any
    reversed_q_sum: Any
    mean: Any
    k_sum: Any
    v_sum: Any


def gradients(
    settings: KernelSettings,
    width: int,
    inputs: KernelInputs,
    visible: tuple[Int[Array, "B Q"], Int[Array, "B Q"]],
    context: Float[Array, "B D T"],
    log_sum: Float[Array, "B N 1 T"],
    gradient: Float[Array, "B D T"],
) -> KernelInputs:
    """The gradients of queries, keys, values and tables, for the gradient of the context."""
    B, D, T = inputs.q.shape
    _check_memory(settings, inputs, width)
    queries, keys = settings.tiles
    tables = [None if rel is None else jax.ShapeDtypeStruct(rel.shape, jnp.float32) for rel in inputs[3:5]]
    shapes = Gradients(*(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs[:3]), *tables)
    table, query = table_block(settings, width), query_block(settings, width)
    key = gradient_of_keys(settings, T, width)
    rel_q = None if inputs.rel_q is None else _other_order(inputs.rel_q)
    specs = Residuals(query, query, query_numbers(settings), None if rel_q is None else table)
    residuals = Residuals(gradient, context, log_sum, rel_q)
    out = pl.pallas_call(
        functools.partial(_backward_kernel, settings),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(D // width, B, T // queries, T // keys),
            in_specs=[block_specs(settings, inputs, width), specs],
            out_specs=Gradients(query, key, key, *(None if x is None else table for x in tables)),
            scratch_shapes=_scratch(settings, inputs, width),
        ),
        out_shape=shapes,
        cost_estimate=cost_estimate(settings, inputs, width, products=5, others=(residuals, shapes)),
        compiler_params=compiler_params(),
        interpret=settings.interpret,
        name="disentangled_attention_backward",
    )(*visible, of_both_sides(inputs), residuals)
    rel_k = None if out.rel_k is None else out.rel_k.astype(inputs.rel_k.dtype)
    rel_q = None if out.rel_q is None else _other_order(out.rel_q).astype(inputs.rel_q.dtype)
    return KernelInputs(out.q, out.k, out.v, rel_k, rel_q, None, None, None, None, None)


def _check_memory(settings: KernelSettings, inputs: KernelInputs, width: int) -> None:
    """Raise InputError if the kernel needs more vector memory than there is: its sums are linear in the length."""
    if settings.interpret:
        return
    tokens, itemsize = inputs.q.shape[-1], inputs.q.dtype.itemsize
    queries, keys = settings.tiles
    # In and out are double-buffered; both tables are read, rel_q in two orders, and their gradients are float32.
    present = [inputs.rel_k is not None, inputs.rel_q is not None]
    tables = 2 * width * 2 * settings.reach * (itemsize * (present[0] + 2 * present[1]) + 4 * sum(present))
    # The last term covers tiles and copies of them: compiling for TPU v7x at several sizes gave its factor.
    tiles = keys * queries * (4 + itemsize) + 32 * (itemsize - 1) * width * (queries + keys)
    per_token, limit = 8 * width, vector_memory()
    if tables + tiles + per_token * tokens > limit:
        longest = max(0, limit - tables - tiles) // per_token // queries * queries
        raise InputError(
            f"implementation: 'pallas_tpu' has no memory for gradients of {tokens:,} tokens with heads of {width} in "
            f"{inputs.q.dtype}; use sequences of at most {longest:,} tokens on this TPU"
        )


def _other_order(table: Float[Array, "D W"]) -> Float[Array, "D W"]:
    """A table by distance in the other order; no pair reads the last column, a distance that only one order has."""
    return jnp.roll(jnp.flip(table, 1), -1, 1)


def _scratch(settings: KernelSettings, inputs: KernelInputs, width: int) -> Scratch:
    dtype, tokens = inputs.q.dtype, inputs.q.shape[-1]
    queries, keys = settings.tiles
    return Scratch(
        query_rows=pltpu.VMEM((queries, width), dtype),
        key_rows=pltpu.VMEM((keys, width), dtype),
        value_rows=pltpu.VMEM((keys, width), dtype),
        c2p=pltpu.VMEM((keys, queries), jnp.float32),
        narrow=pltpu.VMEM((keys, queries), dtype),
        reversed_q=pltpu.VMEM((width, queries), dtype),
        q_sum=pltpu.VMEM((width, queries), jnp.float32),
        reversed_q_sum=pltpu.VMEM((width, queries), jnp.float32),
        mean=pltpu.VMEM((1, queries), jnp.float32),
        k_sum=pltpu.VMEM((width, tokens), jnp.float32),
        v_sum=pltpu.VMEM((width, tokens), jnp.float32),
    )


def _backward_kernel(
    settings: KernelSettings, first: Any, last: Any, inputs: KernelInputs, residuals: Residuals, *memory: Any
) -> None:
    out, scratch = Gradients(*memory[: len(Gradients._fields)]), Scratch(*memory[len(Gradients._fields) :])
    tile = Tile(settings, inputs, *(pl.program_id(axis) for axis in range(4)))

    @pl.when((tile.key == 0) & (tile.query == 0))
    def start_sequence() -> None:
        scratch.k_sum[...] = jnp.zeros_like(scratch.k_sum)
        scratch.v_sum[...] = jnp.zeros_like(scratch.v_sum)

    @pl.when((tile.key == 0) & (tile.query == 0) & (tile.sequence == 0))
    def start_head() -> None:
        for table in (out.rel_k, out.rel_q):
            if table is not None:
                table[...] = jnp.zeros_like(table)

    @pl.when(tile.key == 0)
    def start_queries() -> None:
        scratch.query_rows[...] = inputs.q[...].T
        if inputs.rel_k is not None:
            scratch.reversed_q[...] = _reverse(inputs.q[...]).astype(inputs.q.dtype)
        scratch.q_sum[...] = jnp.zeros_like(scratch.q_sum)
        scratch.reversed_q_sum[...] = jnp.zeros_like(scratch.reversed_q_sum)
        products = upcast(residuals.gradient[...]) * upcast(residuals.context[...])
        scratch.mean[...] = jnp.sum(products, axis=0, keepdims=True)

    for_visible(tile, first, last, lambda near: _add_tile(tile, near, residuals, out, scratch))

    @pl.when(tile.key == pl.num_programs(3) - 1)
    def finish_queries() -> None:
        out.q[...] = (scratch.q_sum[...] + _reverse(scratch.reversed_q_sum[...])).astype(out.q.dtype)

    @pl.when(tile.query == pl.num_programs(2) - 1)
    def finish_keys() -> None:
        keys = settings.tiles[1]
        positions = pl.ds(pl.multiple_of(tile.key * keys, LANES), keys)
        out.k[...] = scratch.k_sum[:, positions].astype(out.k.dtype)
        out.v[...] = scratch.v_sum[:, positions].astype(out.v.dtype)


def _reverse(x: Float[Array, "H T"]) -> Float[Array, "H T"]:
    """Each 128 tokens in reverse order, in float32."""
    permutation = reversal(x.dtype)
    return jnp.concatenate([permute(x[:, i : i + LANES], permutation) for i in range(0, x.shape[1], LANES)], axis=1)


def _add_tile(tile: Tile, near: bool, residuals: Residuals, out: Gradients, scratch: Scratch) -> None:
    """Add the gradients of one pair of tiles."""
    settings, inputs = tile.settings, tile.inputs
    keys = settings.tiles[1]
    scratch.key_rows[...] = inputs.k[...].T
    scratch.value_rows[...] = inputs.v[...].T
    scores = score_chunks(tile, near, scratch.query_rows, scratch.key_rows, scratch.c2p)

    def add_chunk(c: Any, of_queries: Float[Array, "1 T"]) -> Float[Array, "1 T"]:
        chunk = chunk_of(c)
        positions = pl.ds(pl.multiple_of(tile.key * keys + c * LANES, LANES), LANES)
        probabilities = jnp.exp(scores(c) - residuals.log_sum[...])
        dropped, probability_gradient = (
            probabilities,
            product(settings, scratch.value_rows[chunk], residuals.gradient[...]),
        )
        keep = keep_chunk(tile, c)
        if keep is not None:
            dropped, probability_gradient = (
                drop(x, settings.dropout_rate, keep) for x in (dropped, probability_gradient)
            )
        narrow = dropped.astype(inputs.q.dtype)
        scratch.v_sum[:, positions] += product(settings, residuals.gradient[...], narrow, transposed=True)
        score_gradient = probabilities * (probability_gradient - scratch.mean[...]) * settings.scale
        narrow = score_gradient.astype(inputs.q.dtype)
        scratch.narrow[chunk] = narrow
        of_q, of_k = (
            product(settings, inputs.k[:, chunk], narrow),
            product(settings, inputs.q[...], narrow, transposed=True),
        )
        scratch.q_sum[...] += of_q
        if inputs.rel_q is not None and near:
            of_k += _add_near_p2c(tile, c, narrow, residuals.rel_q, out.rel_q)
        elif inputs.rel_q is not None:
            _add_to_far_column(tile, out.rel_q, of_q)
            # The sum of each key as a row.
            of_keys = jnp.broadcast_to(jnp.sum(score_gradient, axis=1, keepdims=True), (LANES, LANES)).T[:1]
            of_k += upcast(far_column(tile, residuals.rel_q)) * of_keys
        scratch.k_sum[:, positions] += of_k
        return of_queries + jnp.sum(score_gradient, axis=0, keepdims=True)

    of_queries = jax.lax.fori_loop(0, keys // LANES, add_chunk, jnp.zeros((1, settings.tiles[0]), jnp.float32))
    if inputs.rel_k is not None and near:
        _add_near_c2p(tile, out.rel_k, scratch)
    elif inputs.rel_k is not None:
        _add_to_far_column(tile, out.rel_k, upcast(inputs.q[...]) * of_queries)
        scratch.q_sum[...] += upcast(far_column(tile, inputs.rel_k)) * of_queries


def _add_near_p2c(
    tile: Tile, c: Any, narrow: Float[Array, "S T"], rel_q: Any, rel_q_gradient: Any
) -> Float[Array, "H S"]:
    """The p2c term's gradient of a chunk of keys; adds that of the relative table."""
    queries = tile.settings.tiles[0]
    permutation = reversal(narrow.dtype)
    blocks = [permute(narrow[:, i : i + LANES], permutation) for i in reversed(range(0, queries, LANES))]
    distances = by_distance(tile.settings, jnp.concatenate(blocks, axis=1)).astype(narrow.dtype)
    window = tile.window(queries - LANES, c * LANES, queries + LANES)
    rel_q_gradient[:, window] += product(tile.settings, tile.inputs.k[:, chunk_of(c)], distances)
    return product(tile.settings, rel_q[:, window], distances, transposed=True)


def _add_near_c2p(tile: Tile, rel_k_gradient: Any, scratch: Scratch) -> None:
    """Add the c2p term's gradients of queries and of the relative table, one block of queries after the other."""
    queries, keys = tile.settings.tiles
    permutation = reversal(scratch.narrow.dtype)

    def add_block(number: Any, _: None) -> None:
        block, window = chunk_of(number), tile.window(number * LANES, 0, keys + LANES)
        reversed_rows = permute(permutation, scratch.narrow[:, block], transposed=True)
        distances = by_distance(tile.settings, reversed_rows).astype(permutation.dtype)
        scratch.reversed_q_sum[:, block] += product(
            tile.settings, tile.inputs.rel_k[:, window], distances, transposed=True
        )
        rel_k_gradient[:, window] += product(tile.settings, scratch.reversed_q[:, block], distances)

    jax.lax.fori_loop(0, queries // LANES, add_block, None)


def _add_to_far_column(tile: Tile, table: Any, x: Float[Array, "H T"]) -> None:
    """Add the sums of the rows of `x` to the column of a table that all distances of a far pair of tiles read."""
    is_first = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1) == 0
    table[:, far_columns(tile, smallest_first=False)] += jnp.where(is_first, jnp.sum(x, axis=1, keepdims=True), 0)
