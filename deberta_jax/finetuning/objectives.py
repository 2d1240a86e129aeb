"""What is minimised when a head is fine-tuned, by the kind of task: sums over the examples of a batch, never means.

A batch has `input_ids`, `attention_mask` and `token_type_ids` [B, T], `labels` and `weights`; a weight of 0 leaves out
what is padding or has no label.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from deberta_jax.errors import InputError
from deberta_jax.ops.precision import accumulation_dtype
from deberta_jax.training.losses import binary_cross_entropy, cross_entropy, soft_cross_entropy, squared_error
from deberta_jax.training.objective import ArrayBatch as Batch
from deberta_jax.training.objective import Objective, Sums

# What has no probability, finite so that differences of logits are numbers.
_NEVER = -1e9


Divergence = Literal["symmetric_kl", "kl", "mse"]


class TaskObjective(NamedTuple):
    """A head's outputs for a batch, the sums of its losses, and how far other outputs are from them.

    `divergence(name, outputs, target, batch)` is a sum over the batch with the weights of the loss. "kl" is cross
    entropy against the target's probabilities, "symmetric_kl" that both ways, with gradients through the logarithms
    alone, so that it is not 0 for equal outputs (spec 6); "mse" is of the logits. Of numbers all are squared errors.
    """

    outputs: Callable[[Any, Batch, PRNGKeyArray | None], Any]
    sums: Callable[[Any, Batch], Sums]
    divergence: Callable[[Divergence, Any, Any, Batch], Float[Array, ""]]


def objective_of(task: TaskObjective) -> Objective:
    """The plain objective of a task."""
    return lambda model, batch, key: task.sums(task.outputs(model, batch, key), batch)


def label_objective(class_weights: Sequence[float] = (), smoothing: float = 0.0) -> TaskObjective:
    """One label of C for each text, or for each token that begins a word: labels int and weights [B], or [B, T].

    Cross entropy against 1 - s on the label and s / C on each (Szegedy et al. 2016). `class_weights` weigh each by its
    label, in the loss and in what it is divided by.
    """

    def sums(logits: Float[Array, "*B C"], batch: Batch) -> Sums:
        return _classified(logits, batch, class_weights, smoothing)

    def divergence(name: Divergence, logits: Array, target: Array, batch: Batch) -> Float[Array, ""]:
        weights = _class_weighed(logits, batch, class_weights)
        return jnp.sum(weights * categorical_divergence(name, logits, target))

    return TaskObjective(_logits, sums, divergence)


def number_objective() -> TaskObjective:
    """A number: labels float [B]; squared error (spec 2.5)."""

    def sums(logits: Float[Array, "B 1"], batch: Batch) -> Sums:
        return _summed(squared_error(logits[:, 0], batch["labels"]), batch["weights"], batch, {})

    def divergence(name: Divergence, logits: Array, target: Array, batch: Batch) -> Float[Array, ""]:
        # The original takes a softmax over the batch, which means nothing (spec 6; golden f06).
        return jnp.sum(batch["weights"] * squared_error(logits[:, 0], target[:, 0]))

    return TaskObjective(_logits, sums, divergence)


def several_objective() -> TaskObjective:
    """Any number of C labels: labels float [B, C] of 0 and 1; the mean over labels of binary cross entropies."""

    def sums(logits: Float[Array, "B C"], batch: Batch) -> Sums:
        losses = binary_cross_entropy(logits, batch["labels"]).mean(-1)
        right = ((logits > 0) == (batch["labels"] > 0.5)).all(-1)
        return _summed(losses, batch["weights"], batch, {"accuracy": right})

    def divergence(name: Divergence, logits: Array, target: Array, batch: Batch) -> Float[Array, ""]:
        return jnp.sum(batch["weights"] * binary_divergence(name, logits, target).mean(-1))

    return TaskObjective(_logits, sums, divergence)


def span_objective() -> TaskObjective:
    """An answer's first and last token, [CLS] for none: labels int [B, 2]; the mean of both cross entropies.

    Padding has no probability (Hugging Face's loss gives it some; golden c16).
    """

    def outputs(model: Any, batch: Batch, key: PRNGKeyArray | None) -> Float[Array, "B 2 T"]:
        logits = _logits(model, batch, key)
        both = jnp.stack([logits.start, logits.end], axis=1)
        return jnp.where(batch["attention_mask"][:, None] != 0, both, jnp.asarray(_NEVER, both.dtype))

    def sums(logits: Float[Array, "B 2 T"], batch: Batch) -> Sums:
        losses = cross_entropy(logits, batch["labels"]).mean(-1)
        right = (jnp.argmax(logits, -1).astype(jnp.int32) == batch["labels"]).all(-1)
        return _summed(losses, batch["weights"], batch, {"accuracy": right})

    def divergence(name: Divergence, logits: Array, target: Array, batch: Batch) -> Float[Array, ""]:
        return jnp.sum(batch["weights"] * categorical_divergence(name, logits, target).mean(-1))

    return TaskObjective(outputs, sums, divergence)


def choice_objective() -> TaskObjective:
    """One of M choices: ids [B, M, T], labels int [B]; a choice without tokens is none."""

    def outputs(model: Any, batch: Batch, key: PRNGKeyArray | None) -> Float[Array, "B M"]:
        logits = _logits(model, batch, key)
        return jnp.where(batch["attention_mask"].any(-1), logits, jnp.asarray(_NEVER, logits.dtype))

    def sums(logits: Float[Array, "B M"], batch: Batch) -> Sums:
        return _classified(logits, batch, (), 0.0)

    def divergence(name: Divergence, logits: Array, target: Array, batch: Batch) -> Float[Array, ""]:
        return jnp.sum(batch["weights"] * categorical_divergence(name, logits, target))

    return TaskObjective(outputs, sums, divergence)


def entity_objective() -> TaskObjective:
    """Which entities answer: positions [B, E, P], labels float [B, E], weights [B, E] of entities that are there."""

    def outputs(model: Any, batch: Batch, key: PRNGKeyArray | None) -> Float[Array, "B E"]:
        return model(
            batch["input_ids"],
            batch["attention_mask"],
            entity_positions=batch["entity_positions"],
            token_type_ids=batch["token_type_ids"],
            key=key,
        )

    def sums(logits: Float[Array, "B E"], batch: Batch) -> Sums:
        right = (logits > 0) == (batch["labels"] > 0.5)
        return _summed(binary_cross_entropy(logits, batch["labels"]), batch["weights"], batch, {"accuracy": right})

    def divergence(name: Divergence, logits: Array, target: Array, batch: Batch) -> Float[Array, ""]:
        return jnp.sum(batch["weights"] * binary_divergence(name, logits, target))

    return TaskObjective(outputs, sums, divergence)


def categorical_divergence(
    name: Divergence, logits: Float[Array, "*B C"], target: Float[Array, "*B C"]
) -> Float[Array, "*B"]:
    """Between the distributions of two rows of logits, or the mean of their squared differences."""
    logits, target = logits.astype(accumulation_dtype(logits.dtype)), target.astype(accumulation_dtype(target.dtype))
    if name == "mse":
        return jnp.mean(jnp.square(logits - target), axis=-1)
    forth = soft_cross_entropy(logits, jax.lax.stop_gradient(jax.nn.softmax(target, axis=-1)))
    if name == "kl":
        return forth
    return forth + soft_cross_entropy(target, jax.lax.stop_gradient(jax.nn.softmax(logits, axis=-1)))


def binary_divergence(name: Divergence, logits: Float[Array, "*B"], target: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Between the probabilities of two logits, or their squared distance."""
    logits, target = logits.astype(accumulation_dtype(logits.dtype)), target.astype(accumulation_dtype(target.dtype))
    if name == "mse":
        return jnp.square(logits - target)
    forth = binary_cross_entropy(logits, jax.lax.stop_gradient(jax.nn.sigmoid(target)))
    if name == "kl":
        return forth
    return forth + binary_cross_entropy(target, jax.lax.stop_gradient(jax.nn.sigmoid(logits)))


def _logits(model: Any, batch: Batch, key: PRNGKeyArray | None) -> Any:
    return model(batch["input_ids"], batch["attention_mask"], token_type_ids=batch["token_type_ids"], key=key)


def _classified(logits: Float[Array, "*B C"], batch: Batch, class_weights: Sequence[float], smoothing: float) -> Sums:
    labels, C = batch["labels"], logits.shape[-1]
    if smoothing:
        targets = (1 - smoothing) * jax.nn.one_hot(labels, C, dtype=logits.dtype) + smoothing / C
        losses = soft_cross_entropy(logits, targets)
    else:
        losses = cross_entropy(logits, labels)
    right = jnp.argmax(logits, -1).astype(labels.dtype) == labels
    return _summed(losses, _class_weighed(logits, batch, class_weights), batch, {"accuracy": right})


def _class_weighed(logits: Float[Array, "*B C"], batch: Batch, class_weights: Sequence[float]) -> Float[Array, "*B"]:
    """The batch's weights, each times that of its label."""
    labels, weights = batch["labels"], batch["weights"]
    C = logits.shape[-1]
    if not class_weights:
        return weights
    if len(class_weights) != C:
        raise InputError(f"class weights are {len(class_weights)}, there are {C} labels")
    return weights * jnp.asarray(class_weights, weights.dtype)[jnp.clip(labels, 0, C - 1)]


def _summed(losses: Float[Array, "*B"], weights: Float[Array, "*B"], batch: Batch, right: dict[str, Array]) -> Sums:
    return Sums(
        loss=jnp.sum(weights * losses),
        weight=jnp.sum(weights),
        tokens=jnp.sum(batch["attention_mask"] != 0),
        metrics={name: jnp.sum(jnp.where(what, weights, 0)) for name, what in right.items()},
    )
