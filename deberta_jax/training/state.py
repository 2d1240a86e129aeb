"""All that changes while training, born where it will live."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray

from deberta_jax.model.shardings import shardings

Build = Callable[[PRNGKeyArray], nnx.Module]


@runtime_checkable
class Optimizer(Protocol):
    """What has a state for a model: an optax transformation, or several."""

    @property
    def init(self) -> Callable[[Any], Any]: ...


class TrainState(NamedTuple):
    """Everything a run needs to go on: `step` batches were taken, `skipped` of them without an update.

    `skipped_in_row` counts the skipped ones since the last update. `key` never changes: step k uses fold_in(key, k).
    """

    step: Int[Array, ""]
    model: nnx.Module
    optimizer_state: optax.OptState
    key: PRNGKeyArray
    skipped: Int[Array, ""]
    skipped_in_row: Int[Array, ""]


def model_key(seed: int) -> PRNGKeyArray:
    """The key from which a run with this seed initializes its model."""
    return jax.random.split(jax.random.key(seed))[0]


def initial_state(
    build: Build, optimizer: Optimizer, seed: int, mesh: Mesh, model: nnx.Module | None = None
) -> TrainState:
    """Step 0, of `model` where one is given; no device ever holds more than its part."""
    born = abstract_state(build, optimizer, seed, mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, born)
    if model is None:
        return jax.jit(_initialiser(build, optimizer), out_shardings=places)(jax.random.key(seed))

    def begin(key: PRNGKeyArray, model: nnx.Module) -> TrainState:
        return _initialiser(lambda _: model, optimizer)(key)

    return jax.jit(begin, out_shardings=places, donate_argnums=1)(jax.random.key(seed), model)


def abstract_state(build: Build, optimizer: Optimizer, seed: int, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state; takes no memory."""
    shapes = jax.eval_shape(_initialiser(build, optimizer), jax.eval_shape(lambda: jax.random.key(seed)))
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings(shapes, mesh),
    )


def _initialiser(build: Build, optimizer: Optimizer) -> Callable[[PRNGKeyArray], TrainState]:
    def initialise(key: PRNGKeyArray) -> TrainState:
        model_key, run_key = jax.random.split(key)
        model = build(model_key)
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, model, optimizer.init(model), run_key, zero, zero)

    return initialise
