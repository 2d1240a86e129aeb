"""What is minimised when a head is fine-tuned, by the kind of task: sums over the examples of a batch, never means.

A batch has `input_ids`, `input_mask` and `token_type_ids` [B, T], `labels` and `weights`; a weight of 0 leaves out
what is padding or has no label.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from deberta_jax.errors import InputError
from deberta_jax.training.losses import binary_cross_entropy, cross_entropy, soft_cross_entropy, squared_error
from deberta_jax.training.objectives import Batch, Objective, Sums

# What has no probability, finite so that differences of logits are numbers.
_NEVER = -1e9


class TaskObjective(NamedTuple):
    """A head's outputs for a batch, and the sums of its losses."""

    outputs: Callable[[Any, Batch, PRNGKeyArray | None], Any]
    sums: Callable[[Any, Batch], Sums]


def objective_of(task: TaskObjective) -> Objective:
    """The plain objective of a task."""
    return lambda model, batch, key: task.sums(task.outputs(model, batch, key), batch)


def label_objective(class_weights: Sequence[float] = (), smoothing: float = 0.0) -> TaskObjective:
    """One label of C: labels int [B]; cross entropy against 1 - s on the label and s / C on each (Szegedy et al. 2016).

    `class_weights` weigh each example by its label, in the loss and in what it is divided by.
    """

    def sums(logits: Float[Array, "B C"], batch: Batch) -> Sums:
        return _classified(logits, batch, class_weights, smoothing)

    return TaskObjective(_logits, sums)


def number_objective() -> TaskObjective:
    """A number: labels float [B]; squared error (spec 2.5)."""

    def sums(logits: Float[Array, "B 1"], batch: Batch) -> Sums:
        return _summed(squared_error(logits[:, 0], batch["labels"]), batch["weights"], batch, {})

    return TaskObjective(_logits, sums)


def several_objective() -> TaskObjective:
    """Any number of C labels: labels float [B, C] of 0 and 1; the mean over labels of binary cross entropies."""

    def sums(logits: Float[Array, "B C"], batch: Batch) -> Sums:
        losses = binary_cross_entropy(logits, batch["labels"]).mean(-1)
        right = ((logits > 0) == (batch["labels"] > 0.5)).all(-1)
        return _summed(losses, batch["weights"], batch, {"accuracy": right})

    return TaskObjective(_logits, sums)


def tag_objective(class_weights: Sequence[float] = (), smoothing: float = 0.0) -> TaskObjective:
    """A label for each token that begins a word: labels int [B, T], weights [B, T]; as `label_objective`."""

    def sums(logits: Float[Array, "B T C"], batch: Batch) -> Sums:
        return _classified(logits, batch, class_weights, smoothing)

    return TaskObjective(_logits, sums)


def span_objective() -> TaskObjective:
    """An answer's first and last token, [CLS] for none: labels int [B, 2]; the mean of both cross entropies.

    Padding has no probability (Hugging Face's loss gives it some; golden c16).
    """

    def outputs(model: Any, batch: Batch, key: PRNGKeyArray | None) -> Float[Array, "B 2 T"]:
        logits = _logits(model, batch, key)
        both = jnp.stack([logits.start, logits.end], axis=1)
        return jnp.where(batch["input_mask"][:, None] != 0, both, jnp.asarray(_NEVER, both.dtype))

    def sums(logits: Float[Array, "B 2 T"], batch: Batch) -> Sums:
        losses = cross_entropy(logits, batch["labels"]).mean(-1)
        right = (jnp.argmax(logits, -1).astype(jnp.int32) == batch["labels"]).all(-1)
        return _summed(losses, batch["weights"], batch, {"accuracy": right})

    return TaskObjective(outputs, sums)


def choice_objective() -> TaskObjective:
    """One of M choices: ids [B, M, T], labels int [B]; a choice without tokens is none."""

    def outputs(model: Any, batch: Batch, key: PRNGKeyArray | None) -> Float[Array, "B M"]:
        logits = _logits(model, batch, key)
        return jnp.where(batch["input_mask"].any(-1), logits, jnp.asarray(_NEVER, logits.dtype))

    def sums(logits: Float[Array, "B M"], batch: Batch) -> Sums:
        return _classified(logits, batch, (), 0.0)

    return TaskObjective(outputs, sums)


def entity_objective() -> TaskObjective:
    """Which entities answer: positions [B, E, P], labels float [B, E], weights [B, E] of entities that are there."""

    def outputs(model: Any, batch: Batch, key: PRNGKeyArray | None) -> Float[Array, "B E"]:
        return model(
            batch["input_ids"],
            batch["input_mask"],
            entity_positions=batch["entity_positions"],
            token_type_ids=batch["token_type_ids"],
            key=key,
        )

    def sums(logits: Float[Array, "B E"], batch: Batch) -> Sums:
        right = (logits > 0) == (batch["labels"] > 0.5)
        return _summed(binary_cross_entropy(logits, batch["labels"]), batch["weights"], batch, {"accuracy": right})

    return TaskObjective(outputs, sums)


def _logits(model: Any, batch: Batch, key: PRNGKeyArray | None) -> Any:
    return model(batch["input_ids"], batch["input_mask"], token_type_ids=batch["token_type_ids"], key=key)


def _classified(
    logits: Float[Array, "*B C"], batch: Batch, class_weights: Sequence[float], smoothing: float
) -> Sums:
    labels, weights = batch["labels"], batch["weights"]
    C = logits.shape[-1]
    if smoothing:
        targets = (1 - smoothing) * jax.nn.one_hot(labels, C, dtype=logits.dtype) + smoothing / C
        losses = soft_cross_entropy(logits, targets)
    else:
        losses = cross_entropy(logits, labels)
    right = jnp.argmax(logits, -1).astype(labels.dtype) == labels
    if class_weights:
        if len(class_weights) != C:
            raise InputError(f"class weights are {len(class_weights)}, there are {C} labels")
        weights = weights * jnp.asarray(class_weights, weights.dtype)[jnp.clip(labels, 0, C - 1)]
    return _summed(losses, weights, batch, {"accuracy": right})


def _summed(losses: Float[Array, "*B"], weights: Float[Array, "*B"], batch: Batch, right: dict[str, Array]) -> Sums:
    return Sums(
        loss=jnp.sum(weights * losses),
        weight=jnp.sum(weights),
        tokens=jnp.sum(batch["input_mask"] != 0),
        metrics={name: jnp.sum(jnp.where(what, weights, 0)) for name, what in right.items()},
    )
