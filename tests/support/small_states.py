"""Training states from a model that is built once, since compiling a random initialization per mesh takes long."""

import jax
import jax.numpy as jnp

from deberta_jax.training.state import abstract_state, initial_state


def state_of(model, build, optimizer, mesh):
    """The state of step 0 with a copy of `model`, sharded over a mesh."""
    abstract = abstract_state(build, optimizer, 0, mesh).model
    leaves = zip(jax.tree.leaves(model), jax.tree.leaves(abstract), strict=True)
    # `initial_state` donates the copy.
    copies = [jax.device_put(jnp.copy(leaf), target.sharding) for leaf, target in leaves]
    return initial_state(build, optimizer, 0, mesh, jax.tree.unflatten(jax.tree.structure(abstract), copies))
