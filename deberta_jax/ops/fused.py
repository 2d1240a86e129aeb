"""What every fused attention kernel needs: padding, tables by distance, gathered queries, sharding, dropout positions.

A kernel gets whole tiles and heads first, and returns the context of every token. It is a function
`kernel(settings, inputs) -> [B, N, T, H]`; attention_tpu.py is one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from deberta_jax.ops.dropout import keep_mask
from deberta_jax.ops.hashing import Start
from deberta_jax.ops.operands import Operands
from deberta_jax.ops.relative_shift import table_by_distance
from deberta_jax.sharding import current_mesh, partition_spec


class KernelInputs(NamedTuple):
    """The arrays a kernel reads, heads first; also used for how each of them is sharded or tiled.

    q, k and v are [B, N, T, H]. `rel_k` [N, 2T, H] has a row for each distance, largest first, and one more so that
    tiles are whole; `rel_q` is the same, smallest first. `mask` is int8 [#B, #N, T, T]. `seed` [2] is that of dropout,
    `offset` [2] the first sequence and the first head of this device in the whole batch.
    """

    q: Any
    k: Any
    v: Any
    rel_k: Any
    rel_q: Any
    mask: Any
    seed: Any
    offset: Any


@dataclasses.dataclass(frozen=True)
class KernelSettings:
    """`shape` is the shape [B, N, T, T] of the scores of the whole batch, before padding."""

    scale: float
    dropout_rate: float
    shape: tuple[int, int, int, int]
    interpret: bool


Kernel = Callable[[KernelSettings, KernelInputs], Float[Array, "B N T H"]]


def fused_attention(
    kernel: Kernel,
    tile: int,
    operands: Operands,
    *,
    index: Int[np.ndarray | Array, "W"] | None,
    scale: float,
    dropout_rate: float,
    interpret: bool = False,
) -> Float[Array, "B M N H"]:
    """Attention by a kernel whose tiles have `tile` queries and keys; scores and softmax in float32.

    Queries are tokens of the same sequence: all of them, or those at `query_positions`. Under a mesh each device
    computes its own sequences and heads, and drops the same entries as a single device would. `interpret` runs the
    kernel on any device, slowly.
    """
    positions = operands.query_positions
    if operands.bias is not None:
        raise ValueError("implementation: fused kernels do not support bias; use 'xla'")
    q, k, v, rel_k, rel_q, _, mask, seed, _ = operands if positions is None else _one_query_per_token(operands)
    # Pad tokens to whole tiles, spread the relative tables over distances, put heads first.
    B, T, N, _ = q.shape
    padding = -T % tile
    if padding:
        q, k, v = (jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))) for x in (q, k, v))
        mask = jnp.ones((1, 1, 1, T), bool) if mask is None else mask
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, padding if mask.shape[2] > 1 else 0), (0, padding)))
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], T + padding, T + padding)).astype(jnp.int8)

    def by_distance(table: Float[Array, "R N H"] | None, step: int) -> Float[Array, "N D H"] | None:
        if table is None:
            return None
        # One row more than there are distances, so that tiles of the table are whole.
        rows = jnp.pad(jnp.asarray(index)[::step], (padding, padding + 1), "edge")
        return table_by_distance(table.swapaxes(0, 1), rows)

    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    inputs = KernelInputs(q, k, v, by_distance(rel_k, 1), by_distance(rel_q, -1), mask, seed, offset=None)
    settings = KernelSettings(scale, dropout_rate, (B, N, T, T), interpret)
    context = _on_mesh(kernel, settings, inputs).swapaxes(1, 2)[:, :T]
    return context if positions is None else jnp.take_along_axis(context, positions[..., None, None], axis=1)


def tile_keep_mask(
    settings: KernelSettings,
    inputs: KernelInputs,
    *,
    sequence: Start,
    head: Start,
    start: tuple[Start, Start],
    shape: tuple[int, int],
) -> Bool[Array, "T S"] | None:
    """Which probabilities of a tile dropout keeps, inside a kernel; None without dropout.

    `sequence` and `head` count within the device; the tile begins at query and key `start`.
    """
    if inputs.seed is None or inputs.offset is None:
        return None
    offset, seed = inputs.offset, inputs.seed
    position = (offset[0] + sequence, offset[1] + head, *start)
    words = seed[0], seed[1]
    return keep_mask((1, 1, *shape), settings.dropout_rate, seed=words, full_shape=settings.shape, start=position)[0, 0]


def _one_query_per_token(operands: Operands) -> Operands:
    """Operands with a query for each token, which is zero where there is none, as kernels expect them."""
    assert operands.query_positions is not None
    matches = operands.query_positions[:, None, :] == jnp.arange(operands.k.shape[1])[None, :, None]
    slot = jnp.argmax(matches, axis=-1)
    q = jnp.take_along_axis(operands.q, slot[..., None, None], axis=1)
    q = jnp.where(matches.any(-1)[..., None, None], q, 0)
    mask = operands.mask
    if mask is not None and mask.shape[2] > 1:
        mask = jnp.take_along_axis(mask, slot[:, None, :, None], axis=2)
    return operands._replace(q=q, mask=mask, query_positions=None)


def _on_mesh(kernel: Kernel, settings: KernelSettings, inputs: KernelInputs) -> Float[Array, "B N T H"]:
    mesh = current_mesh()
    content, table = ("batch", "heads", None, None), ("heads", None, None)
    axes = KernelInputs(content, content, content, table, table, content, seed=(None,), offset=(None,))
    specs = KernelInputs(
        *(
            None if x is None or mesh is None else partition_spec(names, x.shape, mesh)
            for names, x in zip(axes, inputs, strict=True)
        )
    )

    def attend(inputs: KernelInputs) -> Float[Array, "B N T H"]:
        if inputs.seed is not None:
            shards = (0 if name is None else jax.lax.axis_index(name) for name in (specs.q or (None, None))[:2])
            offset = [shard * size for shard, size in zip(shards, inputs.q.shape[:2], strict=True)]
            inputs = inputs._replace(offset=jnp.asarray(offset, jnp.int32))
        return kernel(settings, inputs)

    if mesh is None:
        return attend(inputs)
    return jax.shard_map(attend, in_specs=(specs,), out_specs=specs.q, check_vma=False)(inputs)
