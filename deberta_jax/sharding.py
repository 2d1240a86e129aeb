"""The mesh with axes data, fsdp and tensor, and the table from logical axes to mesh axes."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from deberta_jax.errors import InputError

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

# Each parameter and activation declares its logical axes; an axis that is not listed here is not sharded.
MESH_AXIS_OF = {
    "batch": BATCH_AXES,
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "vocab": "tensor",
}


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over `devices` (default: all). One of the three sizes may be -1: the remaining devices.

    Raises InputError if the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    inferred = [name for name, size in sizes.items() if size == -1]
    if len(inferred) > 1:
        raise InputError(f"mesh: only one size may be -1, not {' and '.join(inferred)}")
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    if inferred and len(devices) % fixed == 0:
        sizes[inferred[0]] = len(devices) // fixed
    if int(np.prod(list(sizes.values()))) != len(devices) or min(sizes.values()) < 1:
        shape = " x ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError(
            f"mesh: {shape} does not match the {len(devices)} available devices; the sizes must multiply to that number"
        )
    grid = np.asarray(devices).reshape(tuple(sizes.values()))
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def partition_spec(axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """The mesh axes of an array whose trailing axes have these logical names; a leading layer axis is never sharded.

    An axis is not sharded if the mesh does not divide its size, or lacks its mesh axes.
    """
    names: list[Any] = [None] * (len(shape) - len(axes)) + [MESH_AXIS_OF.get(axis) if axis else None for axis in axes]
    for position, name in enumerate(names):
        if name is not None:
            parts = name if isinstance(name, tuple) else (name,)
            if not mesh.shape.keys() >= set(parts) or shape[position] % np.prod([mesh.shape[part] for part in parts]):
                names[position] = None
    return PartitionSpec(*names)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis over the data and fsdp axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_parts(mesh: Mesh) -> int:
    """The number of parts into which a mesh splits a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrain an activation to the sharding of its logical axes on the current mesh; without a mesh, `x` itself."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(axes, x.shape, mesh))
