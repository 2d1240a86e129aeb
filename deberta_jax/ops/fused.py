"""What every fused attention kernel needs: padding, tables by distance, gathered queries, sharding, dropout positions.

A kernel gets whole tiles and returns the context of every token, in the layout of its queries. It is a function
`kernel(settings, inputs) -> [B, N, T, H]`, or [B, T, N, H]; attention_tpu.py is one.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from deberta_jax.errors import InputError
from deberta_jax.ops.devices import Arrays, Offset, on_each_device
from deberta_jax.ops.dropout import keep_mask
from deberta_jax.ops.hashing import Start
from deberta_jax.ops.operands import Operands
from deberta_jax.ops.precision import einsum, kernel_precision


class KernelInputs(NamedTuple):
    """The arrays a kernel reads; also used for how each of them is sharded or tiled.

    q, k and v are [B, N, T, H], or [B, T, N, H] with `heads_axis` 2, T a multiple of both tiles. `rel_k` [N, 2 reach,
    H] has a row for each distance from reach - 1 down to -reach; `rel_q` is the same, smallest first: from 1 - reach up
    to reach. `segment_ids` [B, T] is int32 as in `masks.segment_mask`, -1 for tokens that fill up the last tile;
    `order` [B, T] is int32 as in `masks.order_mask`. `mask` is int8 [#B, #N, T, T]. `seed` [2] is that of dropout,
    `offset` [2] the first sequence and the first head of this device in the whole batch.
    """

    q: Any
    k: Any
    v: Any
    rel_k: Any
    rel_q: Any
    segment_ids: Any
    order: Any
    mask: Any
    seed: Any
    offset: Any


@dataclasses.dataclass(frozen=True)
class KernelSettings:
    """What a kernel knows at compile time.

    `shape` is the shape [B, N, T, T] of the scores of the whole batch, before padding. All distances of at least `band`
    read one row of the relative table, and all of at most -`band` another one: a pair of tiles that is wholly beyond
    needs no scores by distance. `reach` is how far the tables go, enough for every pair of tiles within the band.
    """

    scale: float
    is_causal: bool
    dropout_rate: float
    shape: tuple[int, int, int, int]
    tiles: tuple[int, int]
    band: int
    reach: int
    precision: jax.lax.Precision
    interpret: bool


Kernel = Callable[[KernelSettings, KernelInputs], Float[Array, "B _ _ H"]]


def fused_attention(
    kernel: Kernel,
    tiles: tuple[int, int],
    operands: Operands,
    *,
    index: Int[np.ndarray | Array, "W"] | None,
    scale: float,
    is_causal: bool = False,
    dropout_rate: float,
    heads_axis: int = 1,
    interpret: bool = False,
) -> Float[Array, "B M N H"]:
    """Attention by a kernel whose tiles have `tiles` queries and keys; scores and softmax in float32.

    Queries are tokens of the same sequence: all of them, or those at `query_positions`. Under a mesh each device
    computes its own sequences and heads, and drops the same entries as a single device would. `heads_axis` is the axis
    of heads in the kernel's queries, 1 or 2. `interpret` runs the kernel on any device, slowly.
    """
    scale, positions = _check(operands, scale), operands.query_positions
    if any(isinstance(size, int) and size == 0 for size in operands.q.shape):
        return jnp.zeros(operands.q.shape, operands.v.dtype)
    if positions is not None:
        operands = _one_query_per_token(operands)
    q, k, v, rel_k, rel_q, _, segment_ids, mask, seed, _, order = operands
    segment_ids, order = (None if x is None else x.astype(jnp.int32) for x in (segment_ids, order))
    # Pad tokens to whole tiles, spread the relative tables over distances, put heads where the kernel expects them.
    B, T, N, _ = q.shape
    padding = -T % math.lcm(*tiles)
    if padding:
        q, k, v = (jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))) for x in (q, k, v))
        segment_ids = jnp.zeros((B, T), jnp.int32) if segment_ids is None else segment_ids
        segment_ids = jnp.pad(segment_ids, ((0, 0), (0, padding)), constant_values=-1)
        order = None if order is None else jnp.pad(order, ((0, 0), (0, padding)), mode="edge")
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], T, T))
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, padding), (0, padding))).astype(jnp.int8)
    band = T if index is None else constant_beyond(index)
    # Whole tiles, so that a window of the tables begins at a multiple of what both tiles are multiples of.
    reach = min(T + padding, band + -band % math.gcd(*tiles) + sum(tiles))
    rel_k, rel_q = (
        None if table is None else _by_distance(table, jnp.asarray(index), reach, step)
        for table, step in ((rel_k, 1), (rel_q, -1))
    )
    q, k, v = (jnp.moveaxis(x, 2, heads_axis) for x in (q, k, v))
    inputs = KernelInputs(q, k, v, rel_k, rel_q, segment_ids, order, mask, seed, offset=None)
    settings = KernelSettings(
        scale, is_causal, dropout_rate, (B, N, T, T), tiles, band, reach, kernel_precision(q), interpret
    )
    context = jnp.moveaxis(_on_mesh(kernel, settings, inputs, heads_axis), heads_axis, 2)[:, :T]
    return context if positions is None else _select("BMT,BTNH->BMNH", _at(positions, T), context)


def _check(operands: Operands, scale: float) -> float:
    """The scale as a number; raises InputError for what kernels do not support."""
    q, k = operands.q, operands.k
    if operands.bias is not None:
        raise InputError("implementation: fused kernels do not support bias; use 'xla'")
    if q.dtype == jnp.float64:
        raise InputError("implementation: fused kernels do not support float64; use 'xla'")
    if operands.query_positions is None and q.shape[1] != k.shape[1]:
        raise InputError(
            f"implementation: fused kernels need queries that are tokens of the keys, not {q.shape[1]} queries and "
            f"{k.shape[1]} keys; pass query_positions, or use 'xla'"
        )
    if isinstance(scale, jax.core.Tracer):
        raise InputError(
            "scale: fused kernels need a number that is known at compile time, not a traced one; use 'xla'"
        )
    return float(scale)


def constant_beyond(index: Int[np.ndarray | Array, "W"]) -> int:
    """The smallest distance from which on all distances read the same row of the relative table, on both sides.

    The number of tokens if the index is not known at compile time.
    """
    tokens = (index.shape[0] + 1) // 2
    if not isinstance(index, np.ndarray):
        return tokens
    left, right = (np.flatnonzero(side != side[0]) for side in (index[:tokens], index[::-1][:tokens]))
    return max(int(tokens - side[0]) if side.size else 0 for side in (left, right))


def _by_distance(table: Float[Array, "R N H"], index: Int[Array, "W"], reach: int, step: int) -> Float[Array, "N D H"]:
    """The rows of the table for 2 reach distances, largest (`step` 1) or smallest (`step` -1) first.

    A product with a matrix of zeros and ones is exact. Its gradient is one product too, where that of a gather adds row
    by row, in no fixed order on GPU.
    """
    tokens = (index.shape[0] + 1) // 2
    distances = step * (reach - 1 - np.arange(2 * reach))
    rows = index[tokens - 1 - np.clip(distances, 1 - tokens, tokens - 1)]
    selection = (np.arange(table.shape[0], dtype=np.int32)[:, None] == rows).astype(table.dtype)
    return einsum("RNH,RD->NDH", table, selection)


def tile_keep_mask(
    settings: KernelSettings,
    inputs: KernelInputs,
    *,
    sequence: Start,
    head: Start,
    start: tuple[Start, Start],
    shape: tuple[int, int],
    transposed: bool = False,
) -> Bool[Array, "_ _"] | None:
    """Which probabilities [T, S] of a tile dropout keeps, inside a kernel, or [S, T] if `transposed`.

    None without dropout. `sequence` and `head` count within the device; the tile begins at query and key `start`.
    """
    if inputs.seed is None or inputs.offset is None:
        return None
    offset, seed = inputs.offset, inputs.seed
    position = (offset[0] + sequence, offset[1] + head, *start)
    words = seed[0], seed[1]
    options: dict[str, Any] = {"full_shape": settings.shape, "start": position, "transposed": transposed}
    return keep_mask((1, 1, *shape), settings.dropout_rate, seed=words, **options)[0, 0]


def _one_query_per_token(operands: Operands) -> Operands:
    """Operands with a query for each token, which is zero where there is none, as kernels expect them."""
    assert operands.query_positions is not None
    matches = _at(operands.query_positions, operands.k.shape[1])
    # The first of several queries at the same position.
    first = matches & (jnp.cumsum(matches, axis=1, dtype=jnp.int32) == 1)
    mask = operands.mask
    if mask is not None and mask.shape[2] > 1:
        mask = jnp.take_along_axis(mask, jnp.argmax(matches, axis=1)[:, None, :, None], axis=2)
    return operands._replace(q=_select("BMT,BMNH->BTNH", first, operands.q), mask=mask, query_positions=None)


def first_derivative(function: Callable[..., Any]) -> Callable[..., Any]:
    """A rule of a kernel's `jax.custom_vjp`, with one static argument, that raises InputError if it is differentiated.

    JAX's own error for a kernel is empty.
    """

    @functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
    def run(static: Any, *arguments: Any) -> Any:
        return function(static, *arguments)

    @run.defjvp
    def refuse(static: Any, primals: Any, tangents: Any) -> Any:
        raise InputError(
            "implementation: fused kernels have no second derivatives; use implementation='xla' (models: "
            "attention='xla')"
        )

    return run


def _at(positions: Int[Array, "B M"], tokens: int) -> Bool[Array, "B M T"]:
    """Whether query m is at position t."""
    return positions[..., None] == jnp.arange(tokens)


def _select(equation: str, selection: Bool[Array, "B M T"], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The selected rows: a product with zeros and ones, which is exact, and so is its gradient in a fixed order."""
    return jnp.einsum(equation, selection.astype(x.dtype), x, precision=jax.lax.Precision.HIGHEST)


def _on_mesh(
    kernel: Kernel, settings: KernelSettings, inputs: KernelInputs, heads_axis: int
) -> Float[Array, "B _ _ H"]:
    pairs, table = ("batch", "heads", None, None), ("heads", None, None)
    content = pairs if heads_axis == 1 else ("batch", None, "heads", None)
    axes: dict[str, tuple[str | None, ...]] = dict.fromkeys("qkv", content)
    axes |= {"rel_k": table, "rel_q": table, "mask": pairs}
    axes |= {"segment_ids": ("batch", None), "order": ("batch", None)}

    def attend(arrays: Arrays, offset: Offset) -> Float[Array, "B _ _ H"]:
        inputs = KernelInputs(**arrays)
        if inputs.seed is not None:
            inputs = inputs._replace(offset=jnp.asarray([offset(0), offset(heads_axis)], jnp.int32))
        return kernel(settings, inputs)

    return on_each_device(attend, inputs._asdict(), axes)
