"""The shardings of a model's parameters on a mesh."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from deberta_jax.errors import InputError
from deberta_jax.sharding import Rules, check_rules, partition_spec

Tree = TypeVar("Tree")


def shardings(tree: Tree, mesh: Mesh, rules: Rules | None = None) -> Tree:
    """The same tree with a NamedSharding for each array: by its logical axes in an `nnx.Variable`, else replicated.

    Works on a model, on its gradients, and on an optax state, whose moments are trees of the same variables.

    Args:
        tree: arrays, or their shapes from `jax.eval_shape`.
        mesh: a mesh of `make_mesh`, or with `rules` any mesh.
        rules: the mesh axis, or the mesh axes, of each logical axis ("embed", "mlp", "heads", "vocab", "batch",
            "sequence"), such as `{"embed": "x", "heads": ("y", "z")}`; a logical axis without an entry is not sharded.
            On a mesh with none of the axes data, fsdp and tensor, XLA chooses the sharding of activations. By default
            "embed" is sharded over fsdp, and "mlp", "heads" and "vocab" over tensor.

    Raises:
        InputError: an unknown logical axis; an axis that the mesh does not have; rules that shard two axes of one array
            over the same mesh axis; without rules, a mesh with none of the axes data, fsdp and tensor.

    Example:
        >>> import jax
        >>> import deberta_jax as dj
        >>> model, mesh = dj.Deberta(dj.PRESETS["tiny"], key=jax.random.key(0)), dj.make_mesh(devices=jax.devices()[:1])
        >>> model = jax.device_put(model, dj.shardings(model, mesh))
    """
    mesh_axes = check_rules(rules, mesh)

    def sharding(node: Any) -> Any:
        if not jax.tree.leaves(node):
            # An optimizer state omits parameters that are not trained.
            return node
        if isinstance(node, nnx.Variable):
            axes, shape = node.get_metadata().get("axes", ()), node.get_value().shape
            spec = partition_spec(axes, shape, mesh, mesh_axes)
            _check_distinct(spec, axes)
            return node.replace(NamedSharding(mesh, spec))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map(sharding, tree, is_leaf=lambda node: isinstance(node, nnx.Variable))


def _check_distinct(spec: PartitionSpec, axes: Sequence[str | None]) -> None:
    used = [part for entry in spec for part in (entry if isinstance(entry, tuple) else (entry,)) if part is not None]
    if repeated := sorted({str(part) for part in used if used.count(part) > 1}):
        names = ", ".join(str(axis) for axis in axes if axis)
        raise InputError(
            f"rules: an array with the logical axes {names} would be sharded over {', '.join(repeated)} twice; map "
            "them to different axes of the mesh"
        )
