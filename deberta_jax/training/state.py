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
    """Everything that a run needs to resume, as a pytree.

    Example:
        >>> import jax, optax
        >>> import deberta_jax as dj
        >>> build = lambda key: dj.SequenceClassification(dj.PRESETS["tiny"], key=key)
        >>> state = dj.initial_state(build, optax.adamw(1e-4), seed=0, mesh=dj.make_mesh(devices=jax.devices()[:1]))
        >>> int(state.step), state.average is None
        (0, True)
    """

    step: Int[Array, ""]
    """The number of batches that were used, a scalar."""
    model: nnx.Module
    """The model."""
    optimizer_state: optax.OptState
    """The state of the optimizer."""
    key: PRNGKeyArray
    """The key of the run, which never changes: step k uses `fold_in(key, k)`."""
    skipped: Int[Array, ""]
    """The number of batches without an update, because the loss or the gradient was not finite."""
    skipped_in_row: Int[Array, ""]
    """The number of skipped batches since the last update."""
    average: object = None
    """The averaged weights, a tree like the model; None without averaging."""


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
    """The state at step 0; each device allocates only its own shards.

    Args:
        build: `build(key)` returns a model with random weights.
        optimizer: an optax transformation.
        seed: of the model and the run.
        mesh: the devices, from `make_mesh`.
        model: a model in place of the random one. Its arrays are donated: the state owns them, and `model` cannot be
            used any more.
        rules: the mesh axes of each logical axis, as for `shardings`.
        average: how weights are averaged; None for not at all.

    Raises:
        InputError: as `shardings`.

    Example:
        >>> import jax, optax
        >>> import deberta_jax as dj
        >>> build = lambda key: dj.SequenceClassification(dj.PRESETS["tiny"], key=key)
        >>> state = dj.initial_state(build, optax.adamw(1e-4), seed=0, mesh=dj.make_mesh(devices=jax.devices()[:1]))
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
