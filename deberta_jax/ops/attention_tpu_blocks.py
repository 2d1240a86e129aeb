"""Which blocks of memory the TPU kernels read and write in each step of their grid, and how much fast memory they use.

The grid iterates over blocks of heads, sequences, tiles of queries and tiles of keys. Tiles of keys that a tile of
queries does not attend to are not fetched: the step reads the tile of the step before.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from deberta_jax.ops.attention_tpu_tiles import Plan
from deberta_jax.ops.fused import KernelInputs

# MiB of vector memory that a kernel may use, by the start of a device's kind: 64 in a core of v5p and tpu7x, else 128.
_VECTOR_MEMORY = {"TPU v5 lite": 112, "TPU v6": 112}
_SMALLEST_VECTOR_MEMORY = 56


def vector_memory() -> int:
    """The bytes of vector memory that a kernel may use on the current devices."""
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    sizes = (size for kind, size in _VECTOR_MEMORY.items() if device.device_kind.startswith(kind))
    return next(sizes, _SMALLEST_VECTOR_MEMORY) << 20


def compiler_params(semantics: Any) -> pltpu.CompilerParams:
    """Parameters of a kernel whose grid axes are "parallel" or "arbitrary"."""
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=vector_memory())


def query_block(plan: Plan) -> pl.BlockSpec:
    """The tile of queries of [B, T, D]."""
    return pl.BlockSpec((1, plan.settings.tiles[0], plan.channels), lambda n, b, i, j, *_: (b, i, n))


def query_rows(plan: Plan) -> pl.BlockSpec:
    """A number per head and query, from [B, blocks, heads, T]."""
    return pl.BlockSpec((1, 1, plan.heads, plan.settings.tiles[0]), lambda n, b, i, j, *_: (b, n, 0, i))


def table_block(plan: Plan) -> pl.BlockSpec:
    """A table by distance of a block of heads."""
    return pl.BlockSpec((plan.channels, 2 * plan.settings.reach), lambda n, b, i, j, *_: (n, 0))


def block_specs(plan: Plan, inputs: KernelInputs) -> KernelInputs:
    """The blocks of all inputs; `segment_ids` are a pair, those of the queries and of the keys."""
    queries, keys = plan.settings.tiles

    def key(b: Any, i: Any, j: Any, first: Any, last: Any) -> Any:
        """The tile of keys, or the nearest visible one."""
        return jnp.minimum(jnp.maximum(j, first[b, i]), jnp.maximum(last[b, i], 0))

    mask = inputs.mask
    # An axis of size 1 is broadcast.
    sequences, heads = (1, 1) if mask is None else (int(size > 1) for size in mask.shape[:2])
    content = pl.BlockSpec((1, keys, plan.channels), lambda n, b, i, j, *v: (b, key(b, i, j, *v), n))
    scalars = pl.BlockSpec(memory_space=pltpu.SMEM)
    specs = KernelInputs(
        q=query_block(plan),
        k=content,
        v=content,
        rel_k=table_block(plan),
        rel_q=table_block(plan),
        segment_ids=(
            pl.BlockSpec((1, 1, queries), lambda n, b, i, j, *_: (b, 0, i)),
            pl.BlockSpec((1, 1, keys), lambda n, b, i, j, *v: (b, 0, key(b, i, j, *v))),
        ),
        mask=pl.BlockSpec(
            (1, plan.heads if heads else 1, keys, queries),
            lambda n, b, i, j, *v: (b * sequences, n * heads, key(b, i, j, *v), i),
        ),
        seed=scalars,
        offset=scalars,
    )
    return KernelInputs(*(None if x is None else spec for spec, x in zip(specs, inputs, strict=True)))
