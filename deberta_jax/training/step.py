"""One training step over a mesh, and the evaluation of a batch."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray

from deberta_jax.errors import InputError
from deberta_jax.sharding import BATCH_AXES, batch_sharding
from deberta_jax.training.objective import Batch, Evaluate, Objective, Sums
from deberta_jax.training.state import TrainState

Metrics = dict[str, Float[Array, ""]]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


class Updated(NamedTuple):
    """A model and its optimizer's state after a batch; `metrics` hold at least `loss`, `grad_norm` and `tokens`."""

    model: Any
    optimizer_state: Any
    metrics: Metrics


Update = Callable[[Any, Any, Batch, PRNGKeyArray], Updated]


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    places: TrainState,
    accumulate: int = 1,
) -> Step:
    """A jitted `(state, batch) -> (state, metrics)` that donates the state, whose shardings are `places`.

    The gradient is that of sum of losses / sum of weights over the whole batch, however it is split over devices and
    over `accumulate` micro-batches. Where the loss or the gradient's norm is not finite, only counts change.
    """

    def update(model: nnx.Module, optimizer_state: Any, batch: Batch, key: PRNGKeyArray) -> Updated:
        sums, gradients = mean_gradient(objective, model, batch, key, places.model, accumulate)
        model, optimizer_state = apply(optimizer, gradients, optimizer_state, model)
        loss = sums.loss / sums.weight
        means = {name: total / sums.weight for name, total in sums.metrics.items()}
        norm = {"tokens": sums.tokens, "grad_norm": optax.tree.norm(gradients)}
        return Updated(model, optimizer_state, {"loss": loss, **means, **norm})

    return compiled(update, {"learning_rate": learning_rate}, places)


def compiled(update: Update, learning_rates: Mapping[str, optax.Schedule], places: TrainState) -> Step:
    """The jitted step of an update, which donates the state; what is not finite changes nothing but the counts."""

    mesh: Mesh = jax.tree.leaves(places)[0].mesh

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            key = jax.random.fold_in(state.key, state.step)
            updated = update(state.model, state.optimizer_state, batch, key)
            finite = jnp.isfinite(updated.metrics["loss"]) & jnp.isfinite(updated.metrics["grad_norm"])
            former = (state.model, state.optimizer_state)
            model, optimizer_state = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old), (updated.model, updated.optimizer_state), former
            )
        rates = {
            name: jnp.asarray(rate(state.step - state.skipped), jnp.float32) for name, rate in learning_rates.items()
        }
        metrics = {
            **updated.metrics,
            **rates,
            "skipped_in_row": jnp.where(finite, 0, state.skipped_in_row + 1),
        }
        state = state._replace(
            step=state.step + 1,
            model=model,
            optimizer_state=optimizer_state,
            skipped=state.skipped + jnp.where(finite, 0, 1),
            skipped_in_row=metrics["skipped_in_row"],
        )
        return state, metrics

    return jax.jit(step, donate_argnums=0, out_shardings=(places, NamedSharding(mesh, PartitionSpec())))


def apply(optimizer: optax.GradientTransformation, gradients: Any, state: Any, model: Any) -> tuple[Any, Any]:
    """The model and the optimizer's state after one update."""
    updates, state = optimizer.update(gradients, state, model)
    return optax.apply_updates(model, updates), state


def make_evaluation(evaluate: Evaluate, mesh: Mesh) -> Evaluate:
    """Jitted sums of a batch, without dropout; every process gets them whole."""

    def evaluation(model: nnx.Module, batch: Batch, number: int | Array = 0) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return evaluate(model, batch, number)

    return jax.jit(evaluation, out_shardings=NamedSharding(mesh, PartitionSpec()))


@functools.cache
def batch_share(mesh: Mesh) -> tuple[int, int]:
    """Which of how many equal parts of every batch is this process's; processes with the same devices share a part."""
    ways = int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))
    parts = batch_sharding(mesh).addressable_devices_indices_map((ways,)).values()
    mine = sorted({row for part in parts if part is not None for row in range(*part[0].indices(ways))})
    first, count = mine[0], ways // len(mine)
    if mine != list(range(first, first + len(mine))) or first % len(mine) or ways % len(mine):
        raise InputError(
            f"mesh: the rows {mine} of {ways} of process {jax.process_index()} are no equal part of a batch: give the "
            "mesh sizes that processes divide"
        )
    return first // len(mine), count


def place(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch as arrays split over the mesh."""
    rows, (_, count) = batch_sharding(mesh), batch_share(mesh)
    return {
        name: jax.make_array_from_process_local_data(rows, values, (len(values) * count, *values.shape[1:]))
        for name, values in batch.items()
    }


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int) -> None:
    """Refuse a batch that the mesh and the accumulation do not divide."""
    ways = int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))
    if accumulate < 1 or batch_size < 1 or batch_size % (ways * accumulate):
        shape = " x ".join(f"{axis} {mesh.shape[axis]}" for axis in BATCH_AXES)
        raise InputError(
            f"batch of {batch_size} rows does not divide by {ways * accumulate} (mesh {shape}, accumulate {accumulate})"
        )


def mean_gradient(
    objective: Objective, model: Any, batch: Batch, key: PRNGKeyArray, places: Any, accumulate: int
) -> tuple[Sums, Any]:
    """Sums over a batch, taken micro-batch after micro-batch, and the gradient of the mean loss, in float32."""
    sums, gradients = _summed_gradient(objective, model, batch, key, places, accumulate)
    return sums, jax.tree.map(lambda g: g / sums.weight, gradients)


def _summed_gradient(
    objective: Objective, model: Any, batch: Batch, key: PRNGKeyArray, places: Any, accumulate: int
) -> tuple[Sums, Any]:
    def summed(model: Any, batch: Batch, key: PRNGKeyArray) -> tuple[Float[Array, ""], Sums]:
        sums = objective(model, batch, key)
        return sums.loss, sums

    def gradient(batch: Batch, key: PRNGKeyArray) -> tuple[Sums, Any]:
        (_, sums), gradients = jax.value_and_grad(summed, has_aux=True)(model, batch, key)
        gradients = jax.tree.map(lambda g: g.astype(jnp.float32), gradients)
        return sums, jax.lax.with_sharding_constraint(gradients, places)

    if accumulate == 1:
        return gradient(batch, key)

    def split(x: Array) -> Array:
        # Every accumulate-th row, so that each device's rows stay its own.
        x = jnp.swapaxes(x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]), 0, 1)
        return jax.lax.with_sharding_constraint(x, PartitionSpec(None, BATCH_AXES))

    def joined(x: Array) -> Array:
        x = jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
        return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES))

    def add(total: tuple[Sums, Any], turn: tuple[Batch, Array]) -> tuple[tuple[Sums, Any], Any]:
        micro_batch, index = turn
        sums, gradients = gradient(micro_batch, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, (sums._replace(rows={}), gradients)), sums.rows

    turns = (jax.tree.map(split, dict(batch)), jnp.arange(accumulate))
    shapes = jax.eval_shape(gradient, jax.tree.map(lambda x: x[0], turns[0]), key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (shapes[0]._replace(rows={}), shapes[1]))
    zeros = (zeros[0], jax.lax.with_sharding_constraint(zeros[1], places))
    (sums, gradients), rows = jax.lax.scan(add, zeros, turns)
    return sums._replace(rows=jax.tree.map(joined, rows)), gradients
