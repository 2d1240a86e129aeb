"""Where the parameters of a model live on a mesh."""

from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from deberta_jax.sharding import partition_spec


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The same tree with a NamedSharding for each array: by its logical axes inside an `nnx.Variable`, else replicated.

    Works on a model, on its gradients and on an optax state, whose moments are trees of the same variables.
    """

    def of(node: Any) -> Any:
        if not jax.tree.leaves(node):
            # What an optimizer leaves out.
            return node
        if isinstance(node, nnx.Variable):
            value = node.get_value()
            return node.replace(
                NamedSharding(mesh, partition_spec(node.get_metadata().get("axes", ()), value.shape, mesh))
            )
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map(of, tree, is_leaf=lambda node: isinstance(node, nnx.Variable))
