"""Disentangled attention on TPU (Pallas): scores never reach main memory, which is linear in the length.

The forward kernel keeps a running maximum and sum for each query, and the log of the sum of exponentials for the
backward kernel (attention_tpu_backward.py), which computes scores again. Pairs of tiles near the diagonal compute
scores by distance; they become scores by key when row t is rotated by t, which the vector unit does in place. Pairs
beyond the band of distances need one position score per query and one per key.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from deberta_jax.ops.attention_tpu_backward import gradients
from deberta_jax.ops.attention_tpu_blocks import (
    block_specs,
    compiler_params,
    cost_estimate,
    of_both_sides,
    query_block,
    query_numbers,
)
from deberta_jax.ops.attention_tpu_tiles import (
    HIDDEN,
    LANES,
    Tile,
    chunk_of,
    for_visible,
    keep_chunk,
    product,
    score_chunks,
)
from deberta_jax.ops.dropout import drop
from deberta_jax.ops.fused import KernelInputs, KernelSettings, first_derivative, fused_attention
from deberta_jax.ops.operands import Operands
from deberta_jax.ops.visible_tiles import tile_ranges, visible_tiles
from deberta_jax.sharding import current_device

# Tokens of a tile, from the most to the least efficient.
TILES = (512, 384, 256)
# Rows of a register that holds 16-bit numbers.
SUBLANES = 16

Visible = tuple[Int[Array, "B Q"], Int[Array, "B Q"]]
# The settings and the width of a head.
Plan = tuple[KernelSettings, int]


def is_supported() -> bool:
    """Whether the current devices are TPUs that can rotate rows by different amounts: v5 and later."""
    device = current_device()
    return device.platform == "tpu" and not device.device_kind.startswith(("TPU v2", "TPU v3", "TPU v4"))


def tile_size(tokens: int) -> int:
    """The number of tokens in a tile: all of them up to 512, otherwise the size that needs the least padding."""
    if tokens <= TILES[0]:
        return tokens + -tokens % LANES
    return min(TILES, key=lambda size: (-tokens % size, -size))


def pallas_tpu(operands: Operands, *, tile: int | None = None, **options: Any) -> Float[Array, "B M N H"]:
    """`ops.attention.disentangled_attention` within one sequence; options as `fused.fused_attention`.

    Raises InputError for what is not supported, and for gradients of sequences that are too long for vector memory.
    """
    tile = tile or tile_size(operands.k.shape[1])
    return fused_attention(_attend, (tile, tile), operands, heads_axis=2, **options)


def _attend(settings: KernelSettings, inputs: KernelInputs) -> Float[Array, "B T N H"]:
    """Attention with tokens as the last axis: [B, N H, T], a width that fills whole registers."""
    B, T, N, H = inputs.q.shape
    visible = visible_keys(settings, inputs)
    width = H + -H % SUBLANES
    more = width - H
    q, k, v = (
        jnp.pad(x.transpose(0, 2, 3, 1), ((0, 0), (0, 0), (0, more), (0, 0))).reshape(B, -1, T)
        for x in (inputs.q, inputs.k, inputs.v)
    )
    rel_k, rel_q = (
        None if x is None else jnp.pad(x, ((0, 0), (0, 0), (0, more))).swapaxes(1, 2).reshape(-1, x.shape[1])
        for x in (inputs.rel_k, inputs.rel_q)
    )
    segment_ids, order = (None if x is None else x[:, None] for x in (inputs.segment_ids, inputs.order))
    mask = None if inputs.mask is None else inputs.mask.swapaxes(2, 3)
    inputs = KernelInputs(q, k, v, rel_k, rel_q, segment_ids, order, mask, inputs.seed, inputs.offset)
    context = _attention((settings, width), inputs, visible)
    return context.reshape(B, N, width, T)[:, :, :H].transpose(0, 3, 1, 2)


def visible_keys(settings: KernelSettings, inputs: KernelInputs) -> Visible:
    """The first and the last tile of keys that each tile of queries attends to; the last is -1 if there is none.

    Tiles between them may still be hidden: they are computed.
    """
    visible = visible_tiles(settings, inputs, settings.tiles).any(1, keepdims=True)
    visible = jnp.broadcast_to(visible, (inputs.q.shape[0], *visible.shape[1:]))
    first, end = jnp.moveaxis(tile_ranges(visible)[:, 0], -1, 0)
    return first, end - 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(plan: Plan, inputs: KernelInputs, visible: Visible) -> Float[Array, "B D T"]:
    return _attention_forward(plan, inputs, visible)[0]


def _attention_forward(plan: Plan, inputs: KernelInputs, visible: Visible) -> tuple[Float[Array, "B D T"], tuple]:
    settings, width = plan
    queries, keys = settings.tiles
    B, D, T = inputs.q.shape
    shapes = [jax.ShapeDtypeStruct((B, D, T), inputs.v.dtype), jax.ShapeDtypeStruct((B, D // width, 1, T), jnp.float32)]
    context, log_sum = pl.pallas_call(
        functools.partial(_forward_kernel, settings),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(D // width, B, T // queries, T // keys),
            in_specs=[block_specs(settings, inputs, width)],
            out_specs=[query_block(settings, width), query_numbers(settings)],
            scratch_shapes=[
                pltpu.VMEM((queries, width), inputs.q.dtype),
                pltpu.VMEM((keys, width), inputs.q.dtype),
                pltpu.VMEM((keys, queries), jnp.float32),
                *[pltpu.VMEM((1, queries), jnp.float32)] * 2,
                pltpu.VMEM((width, queries), jnp.float32),
            ],
        ),
        out_shape=shapes,
        cost_estimate=cost_estimate(settings, inputs, width, products=2, others=shapes),
        compiler_params=compiler_params(),
        interpret=settings.interpret,
        name="disentangled_attention",
    )(*visible, of_both_sides(inputs))
    return context, (inputs, visible, context, log_sum)


def _attention_backward(plan: Plan, residuals: tuple, gradient: Float[Array, "B D T"]) -> tuple[KernelInputs, None]:
    inputs, visible, context, log_sum = residuals
    return gradients(*plan, inputs, visible, context, log_sum, gradient), None


_attention.defvjp(first_derivative(_attention_forward), first_derivative(_attention_backward))


def _forward_kernel(
    settings: KernelSettings,
    first: Any,
    last: Any,
    inputs: KernelInputs,
    out: Any,
    log_sum: Any,
    query_rows: Any,
    key_rows: Any,
    c2p: Any,
    highest: Any,
    total: Any,
    context: Any,
) -> None:
    tile = Tile(settings, inputs, *(pl.program_id(axis) for axis in range(4)))

    @pl.when(tile.key == 0)
    def start() -> None:
        query_rows[...] = inputs.q[...].T
        highest[...] = jnp.full_like(highest, HIDDEN)
        total[...] = jnp.zeros_like(total)
        context[...] = jnp.zeros_like(context)

    def attend(near: bool) -> None:
        key_rows[...] = inputs.k[...].T
        scores = score_chunks(tile, near, query_rows, key_rows, c2p)

        def add_chunk(c: Any, _: None) -> None:
            chunk, old = scores(c), highest[...]
            new = jnp.maximum(old, jnp.max(chunk, axis=0, keepdims=True))
            weights, decay = jnp.exp(chunk - new), jnp.exp(old - new)
            highest[...] = new
            total[...] = decay * total[...] + jnp.sum(weights, axis=0, keepdims=True)
            keep = keep_chunk(tile, c)
            if keep is not None:
                weights = drop(weights, settings.dropout_rate, keep)
            v = inputs.v[:, chunk_of(c)]
            context[...] = decay * context[...] + product(settings, v, weights.astype(v.dtype))

        jax.lax.fori_loop(0, settings.tiles[1] // LANES, add_chunk, None)

    for_visible(tile, first, last, attend)

    @pl.when(tile.key == pl.num_programs(3) - 1)
    def finish() -> None:
        # A query without a visible key attends to nothing.
        visible = highest[...] > HIDDEN
        out[...] = (context[...] * jnp.where(visible, 1 / total[...], 0)).astype(out.dtype)
        log_sum[...] = jnp.where(visible, highest[...] + jnp.log(total[...]), 0)
