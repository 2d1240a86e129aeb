"""Attention on a mesh: each device computes its own sequences and heads."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from deberta_jax.sharding import current_mesh, partition_spec

# The index of a device's first entry along an axis of its queries, in the whole batch.
Offset = Callable[[int], Any]
Arrays = Mapping[str, Any]
Axes = Mapping[str, tuple[str | None, ...]]


def on_each_device(function: Callable[[Arrays, Offset], jax.Array], arrays: Arrays, axes: Axes) -> jax.Array:
    """`function(arrays, offset)` with each device's parts of the arrays, which have these logical axes.

    The result has the axes of the array `q`. Arrays without axes are the same on all devices, and None is no array.
    Gradients of what several devices read are summed once, after the backward pass of `function`.
    """
    mesh = current_mesh()
    if mesh is None or mesh.size == 1:
        return function(arrays, lambda axis: 0)
    given = {name: x for name, x in arrays.items() if x is not None}
    specs = {name: partition_spec(axes.get(name, (None,) * x.ndim), x.shape, mesh) for name, x in given.items()}

    def run(parts: Arrays) -> jax.Array:
        def offset(axis: int) -> Any:
            name = specs["q"][axis]
            return 0 if name is None else jax.lax.axis_index(name) * parts["q"].shape[axis]

        return function({**dict.fromkeys(arrays), **parts}, offset)

    return jax.shard_map(run, in_specs=(specs,), out_specs=specs["q"], check_vma=False)(given)
