"""Which blocks of memory the TPU kernels read and write in each step of their grid, and how much fast memory they use.

The grid iterates over heads, sequences, tiles of queries and tiles of keys. Tokens are the last axis of all arrays,
which is the layout that XLA prefers for projections. Tiles of keys that a tile of queries does not attend to are not
fetched: the step reads the tile of the step before.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from deberta_jax.ops.fused import KernelInputs, KernelSettings
from deberta_jax.sharding import current_device

# MiB of vector memory that a kernel may use, by the start of a device's kind: of 128 in a core, of 64 in all others.
_VECTOR_MEMORY = {"TPU v5 lite": 112, "TPU v6": 112}
_SMALLEST_VECTOR_MEMORY = 56


def vector_memory() -> int:
    """The bytes of vector memory that a kernel may use on the current devices."""
    sizes = (size for kind, size in _VECTOR_MEMORY.items() if current_device().device_kind.startswith(kind))
    return next(sizes, _SMALLEST_VECTOR_MEMORY) << 20


def compiler_params() -> pltpu.CompilerParams:
    """Parameters of the kernels: heads in any order, the rest in order."""
    semantics: tuple[Any, ...] = ("parallel", "arbitrary", "arbitrary", "arbitrary")
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=vector_memory())


def query_block(settings: KernelSettings, width: int) -> pl.BlockSpec:
    """The tile of queries of one head of width `width`, from [B, N H, T]."""
    return pl.BlockSpec((None, width, settings.tiles[0]), lambda n, b, i, j, *_: (b, n, i))


def query_numbers(settings: KernelSettings) -> pl.BlockSpec:
    """A number per query of one head, from [B, N, 1, T]."""
    return pl.BlockSpec((None, None, 1, settings.tiles[0]), lambda n, b, i, j, *_: (b, n, 0, i))


def table_block(settings: KernelSettings, width: int) -> pl.BlockSpec:
    """The table by distance of one head, from [N H, 2 reach]."""
    return pl.BlockSpec((width, 2 * settings.reach), lambda n, b, i, j, *_: (n, 0))


def gradient_of_keys(settings: KernelSettings, tokens: int, width: int) -> pl.BlockSpec:
    """The tile of keys, written in the steps of the last tile of queries; before that the block stays the first one."""
    queries, keys = settings.tiles
    last = tokens // queries - 1
    return pl.BlockSpec((None, width, keys), lambda n, b, i, j, *_: (b, n, jnp.where(i == last, j, 0)))


def of_both_sides(inputs: KernelInputs) -> KernelInputs:
    """The inputs as `block_specs` describes them: segments and order of the queries, and again of the keys."""
    segment_ids, order = (None if x is None else (x, x) for x in (inputs.segment_ids, inputs.order))
    return inputs._replace(segment_ids=segment_ids, order=order)


def block_specs(settings: KernelSettings, inputs: KernelInputs, width: int) -> KernelInputs:
    """The blocks of all inputs, of `segment_ids` and `order` as pairs (`of_both_sides`)."""
    queries, keys = settings.tiles

    def key(b: Any, i: Any, j: Any, first: Any, last: Any) -> Any:
        """The tile of keys, or the nearest visible one."""
        return jnp.minimum(jnp.maximum(j, first[b, i]), jnp.maximum(last[b, i], 0))

    mask = inputs.mask
    # An axis of size 1 is broadcast.
    sequences, heads = (1, 1) if mask is None else (int(size > 1) for size in mask.shape[:2])
    content = pl.BlockSpec((None, width, keys), lambda n, b, i, j, *v: (b, n, key(b, i, j, *v)))
    tokens = (
        pl.BlockSpec((1, 1, queries), lambda n, b, i, j, *_: (b, 0, i)),
        pl.BlockSpec((1, 1, keys), lambda n, b, i, j, *v: (b, 0, key(b, i, j, *v))),
    )
    scalars = pl.BlockSpec(memory_space=pltpu.SMEM)
    specs = KernelInputs(
        q=query_block(settings, width),
        k=content,
        v=content,
        rel_k=table_block(settings, width),
        rel_q=table_block(settings, width),
        segment_ids=tokens,
        order=tokens,
        mask=pl.BlockSpec(
            (1, 1, keys, queries), lambda n, b, i, j, *v: (b * sequences, n * heads, key(b, i, j, *v), i)
        ),
        seed=scalars,
        offset=scalars,
    )
    return KernelInputs(*(None if x is None else spec for spec, x in zip(specs, inputs, strict=True)))


def cost_estimate(
    settings: KernelSettings, inputs: KernelInputs, width: int, *, products: int, others: Any
) -> pl.CostEstimate:
    """What a kernel costs if all tiles are visible, for XLA's scheduler.

    `products` is the number of matrix products of a pair of tiles, without relative terms; each such term has as many
    in the band. `others` are the arrays that a kernel reads or writes once, beside the inputs.
    """
    B, D, tokens = inputs.q.shape
    pairs = B * D // width * tokens**2
    near = min(1, (2 * settings.band + sum(settings.tiles)) / tokens)
    terms = sum(table is not None for table in (inputs.rel_k, inputs.rel_q)) / 2
    # Each tile of queries reads all keys and values.
    again = tokens // settings.tiles[0] - 1
    once = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((inputs, others)))
    return pl.CostEstimate(
        flops=int(2 * pairs * width * products * (1 + terms * near)),
        transcendentals=pairs,
        bytes_accessed=once + again * sum(x.size * x.dtype.itemsize for x in (inputs.k, inputs.v)),
    )
