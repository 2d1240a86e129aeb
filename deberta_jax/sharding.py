"""The mesh with axes data, fsdp and tensor, and the table from logical axes to mesh axes."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from deberta_jax.errors import InputError

Method = TypeVar("Method", bound=Callable[..., Any])
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


def current_mesh() -> AbstractMesh | None:
    """The mesh over which arrays may be sharded here: None without a mesh, and inside `jax.shard_map`."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or AxisType.Manual in mesh.axis_types else mesh


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrain an activation to the sharding of its logical axes on the current mesh; without a mesh, `x` itself."""
    mesh = current_mesh()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(axes, x.shape, mesh))


def on_explicit_meshes(method: Method) -> Method:
    """A model's call that also runs on a mesh with Explicit axes, the default of `jax.make_mesh`.

    Inside, XLA chooses shardings, as it does on Auto axes. Results have the sharding of the ids' batch axis.
    """

    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        mesh = jax.sharding.get_abstract_mesh()
        explicit = [
            name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind is AxisType.Explicit
        ]
        if not explicit:
            return method(*arguments, **options)
        leaves, structure = jax.tree.flatten((arguments, options))
        arrays = {number: leaf for number, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)}

        def run(arrays: dict[int, jax.Array]) -> Any:
            arguments, options = jax.tree.unflatten(structure, [arrays.get(n, leaf) for n, leaf in enumerate(leaves)])
            return method(*arguments, **options)

        with jax.sharding.use_abstract_mesh(mesh.update_axis_types(dict.fromkeys(explicit, AxisType.Auto))):
            shapes = jax.eval_shape(run, {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in arrays.items()})
        ids = options.get("input_ids", options.get("inputs_embeds")) if len(arguments) < 2 else arguments[1]
        batch = jax.typeof(ids).sharding.spec[0] if isinstance(ids, jax.Array) else None

        def spec(path: tuple[Any, ...], _: Any) -> PartitionSpec:
            is_stacked = {str(getattr(key, "name", "")) for key in path} & {"hidden_states", "attentions"}
            return PartitionSpec(None, batch) if is_stacked else PartitionSpec(batch)

        specs = jax.tree_util.tree_map_with_path(spec, shapes)
        return jax.sharding.auto_axes(run, axes=tuple(explicit), out_sharding=specs)(arrays)

    return call  # type: ignore[return-value]
