"""One training step over a mesh, the evaluation of a batch, and the placement of batches on devices."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deberta_jax.data.batch_share import BatchShare
from deberta_jax.errors import InputError
from deberta_jax.sharding import batch_axes, batch_parts, batch_sharding, constrain
from deberta_jax.training.objective import AnyModule, ArrayBatch, BatchEvaluation, Objective, Sums
from deberta_jax.training.state import TrainState
from deberta_jax.training.weight_average import WeightAverage

Metrics = dict[str, Float[Array, ""]]
Step = Callable[[TrainState, ArrayBatch], tuple[TrainState, Metrics]]


class Updated(NamedTuple):
    """A model and its optimizer state after a batch; `metrics` has at least `loss`, `grad_norm` and `tokens`."""

    model: Any
    optimizer_state: Any
    metrics: Metrics


Update = Callable[[TrainState, ArrayBatch, PRNGKeyArray], Updated]
# (model, key) -> the sums of a batch and the gradient of its mean loss, computed in micro-batches.
GradientAt = Callable[[AnyModule, PRNGKeyArray], tuple[Sums, AnyModule]]
# (gradient_at, model, step, key) -> the sums and the gradient with which a step updates the model.
GradientRule = Callable[[GradientAt[AnyModule], AnyModule, Int[Array, ""], PRNGKeyArray], tuple[Sums, AnyModule]]


def gradient_of_model(
    gradient_at: GradientAt[AnyModule], model: AnyModule, step: Int[Array, ""], key: PRNGKeyArray
) -> tuple[Sums, AnyModule]:
    """The rule without a perturbation: the gradient at the weights of the model."""
    return gradient_at(model, key)


def make_step(
    objective: Objective[AnyModule],
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    shardings: TrainState,
    accumulate: int = 1,
    *,
    rule: GradientRule[AnyModule] = gradient_of_model,
    average: WeightAverage | None = None,
) -> Step:
    """Compile a step `(state, batch) -> (state, metrics)` that donates the state, which has the given shardings.

    The loss is the sum of the losses divided by the sum of the weights over the whole batch. It does not depend on how
    the batch is split over devices and `accumulate` micro-batches. If the loss or the gradient norm is not finite, the
    model and the optimizer state stay as they are.

    Args:
        objective: `(model, batch, key) -> Sums`, such as `masked_lm_objective`; step k has the key
            `fold_in(state.key, k)`.
        optimizer: any optax transformation, which includes the learning rate.
        learning_rate: the schedule that is reported in the metrics, a function of the number of updates.
        shardings: the shardings of the state, `shardings(state, mesh)`.
        accumulate: the number of micro-batches, which must divide the batch size.
        rule: how the gradient of a step is computed, by default at the weights of the model.
        average: how the weights are averaged, if the state has an average.

    Returns:
        The step. Its metrics are scalars: "loss", "grad_norm", "tokens", "learning_rate", "skipped_in_row", and the
        means of the objective's metrics.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import deberta_jax as dj
        >>> optimizer, mesh = optax.adamw(1e-4), dj.make_mesh(devices=jax.devices()[:1])
        >>> build = lambda key: dj.SequenceClassification(dj.PRESETS["tiny"], key=key)
        >>> state = dj.initial_state(build, optimizer, seed=0, mesh=mesh)
        >>> objective = dj.plain_objective(dj.classification_objective())
        >>> step = dj.make_step(objective, optimizer, optax.constant_schedule(1e-4), dj.shardings(state, mesh))
        >>> ids, ones = jnp.array([[1, 7, 8, 2]]), jnp.ones((1, 4), jnp.int32)
        >>> batch = {"input_ids": ids, "attention_mask": ones, "labels": jnp.array([1]), "weights": jnp.ones(1)}
        >>> state, metrics = step(state, batch)
        >>> int(state.step), float(metrics["tokens"])
        (1, 4.0)
    """

    def update(state: TrainState, batch: ArrayBatch, key: PRNGKeyArray) -> Updated:
        def gradient_at(model: Any, key: PRNGKeyArray) -> tuple[Sums, Any]:
            return mean_gradient(objective, model, batch, key, shardings.model, accumulate)

        current: Any = state.model
        sums, gradients = rule(gradient_at, current, state.step, key)
        model, optimizer_state = apply_gradients(optimizer, gradients, state.optimizer_state, current)
        loss = sums.loss / sums.weight
        means = {name: total / sums.weight for name, total in sums.metrics.items()}
        norm = {"tokens": sums.tokens, "grad_norm": optax.tree.norm(gradients)}
        return Updated(model, optimizer_state, {"loss": loss, **means, **norm})

    return compile_step(update, {"learning_rate": learning_rate}, shardings, average)


def compile_step(
    update: Update,
    learning_rates: Mapping[str, optax.Schedule],
    shardings: TrainState,
    average: WeightAverage | None = None,
) -> Step:
    """The jitted step of an update. It donates the state; an update that is not finite changes only the counters.

    `learning_rates` are added to the metrics under their names. `average` is that of the state.
    """
    mesh: Mesh = jax.tree.leaves(shardings)[0].mesh

    def step(state: TrainState, batch: ArrayBatch) -> tuple[TrainState, Metrics]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            key = jax.random.fold_in(state.key, state.step)
            updated = update(state, batch, key)
            finite = jnp.isfinite(updated.metrics["loss"]) & jnp.isfinite(updated.metrics["grad_norm"])
            averaged = state.average
            if average is not None:
                averaged = average.update(averaged, updated.model, state.step - state.skipped + 1)
            model, optimizer_state, averaged = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old),
                (updated.model, updated.optimizer_state, averaged),
                (state.model, state.optimizer_state, state.average),
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
            average=averaged,
        )
        return state, metrics

    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, NamedSharding(mesh, PartitionSpec())))


def apply_gradients(optimizer: optax.GradientTransformation, gradients: Any, state: Any, model: Any) -> tuple[Any, Any]:
    """The model and the optimizer state after one update."""
    updates, state = optimizer.update(gradients, state, model)
    return optax.apply_updates(model, updates), state


def make_evaluation(evaluate: BatchEvaluation, mesh: Mesh) -> BatchEvaluation:
    """The jitted evaluation of a batch; every process gets the full sums."""

    def evaluation(model: nnx.Module, batch: ArrayBatch, number: int | Array = 0) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return evaluate(model, batch, number)

    return jax.jit(evaluation, out_shardings=NamedSharding(mesh, PartitionSpec()))


@functools.cache
def batch_share(mesh: Mesh) -> BatchShare:
    """The rows of every batch that the devices of this process need; several processes may need the same ones."""
    return share_of(mesh, jax.process_index())


def share_of(mesh: Mesh, process: int) -> BatchShare:
    """The rows of every batch that the devices of a process need."""
    count = batch_parts(mesh)
    slices: Mapping[Any, Any] = batch_sharding(mesh).devices_indices_map((count,))
    parts = (range(*part[0].indices(count)) for device, part in slices.items() if device.process_index == process)
    return BatchShare(tuple(sorted({row for part in parts for row in part})), count)


def place(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Put this process's rows of a batch on its devices, as arrays split over the mesh."""
    return {name: _place(values, batch_sharding(mesh), batch_share(mesh)) for name, values in batch.items()}


def _place(values: np.ndarray, sharding: NamedSharding, share: BatchShare) -> jax.Array:
    size = len(values) * share.count // len(share.parts)
    rows = share.rows(size)

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        start, stop, _ = index[0].indices(size)
        first = np.searchsorted(rows, start)
        return values[first : first + stop - start]

    return jax.make_array_from_callback((size, *values.shape[1:]), sharding, part)


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int) -> None:
    """Raise InputError if the mesh and the accumulation do not divide the batch."""
    ways = batch_parts(mesh)
    if accumulate < 1 or batch_size < 1 or batch_size % (ways * accumulate):
        shape = " x ".join(f"{axis} {mesh.shape[axis]}" for axis in batch_axes(mesh))
        raise InputError(
            f"batch_size is {batch_size}; it must be a multiple of {ways * accumulate} (mesh {shape}, accumulate "
            f"{accumulate})"
        )


def mean_gradient(
    objective: Objective, model: Any, batch: ArrayBatch, key: PRNGKeyArray, shardings: Any, accumulate: int
) -> tuple[Sums, Any]:
    """Sums over a batch, computed in `accumulate` micro-batches, and the float32 gradient of the mean loss."""
    sums, gradients = _summed_gradient(objective, model, batch, key, shardings, accumulate)
    return sums, jax.tree.map(lambda g: g / sums.weight, gradients)


def _summed_gradient(
    objective: Objective, model: Any, batch: ArrayBatch, key: PRNGKeyArray, shardings: Any, accumulate: int
) -> tuple[Sums, Any]:
    def summed(model: Any, batch: ArrayBatch, key: PRNGKeyArray) -> tuple[Float[Array, ""], Sums]:
        sums = objective(model, batch, key)
        return sums.loss, sums

    def gradient(batch: ArrayBatch, key: PRNGKeyArray) -> tuple[Sums, Any]:
        (_, sums), gradients = jax.value_and_grad(summed, has_aux=True)(model, batch, key)
        gradients = jax.tree.map(lambda g: g.astype(jnp.float32), gradients)
        return sums, jax.lax.with_sharding_constraint(gradients, shardings)

    if accumulate == 1:
        return gradient(batch, key)

    def split(x: Array) -> Array:
        # Micro-batch i has the rows i, i + accumulate, ...: no row moves to another device.
        x = jnp.swapaxes(x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]), 0, 1)
        return constrain(x, None, "batch", *[None] * (x.ndim - 2))

    def join(x: Array) -> Array:
        x = jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
        return constrain(x, "batch", *[None] * (x.ndim - 1))

    def add(total: tuple[Sums, Any], indexed_batch: tuple[ArrayBatch, Array]) -> tuple[tuple[Sums, Any], Any]:
        micro_batch, index = indexed_batch
        sums, gradients = gradient(micro_batch, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, (sums._replace(rows={}), gradients)), sums.rows

    micro_batches = (jax.tree.map(split, dict(batch)), jnp.arange(accumulate))
    shapes = jax.eval_shape(gradient, jax.tree.map(lambda x: x[0], micro_batches[0]), key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (shapes[0]._replace(rows={}), shapes[1]))
    zeros = (zeros[0], jax.lax.with_sharding_constraint(zeros[1], shardings))
    (sums, gradients), rows = jax.lax.scan(add, zeros, micro_batches)
    return sums._replace(rows=jax.tree.map(join, rows)), gradients
