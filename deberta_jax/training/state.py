"""The training state: everything that changes during a run, created with its final shardings."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray

from deberta_jax.model.shardings import shardings
from deberta_jax.sharding import Rules
from deberta_jax.training.weight_average import WeightAverage

Build = Callable[[PRNGKeyArray], nnx.Module]


@runtime_checkable
class Optimizer(Protocol):
    """Anything that creates a state for a model: an optax transformation, or several of them."""

    @property
    def init(self) -> Callable[[Any], Any]: ...


class TrainState(NamedTuple):
    """Everything that a run needs to resume: `step` batches were used, `skipped` of them without an update.

    `skipped_in_row` counts the skipped batches since the last update. `key` never changes: step k uses
    fold_in(key, k). `average` are the averaged weights of a run that has a `WeightAverage`.
    """

    step: Int[Array, ""]
    model: nnx.Module
    optimizer_state: optax.OptState
    key: PRNGKeyArray
    skipped: Int[Array, ""]
    skipped_in_row: Int[Array, ""]
    average: Any = None


def model_key(seed: int) -> PRNGKeyArray:
    """The key from which a run with this seed initializes its model."""
    return jax.random.split(jax.random.key(seed))[0]


def initial_state(
    build: Build,
    optimizer: Optimizer,
    seed: int,
    mesh: Mesh,
    model: nnx.Module | None = None,
    rules: Rules | None = None,
    average: WeightAverage | None = None,
) -> TrainState:
    """The state at step 0, with `model` or one from `build`; each device allocates only its own shards.

    The arrays of `model` are donated: the state owns them, and `model` cannot be used any more. `rules` and errors as
    `shardings`. With `average`, the state contains averaged weights.
    """
    abstract = abstract_state(build, optimizer, seed, mesh, rules, average)
    state_shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    if model is None:
        return jax.jit(_initializer(build, optimizer, average), out_shardings=state_shardings)(jax.random.key(seed))

    def initialize(key: PRNGKeyArray, model: nnx.Module) -> TrainState:
        return _initializer(lambda _: model, optimizer, average)(key)

    # The buffer of a donated array must have the size of the result on each device.
    model = jax.device_put(model, state_shardings.model)
    return jax.jit(initialize, out_shardings=state_shardings, donate_argnums=1)(jax.random.key(seed), model)


def abstract_state(
    build: Build,
    optimizer: Optimizer,
    seed: int,
    mesh: Mesh,
    rules: Rules | None = None,
    average: WeightAverage | None = None,
) -> TrainState:
    """Shapes, dtypes and shardings of the state, without allocating it."""
    shapes = jax.eval_shape(_initializer(build, optimizer, average), jax.eval_shape(lambda: jax.random.key(seed)))
    return with_shardings(shapes, mesh, rules)


def with_shardings(shapes: Any, mesh: Mesh, rules: Rules | None = None) -> Any:
    """Shapes and dtypes with the shardings that the parameters' annotations give over a mesh."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings(shapes, mesh, rules),
    )


def _initializer(
    build: Build, optimizer: Optimizer, average: WeightAverage | None
) -> Callable[[PRNGKeyArray], TrainState]:
    def initialize(key: PRNGKeyArray) -> TrainState:
        parameter_key, run_key = jax.random.split(key)
        model = build(parameter_key)
        zero = jnp.zeros((), jnp.int32)
        averaged = None if average is None else average.init(model)
        return TrainState(zero, model, optimizer.init(model), run_key, zero, zero, averaged)

    return initialize
