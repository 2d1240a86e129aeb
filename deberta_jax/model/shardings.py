"""The shardings of a model's parameters on a mesh."""

from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from deberta_jax.sharding import partition_spec


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The same tree with a NamedSharding for each array: by its logical axes in an `nnx.Variable`, else replicated.

    Works on a model, on its gradients, and on an optax state, whose moments are trees of the same variables.
    """

    def sharding(node: Any) -> Any:
        if not jax.tree.leaves(node):
            # An optimizer state omits parameters that are not trained.
            return node
        if isinstance(node, nnx.Variable):
            axes, shape = node.get_metadata().get("axes", ()), node.get_value().shape
            return node.replace(NamedSharding(mesh, partition_spec(axes, shape, mesh)))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map(sharding, tree, is_leaf=lambda node: isinstance(node, nnx.Variable))
