"""Training objectives: sums of losses over the examples of a batch, never means, and divergences of outputs.

A batch has `input_ids`, `attention_mask` and `token_type_ids` [B, T], `labels` and `weights`; padding and unlabelled
tokens have weight 0.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from deberta_jax.errors import InputError
from deberta_jax.finetuning.config import Divergence
from deberta_jax.ops.precision import accumulation_dtype
from deberta_jax.training.losses import binary_cross_entropy, cross_entropy, soft_cross_entropy
from deberta_jax.training.objective import ArrayBatch, Objective, Sums

# The logit of an impossible class. Finite, so that differences of logits are numbers.
IMPOSSIBLE = -1e9


class TaskObjective(NamedTuple):
    """The outputs of a head for a batch, the sums of their losses, and the divergence of two outputs.

    `divergence(name, outputs, target, batch)` is a sum over the batch with the weights of the loss. "kl" is the cross
    entropy against the probabilities of `target`, "symmetric_kl" the sum of both directions, each with gradients
    through the log-probabilities only (so it is not 0 for equal outputs); "mse" compares logits. For regression all
    three are squared errors. See docs/numerics.md, "Virtual adversarial training".
    """

    outputs: Callable[[Any, ArrayBatch, PRNGKeyArray | None], Any]
    sums: Callable[[Any, ArrayBatch], Sums]
    divergence: Callable[[Divergence, Any, Any, ArrayBatch], Float[Array, ""]]


def plain_objective(task: TaskObjective) -> Objective:
    """The objective without adversarial training."""
    return lambda model, batch, key: task.sums(task.outputs(model, batch, key), batch)


def classification_objective(class_weights: Sequence[float] = (), label_smoothing: float = 0.0) -> TaskObjective:
    """One of C classes per text or per token: `labels` (int) and `weights` are [B] or [B, T].

    The loss is the cross entropy against 1 - s on the label plus s / C on each class (Szegedy et al. 2016), s being
    `label_smoothing`. `class_weights` scale the weight of each example in the loss and in its normalization.
    """

    def sums(logits: Float[Array, "*B C"], batch: ArrayBatch) -> Sums:
        return classification_sums(logits, batch, class_weights, label_smoothing)

    def divergence(name: Divergence, logits: Array, target: Array, batch: ArrayBatch) -> Float[Array, ""]:
        weights = _class_weighted(logits, batch, class_weights)
        return jnp.sum(weights * categorical_divergence(name, logits, target))

    return TaskObjective(head_outputs, sums, divergence)


def head_outputs(model: Any, batch: ArrayBatch, key: PRNGKeyArray | None) -> Any:
    """The outputs of a head that reads only tokens."""
    return model(batch["input_ids"], batch["attention_mask"], token_type_ids=batch["token_type_ids"], key=key)


def classification_sums(
    logits: Float[Array, "*B C"], batch: ArrayBatch, class_weights: Sequence[float] = (), label_smoothing: float = 0.0
) -> Sums:
    """Cross entropy and accuracy."""
    labels, C = batch["labels"], logits.shape[-1]
    if label_smoothing:
        targets = (1 - label_smoothing) * jax.nn.one_hot(labels, C, dtype=logits.dtype) + label_smoothing / C
        losses = soft_cross_entropy(logits, targets)
    else:
        losses = cross_entropy(logits, labels)
    correct = jnp.argmax(logits, -1).astype(labels.dtype) == labels
    return weighted_sums(losses, _class_weighted(logits, batch, class_weights), batch, accuracy=correct)


def weighted_sums(
    losses: Float[Array, "*B"],
    weights: Float[Array, "*B"],
    batch: ArrayBatch,
    *,
    accuracy: Bool[Array, "*B"] | None = None,
) -> Sums:
    """The weighted sum of losses, and of correct predictions if they are given."""
    return Sums(
        loss=jnp.sum(weights * losses),
        weight=jnp.sum(weights),
        tokens=jnp.sum(batch["attention_mask"] != 0),
        metrics={} if accuracy is None else {"accuracy": jnp.sum(jnp.where(accuracy, weights, 0))},
    )


def categorical_divergence(
    name: Divergence, logits: Float[Array, "*B C"], target: Float[Array, "*B C"]
) -> Float[Array, "*B"]:
    """The divergence of two categorical distributions, or the mean squared difference of their logits."""
    logits, target = _upcast(logits), _upcast(target)
    if name == "mse":
        return jnp.mean(jnp.square(logits - target), axis=-1)
    forward = soft_cross_entropy(logits, jax.lax.stop_gradient(jax.nn.softmax(target, axis=-1)))
    if name == "kl":
        return forward
    return forward + soft_cross_entropy(target, jax.lax.stop_gradient(jax.nn.softmax(logits, axis=-1)))


def binary_divergence(name: Divergence, logits: Float[Array, "*B"], target: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """The divergence of two Bernoulli distributions, or the squared difference of their logits."""
    logits, target = _upcast(logits), _upcast(target)
    if name == "mse":
        return jnp.square(logits - target)
    forward = binary_cross_entropy(logits, jax.lax.stop_gradient(jax.nn.sigmoid(target)))
    if name == "kl":
        return forward
    return forward + binary_cross_entropy(target, jax.lax.stop_gradient(jax.nn.sigmoid(logits)))


def _upcast(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return x.astype(accumulation_dtype(x.dtype))


def _class_weighted(
    logits: Float[Array, "*B C"], batch: ArrayBatch, class_weights: Sequence[float]
) -> Float[Array, "*B"]:
    """The weights of the batch, each multiplied by the weight of its label."""
    labels, weights, C = batch["labels"], batch["weights"], logits.shape[-1]
    if not class_weights:
        return weights
    if len(class_weights) != C:
        raise InputError(f"class_weights has {len(class_weights)} values for {C} labels")
    return weights * jnp.asarray(class_weights, weights.dtype)[jnp.clip(labels, 0, C - 1)]
