"""The mesh with axes data, fsdp and tensor, and the table from logical axes to mesh axes."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from deberta_jax.errors import InputError

Method = TypeVar("Method", bound=Callable[..., Any])
# The mesh axes of a logical axis.
MeshAxes = str | Sequence[str] | None
Rules = Mapping[str, MeshAxes]
MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

# Each parameter and activation declares its logical axes; an axis that is not listed here is not sharded.
MESH_AXIS_OF: Rules = {
    "batch": BATCH_AXES,
    "sequence": "tensor",
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "vocab": "tensor",
}


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over devices with the axes data, fsdp and tensor, for `jax.set_mesh`, `shardings` and `from_pretrained`.

    On TPUs neighbors along an axis are neighbors in the network where its shape allows it. If the devices belong to
    several slices, or GPUs to several hosts, the data axis goes across these, and the others stay within each: between
    slices only gradients are summed. Where the slices do not divide `data`, other axes cross them too.

    Args:
        data: the number of devices that share a batch, each with all parameters.
        fsdp: the number of devices that share a batch and the parameters.
        tensor: the number of devices that share each matrix product. One of the three may be -1: the remaining devices.
        devices: the devices, by default all.

    Raises:
        InputError: sizes that do not multiply to the number of devices.

    Example:
        >>> import jax
        >>> import deberta_jax as dj
        >>> dict(dj.make_mesh(devices=jax.devices()[:1]).shape)
        {'data': 1, 'fsdp': 1, 'tensor': 1}
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    for name, size in sizes.items():
        if size < 1 and size != -1:
            raise InputError(f"mesh: {name} is {size}; it must be at least 1, or -1 for all other devices")
    inferred = [name for name, size in sizes.items() if size == -1]
    if len(inferred) > 1:
        raise InputError(f"mesh: only one size may be -1, not {' and '.join(inferred)}")
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    if inferred and len(devices) % fixed == 0:
        sizes[inferred[0]] = len(devices) // fixed
    if int(np.prod(list(sizes.values()))) != len(devices):
        shape = " x ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError(
            f"mesh: {shape} does not match the number of devices, {len(devices)}; the sizes must multiply to it"
        )
    return Mesh(_arrange(tuple(sizes.values()), devices), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def _arrange(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """The devices of a mesh: an array of this shape."""
    # TPU slices, or hosts of GPUs.
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    inner, outer = (shape[0] // slices, *shape[1:]), (slices, 1, 1)
    if devices[0].platform != "cpu" and shape[0] % slices == 0:
        try:
            if slices > 1:
                return mesh_utils.create_hybrid_device_mesh(inner, outer, devices, allow_split_physical_axes=True)
            return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        except (AssertionError, NotImplementedError, ValueError):
            # JAX arranges whole slices and rectangles only: others are in the order of JAX.
            pass
    return np.asarray(devices).reshape(shape)


def check_rules(rules: Rules | None, mesh: Mesh | AbstractMesh) -> Rules:
    """The mesh axes of each logical axis: `rules`, or by default those of `make_mesh`.

    Raises InputError for names that do not exist, and without rules for a mesh that has none of the default axes.
    """
    axes = ", ".join(map(str, mesh.shape))
    if rules is None:
        if not mesh.shape.keys() & set(MESH_AXES):
            raise InputError(
                f"the mesh has the axes {axes}, none of {', '.join(MESH_AXES)}; pass `rules`, which map the logical "
                f"axes {', '.join(MESH_AXIS_OF)} to axes of the mesh"
            )
        return MESH_AXIS_OF
    if unknown := [str(name) for name in rules if name not in MESH_AXIS_OF]:
        raise InputError(f"rules: no logical axis {', '.join(unknown)}; the logical axes are {', '.join(MESH_AXIS_OF)}")
    for name, value in rules.items():
        if absent := [str(part) for part in _parts(value) if part not in mesh.shape]:
            raise InputError(f"rules: {name} is mapped to {', '.join(absent)}, but the axes of the mesh are {axes}")
    return rules


def partition_spec(
    axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh | AbstractMesh, rules: Rules = MESH_AXIS_OF
) -> PartitionSpec:
    """The mesh axes of an array whose trailing axes have these logical names; a leading layer axis is never sharded.

    An axis is sharded over those of its mesh axes that the mesh has; not at all if the mesh does not divide its size.
    """
    spec: list[Any] = [None] * (len(shape) - len(axes))
    for axis, size in zip(axes, shape[len(spec) :], strict=True):
        parts = tuple(part for part in _parts(rules.get(axis) if axis else None) if part in mesh.shape)
        divides = parts and size % math.prod(mesh.shape[part] for part in parts) == 0
        spec.append((parts[0] if len(parts) == 1 else parts) if divides else None)
    return PartitionSpec(*spec)


def _parts(value: MeshAxes) -> tuple[str, ...]:
    """The mesh axes in the value of a rule."""
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


def batch_axes(mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """The axes of a mesh over which a batch is sharded."""
    return tuple(axis for axis in BATCH_AXES if axis in mesh.shape)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis over the data and fsdp axes."""
    return NamedSharding(mesh, PartitionSpec(batch_axes(mesh) or None))


def batch_parts(mesh: Mesh) -> int:
    """The number of parts into which a mesh splits a batch."""
    return math.prod(mesh.shape[axis] for axis in batch_axes(mesh))


def current_mesh() -> AbstractMesh | None:
    """The mesh over which arrays may be sharded here: None without a mesh, and inside `jax.shard_map`."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or AxisType.Manual in mesh.axis_types else mesh


def current_device() -> Any:
    """A device of the kind that programs are compiled for: one of the current mesh or, without one, JAX's first one.

    It has `platform` ("cpu", "gpu" or "tpu") and `device_kind`.
    """
    return jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrain an activation to the sharding of its logical axes on the current mesh.

    Without a mesh, or on a mesh that has none of the axes of `make_mesh`, `x` itself: XLA then chooses its
    sharding from those of the parameters and of the batch.
    """
    mesh = current_mesh()
    if mesh is None or not mesh.shape.keys() & set(MESH_AXES):
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(axes, x.shape, mesh))


def on_explicit_meshes(method: Method) -> Method:
    """A method of tokens, or a function of queries and keys, that also runs on a mesh with Explicit axes.

    These axes are the default of `jax.make_mesh`.

    Inside, XLA chooses shardings, as it does on Auto axes; a function `each` of states runs with Explicit axes, as the
    arrays that it reads. Results and those states have the sharding of the tokens' batch axis.
    """

    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        mesh = jax.sharding.get_abstract_mesh()
        explicit = tuple(
            name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind is AxisType.Explicit
        )
        if not explicit:
            return method(*arguments, **options)
        batch, each = _batch_spec(arguments, options), options.pop("each", None)
        leaves, structure = jax.tree.flatten((arguments, options))
        arrays = {number: leaf for number, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)}

        def run(arrays: dict[int, jax.Array], each: Callable[..., Any] | None) -> Any:
            arguments, options = jax.tree.unflatten(structure, [arrays.get(n, leaf) for n, leaf in enumerate(leaves)])
            return method(*arguments, **options, **({} if each is None else {"each": each}))

        def shapes_of(each: Callable[..., Any] | None) -> Any:
            with jax.sharding.use_abstract_mesh(mesh.update_axis_types(dict.fromkeys(explicit, AxisType.Auto))):
                abstract = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in arrays.items()}
                return jax.eval_shape(functools.partial(run, each=each), abstract)

        read: Sequence[jax.Array] = ()
        if each is None:
            shapes = shapes_of(None)
        else:
            each = _Each(each, batch, explicit)
            shapes = shapes_of(each)
            read = each.hoist(mesh)

        def run_with(arrays: dict[int, jax.Array], read: Sequence[jax.Array]) -> Any:
            return run(arrays, None if each is None else functools.partial(each, read=read))

        specs = jax.tree_util.tree_map_with_path(functools.partial(_output_spec, batch), shapes)
        return jax.sharding.auto_axes(run_with, axes=explicit, out_sharding=specs)(arrays, read)

    return call  # type: ignore[return-value]


class _Each:
    """A function of a state and the number of its layer, with Explicit axes inside a method with Auto axes."""

    def __init__(self, function: Callable[..., Any], batch: PartitionSpec, explicit: tuple[str, ...]):
        self.function, self.explicit = function, explicit
        self.specs: tuple[PartitionSpec, ...] = (batch, PartitionSpec())
        self.types: list[Any] = []

    def __call__(self, *arguments: Any, read: Sequence[jax.Array] = ()) -> Any:
        self.types = [(x.shape, x.dtype) for x in arguments]
        run = jax.sharding.explicit_axes(self.function, axes=self.explicit, in_sharding=self.specs)
        return run(*arguments, *read)

    def hoist(self, mesh: AbstractMesh) -> Sequence[jax.Array]:
        """The arrays that the function reads and that may have gradients, which become arguments of it."""
        examples = [
            jax.ShapeDtypeStruct(*kind, sharding=NamedSharding(mesh, spec))
            for kind, spec in zip(self.types, self.specs, strict=False)
        ]
        if not examples:
            return ()
        self.function, read = jax.closure_convert(self.function, *examples)
        self.specs += tuple(jax.typeof(x).sharding.spec for x in read)
        return read


def _batch_spec(arguments: tuple[Any, ...], options: Mapping[str, Any]) -> PartitionSpec:
    """The sharding of the batch axis of the second argument, or of the one of its names that is given."""
    names = ("input_ids", "x", "inputs_embeds", "k")
    candidates = [*arguments[1:2], *(options.get(name) for name in names)]
    tokens = next((x for x in candidates if x is not None), None)
    return PartitionSpec(jax.typeof(tokens).sharding.spec[0] if isinstance(tokens, jax.Array) else None)


def _output_spec(batch: PartitionSpec, path: tuple[Any, ...], _: Any) -> PartitionSpec:
    """The sharding of a result, whose hidden states and attentions are stacked over layers."""
    is_stacked = {str(getattr(key, "name", "")) for key in path} & {"hidden_states", "attentions"}
    return PartitionSpec(None, *batch) if is_stacked else batch
