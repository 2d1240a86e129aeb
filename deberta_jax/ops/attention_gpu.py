"""Disentangled attention on GPU (Pallas, Triton): one kernel forward, two backward; memory linear in the length.

Matrix products by XLA give the scores by distance (distance_scores.py), kernels read them at the pair of query and key
(attention_gpu_kernels.py). The backward pass computes scores again, from the saved logarithms of sums.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from deberta_jax.errors import InputError
from deberta_jax.ops.attention_gpu_kernels import forward_kernel, key_gradient_kernel, query_gradient_kernel
from deberta_jax.ops.attention_gpu_program import KernelPlan, KernelTensors, Side
from deberta_jax.ops.distance_scores import DistanceLayout, distance_layout, distance_scores, far_scores
from deberta_jax.ops.fused import KernelInputs, KernelSettings, first_derivative, fused_attention
from deberta_jax.ops.operands import Operands
from deberta_jax.ops.visible_tiles import tile_ranges, visible_tiles

Kernel = Callable[..., None]

# Sequences are padded to whole tiles of so many tokens.
TILE = 64
# Kernels address the bytes of a mask by 32-bit integers.
_MAX_PAIR_BYTES = 1 << 31
# Triton's matrix products have at least so many columns.
_MIN_WIDTH = 16


class Launch(NamedTuple):
    """The sizes of a kernel's tiles of own and other tokens, its warps, and the depth of its software pipeline."""

    own_tile: int
    other_tile: int
    warps: int
    stages: int


# By kernel: for heads of up to 64 and wider ones, each for numbers of 2 bytes and for float32, whose products are not
# those of tensor cores. No kernel spills registers on A100, L4 and H200 (benchmarks/compile_gpu.py).
LAUNCHES = {
    "forward": ((Launch(64, 32, 4, 2), Launch(32, 32, 8, 1)), (Launch(64, 32, 8, 2), Launch(16, 16, 8, 1))),
    "query_gradient": ((Launch(64, 32, 4, 2), Launch(32, 16, 8, 1)), (Launch(64, 32, 8, 1), Launch(16, 16, 8, 1))),
    "key_gradient": ((Launch(64, 32, 4, 2), Launch(32, 16, 8, 1)), (Launch(64, 32, 8, 1), Launch(16, 16, 8, 1))),
}


def pallas_gpu(operands: Operands, *, tile: int = TILE, **options: Any) -> Float[Array, "B M N H"]:
    """`ops.attention.disentangled_attention` within one sequence; options as `fused.fused_attention`.

    Sequences are padded to a multiple of `tile`, a power of two. Raises InputError for what is not supported.
    """
    return fused_attention(_padded_attention, (tile, tile), operands, **options)


def _padded_attention(settings: KernelSettings, inputs: KernelInputs) -> Float[Array, "B N T H"]:
    """Attention on one device with heads padded to a power of two, of tensors whose heads come last but one.

    XLA cancels the exchange of axes with that of `fused_attention`: kernels read rows where the projections wrote them.
    """
    if inputs.mask is not None and inputs.mask.nbytes >= _MAX_PAIR_BYTES:
        raise InputError(
            f"mask: {inputs.mask.nbytes / 2**30:.1f} GiB for all pairs of a device, more than the 2 GiB that "
            "'pallas_gpu' addresses; pass segment_ids for padding and documents, or use a smaller batch"
        )
    H = inputs.q.shape[-1]
    padding = max(_MIN_WIDTH, 1 << (H - 1).bit_length()) - H
    if padding:
        padded = (None if x is None else jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, padding)]) for x in inputs[:5])
        inputs = inputs._replace(**dict(zip(KernelInputs._fields, padded, strict=False)))
    q, k, v = (x.swapaxes(1, 2) for x in inputs[:3])
    return _attention(settings, inputs._replace(q=q, k=k, v=v)).swapaxes(1, 2)[..., :H]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(settings: KernelSettings, inputs: KernelInputs) -> Float[Array, "B T N H"]:
    return _attention_forward(settings, inputs)[0]


class _Saved(NamedTuple):
    """What the backward pass reads."""

    inputs: KernelInputs
    context: Float[Array, "B T N H"]
    log_sum: Float[Array, "B N T"]


def _attention_forward(settings: KernelSettings, inputs: KernelInputs) -> tuple[Float[Array, "B T N H"], _Saved]:
    B, T, N, H = inputs.q.shape
    launch, layout = _launch("forward", settings, inputs), _layout(settings, inputs)
    q_scores, k_scores = _scores(settings, layout, inputs)
    sides = _side(layout, inputs.q, None, q_scores), _side(layout, inputs.k, inputs.v, k_scores)
    outputs = [
        (jax.ShapeDtypeStruct((B, T, N, H), inputs.v.dtype), _tokens(launch.own_tile, H)),
        (jax.ShapeDtypeStruct((B, N, T), jnp.float32), _numbers(launch.own_tile)),
    ]
    plan = KernelPlan(settings, layout, launch.own_tile, launch.other_tile, owns_queries=True)
    context, log_sum = _call(forward_kernel, plan, launch, _tensors(plan, inputs, *sides), outputs)
    return context, _Saved(inputs, context, log_sum)


def _attention_backward(
    settings: KernelSettings, saved: _Saved, gradient: Float[Array, "B T N H"]
) -> tuple[KernelInputs]:
    inputs, layout = saved.inputs, _layout(settings, saved.inputs)
    q, k, v, rel_k, rel_q = inputs[:5]
    upcast = (x.astype(jnp.float32) for x in (gradient, saved.context))
    mean = jnp.einsum("BTNH,BTNH->BNT", *upcast, precision=jax.lax.Precision.HIGHEST)

    def scores(q: Any, k: Any, rel_k: Any, rel_q: Any) -> tuple[Any, Any]:
        return _scores(settings, layout, inputs._replace(q=q, k=k, rel_k=rel_k, rel_q=rel_q))

    (q_scores, k_scores), pull = jax.vjp(scores, q, k, rel_k, rel_q)
    sides = _side(layout, q, gradient, q_scores), _side(layout, k, v, k_scores)

    def run(kernel: Kernel, name: str, tokens: int, scores: Any) -> Any:
        """Gradients of one side: `tokens` tensors like q, and those of its scores by distance."""
        launch = _launch(name, settings, inputs)
        outputs = [(jax.ShapeDtypeStruct(q.shape, q.dtype), _tokens(launch.own_tile, q.shape[-1]))] * tokens
        near = None if scores is None else (jax.eval_shape(_flat, scores), _near(layout))
        plan = KernelPlan(settings, layout, launch.own_tile, launch.other_tile, owns_queries=tokens == 1)
        tensors = _tensors(plan, inputs, *sides)._replace(log_sum=saved.log_sum, mean=mean)
        *gradients, near_gradient = _call(kernel, plan, launch, tensors, [*outputs, near])
        return *gradients, None if scores is None else near_gradient.reshape(scores.shape)

    q_gradient, q_scores = run(query_gradient_kernel, "query_gradient", 1, q_scores)
    k_gradient, v_gradient, k_scores = run(key_gradient_kernel, "key_gradient", 2, k_scores)
    q_relative, k_relative, rel_k, rel_q = pull((q_scores, k_scores))
    return (
        KernelInputs(
            q_gradient + q_relative, k_gradient + k_relative, v_gradient, rel_k, rel_q, None, None, None, None, None
        ),
    )


_attention.defvjp(first_derivative(_attention_forward), first_derivative(_attention_backward))


def _layout(settings: KernelSettings, inputs: KernelInputs) -> DistanceLayout:
    layout = distance_layout(inputs.q.shape[1], settings.tiles[0], settings.band, settings.reach)
    # Without relative terms no tile is far.
    return layout if inputs[3:5] != (None, None) else dataclasses.replace(layout, has_windows=True)


def _launch(name: str, settings: KernelSettings, inputs: KernelInputs) -> Launch:
    """The launch of a kernel, with tiles that divide those of the layout."""
    launch = LAUNCHES[name][inputs.q.shape[-1] > 64][inputs.q.dtype == jnp.float32]
    own, other = (math.gcd(size, settings.tiles[0]) for size in launch[:2])
    return launch._replace(own_tile=own, other_tile=other)


def _scores(settings: KernelSettings, layout: DistanceLayout, inputs: KernelInputs) -> tuple[Any, Any]:
    """The scores of queries and of keys by distance; None without such a term."""
    q, k, _, rel_k, rel_q = inputs[:5]
    q_scores, k_scores = (
        None if table is None else distance_scores(layout, x, table, settings.precision)
        for x, table in ((q, rel_k), (k, rel_q))
    )
    return q_scores, k_scores


def _side(layout: DistanceLayout, content: Any, partner: Any, scores: Any) -> Side:
    if scores is None:
        return Side(content, partner, None, None)
    return Side(content, partner, _flat(scores), far_scores(layout, scores))


def _flat(scores: Float[Array, "N A B M W"]) -> Float[Array, "N A B X"]:
    """The same memory as kernels address it: all rows of a block in one."""
    return scores.reshape(*scores.shape[:3], -1)


def _tensors(plan: KernelPlan, inputs: KernelInputs, queries: Side, keys: Side) -> KernelTensors:
    sizes = plan.own_tile, plan.other_tile
    tiles = visible_tiles(plan.settings, inputs, sizes if plan.owns_queries else sizes[::-1])
    tiles = tile_ranges(tiles if plan.owns_queries else tiles.swapaxes(2, 3))
    return KernelTensors(
        queries, keys, tiles, inputs.segment_ids, inputs.order, inputs.mask, inputs.seed, inputs.offset
    )


def _call(kernel: Kernel, plan: KernelPlan, launch: Launch, tensors: KernelTensors, outputs: list[Any]) -> Any:
    """Run a kernel on each tile of own tokens, head and sequence; `outputs` are shapes and blocks, or None."""
    # Imported here: the package does not depend on Triton.
    from jax.experimental.pallas import triton

    B, T, N, _ = tensors.queries.content.shape
    return pl.pallas_call(
        functools.partial(kernel, plan),
        grid=(T // plan.own_tile, N, B),
        in_specs=[_specs(plan.layout, tensors)],
        out_specs=[None if output is None else output[1] for output in outputs],
        out_shape=[None if output is None else output[0] for output in outputs],
        compiler_params=triton.CompilerParams(num_warps=launch.warps, num_stages=launch.stages),
        interpret=plan.settings.interpret,
        name=kernel.__name__,
    )(tensors)


def _specs(layout: DistanceLayout, tensors: KernelTensors) -> KernelTensors:
    """What a program reads of each tensor: everything of its sequence and head."""
    _, T, _, H = tensors.queries.content.shape
    tokens = pl.BlockSpec((None, T, None, H), lambda t, n, b: (b, 0, n, 0))
    side = Side(tokens, tokens, _near(layout), _far(T))
    words = pl.BlockSpec((2,), lambda t, n, b: (0,))
    specs = KernelTensors(
        queries=side,
        keys=side,
        tiles=_pairs(tensors.tiles),
        segment_ids=pl.BlockSpec((None, T), lambda t, n, b: (b, 0)),
        order=pl.BlockSpec((None, T), lambda t, n, b: (b, 0)),
        mask=_pairs(tensors.mask),
        seed=words,
        offset=words,
        log_sum=pl.BlockSpec((None, None, T), lambda t, n, b: (b, n, 0)),
        mean=pl.BlockSpec((None, None, T), lambda t, n, b: (b, n, 0)),
    )
    return jax.tree.map(lambda x, spec: None if x is None else spec, tensors, specs, is_leaf=lambda x: x is None)


def _tokens(tile: int, width: int) -> pl.BlockSpec:
    """The own tile of a tensor [B, T, N, H]."""
    return pl.BlockSpec((None, tile, None, width), lambda t, n, b: (b, t, n, 0))


def _numbers(tile: int) -> pl.BlockSpec:
    """The own tile of a tensor [B, N, T]."""
    return pl.BlockSpec((None, None, tile), lambda t, n, b: (b, n, t))


def _near(layout: DistanceLayout) -> pl.BlockSpec:
    """Scores by distance [N, A, B, M W] of one head and sequence."""
    return pl.BlockSpec((None, layout.blocks, None, layout.block * layout.width), lambda t, n, b: (n, 0, b, 0))


def _far(tokens: int) -> pl.BlockSpec:
    """Scores [N, 2, B, T] of one head and sequence."""
    return pl.BlockSpec((None, 2, None, tokens), lambda t, n, b: (n, 0, b, 0))


def _pairs(x: Any) -> pl.BlockSpec | None:
    """A tensor [#B, #N, X, Y] of one head and sequence; an axis of size 1 is broadcast."""
    if x is None:
        return None
    sequences, heads = (int(size > 1) for size in x.shape[:2])
    return pl.BlockSpec((None, None, *x.shape[2:]), lambda t, n, b: (b * sequences, n * heads, 0, 0))
