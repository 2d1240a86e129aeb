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
from deberta_jax.ops.attention_tpu_blocks import block_specs, compiler_params, query_block, query_rows
from deberta_jax.ops.attention_tpu_tiles import (
    HIDDEN,
    LANES,
    Plan,
    Tile,
    chunk_of,
    for_visible,
    head_rows,
    keep_chunk,
    product,
    score_chunks,
    visible_keys,
)
from deberta_jax.ops.dropout import drop
from deberta_jax.ops.fused import KernelInputs, KernelSettings, fused_attention
from deberta_jax.ops.operands import Operands

# Tokens of a tile, from the most to the least efficient.
TILES = (512, 384, 256)


def is_supported() -> bool:
    """Whether the current devices are TPUs that can rotate rows by different amounts: v5 and later.

    The devices are those of the current mesh or, without one, JAX's default device.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    return device.platform == "tpu" and not device.device_kind.startswith(("TPU v2", "TPU v3", "TPU v4"))


def tile_size(tokens: int) -> int:
    """The number of tokens in a tile: all of them up to 512, otherwise the size that needs the least padding."""
    if tokens <= TILES[0]:
        return tokens + -tokens % LANES
    return min(TILES, key=lambda size: (-tokens % size, -size))


def pallas_tpu(operands: Operands, *, tile: int | None = None, **options: Any) -> Float[Array, "B M N H"]:
    """`ops.attention.disentangled_attention` within one sequence; options as `fused.fused_attention`."""
    tile = tile or tile_size(operands.k.shape[1])
    return fused_attention(_attend, (tile, tile), operands, heads_axis=2, **options)


def _attend(settings: KernelSettings, inputs: KernelInputs) -> Float[Array, "B T N H"]:
    """Attention with heads side by side in the lanes: as many as fill a register."""
    B, T, N, H = inputs.q.shape
    # Widths that neither divide nor are a multiple of a register's lanes are padded.
    width = 1 << (H - 1).bit_length() if H < LANES else H + -H % LANES
    heads = min(N, max(1, LANES // width))
    wider, more = width - H, -N % heads
    q, k, v = (
        jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, wider))).reshape(B, T, -1) for x in (inputs.q, inputs.k, inputs.v)
    )
    rel_k, rel_q = (
        None
        if table is None
        else jnp.pad(table, ((0, more), (0, 0), (0, wider))).swapaxes(1, 2).reshape(-1, table.shape[1])
        for table in (inputs.rel_k, inputs.rel_q)
    )
    segment_ids = None if inputs.segment_ids is None else inputs.segment_ids[:, None]
    mask = None if inputs.mask is None else inputs.mask.swapaxes(2, 3)
    if mask is not None and mask.shape[1] > 1:
        mask = jnp.pad(mask, ((0, 0), (0, more), (0, 0), (0, 0)))
    packed = inputs._replace(q=q, k=k, v=v, rel_k=rel_k, rel_q=rel_q, segment_ids=segment_ids, mask=mask)
    context = _attention(Plan(settings, heads, width), packed, visible_keys(settings, packed))
    return context.reshape(B, T, N + more, width)[:, :, :N, :H]


Visible = tuple[Int[Array, "B Q"], Int[Array, "B Q"]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(plan: Plan, inputs: KernelInputs, visible: Visible) -> Float[Array, "B T D"]:
    return _attention_forward(plan, inputs, visible)[0]


def _attention_forward(plan: Plan, inputs: KernelInputs, visible: Visible) -> tuple[Float[Array, "B T D"], tuple]:
    B, T, D = inputs.q.shape
    queries, keys = plan.settings.tiles
    blocks, channels = D // plan.channels, plan.channels
    context, log_sum = pl.pallas_call(
        functools.partial(_forward_kernel, plan, T),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(blocks, B, T // queries, T // keys),
            in_specs=[block_specs(plan, inputs)],
            out_specs=[query_block(plan), query_rows(plan)],
            scratch_shapes=[
                pltpu.VMEM((keys, queries), jnp.float32),
                pltpu.VMEM((channels, queries), inputs.q.dtype),
                pltpu.VMEM((channels, keys), inputs.v.dtype),
                *[pltpu.VMEM((plan.heads, 1, queries), jnp.float32)] * 2,
                pltpu.VMEM((channels, queries), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((B, T, D), inputs.v.dtype),
            jax.ShapeDtypeStruct((B, blocks, plan.heads, T), jnp.float32),
        ],
        compiler_params=compiler_params(("parallel", "arbitrary", "arbitrary", "arbitrary")),
        interpret=plan.settings.interpret,
        name="disentangled_attention",
    )(*visible, inputs._replace(segment_ids=None if inputs.segment_ids is None else (inputs.segment_ids,) * 2))
    return context, (inputs, visible, context, log_sum)


def _attention_backward(plan: Plan, residuals: tuple, gradient: Float[Array, "B T D"]) -> tuple[KernelInputs, None]:
    return gradients(plan, *residuals, gradient), None


_attention.defvjp(_attention_forward, _attention_backward)


def _forward_kernel(
    plan: Plan,
    tokens: int,
    first: Any,
    last: Any,
    inputs: KernelInputs,
    out: Any,
    log_sum: Any,
    c2p: Any,
    q_transposed: Any,
    v_transposed: Any,
    highest: Any,
    total: Any,
    context: Any,
) -> None:
    tile = Tile(plan, inputs, *(pl.program_id(axis) for axis in range(4)))

    @pl.when(tile.key == 0)
    def start() -> None:
        q_transposed[...] = inputs.q[0].T
        highest[...] = jnp.full_like(highest, HIDDEN)
        total[...] = jnp.zeros_like(total)
        context[...] = jnp.zeros_like(context)

    def attend(near: bool) -> None:
        v_transposed[...] = inputs.v[0].T

        def attend_head(head: Any, _: None) -> None:
            scores = score_chunks(tile, head, near, q_transposed, c2p)
            rows = head_rows(plan, head)

            def add_chunk(c: Any, _: None) -> None:
                chunk, old = scores(c), highest[head]
                new = jnp.maximum(old, jnp.max(chunk, axis=0, keepdims=True))
                weights, decay = jnp.exp(chunk - new), jnp.exp(old - new)
                highest[head] = new
                total[head] = decay * total[head] + jnp.sum(weights, axis=0, keepdims=True)
                keep = keep_chunk(tile, head, c)
                if keep is not None:
                    weights = drop(weights, plan.settings.dropout_rate, keep)
                v = v_transposed[rows, chunk_of(c)]
                context[rows] = decay * context[rows] + product(plan.settings, v, weights.astype(v.dtype))

            jax.lax.fori_loop(0, plan.settings.tiles[1] // LANES, add_chunk, None)

        jax.lax.fori_loop(0, plan.heads, attend_head, None)

    for_visible(tile, first, last, tokens, attend)

    @pl.when(tile.key == pl.num_programs(3) - 1)
    def finish() -> None:
        for head in range(plan.heads):
            rows = head_rows(plan, head)
            # A query without a visible key attends to nothing.
            visible = highest[head] > HIDDEN
            context[rows] *= jnp.where(visible, 1 / total[head], 0)
            log_sum[0, 0, pl.ds(head, 1)] = jnp.where(visible, highest[head] + jnp.log(total[head]), 0)
        out[0] = context[...].T.astype(out.dtype)
