"""Training objectives: sums of losses over the examples of a batch, never means, and divergences of outputs.

A batch has `input_ids` and `attention_mask` [B, T], `labels` and `weights`, and may have `token_type_ids` [B, T];
padding and unlabelled tokens have weight 0.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from deberta_jax.errors import InputError
from deberta_jax.finetuning.config import Divergence
from deberta_jax.ops.precision import upcast
from deberta_jax.tasks.examples import PROBABILITIES
from deberta_jax.training.losses import (
    binary_cross_entropy,
    binary_focal_cross_entropy,
    cross_entropy,
    focal_cross_entropy,
    soft_cross_entropy,
)
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


def plain_objective(task: TaskObjective) -> Objective[nnx.Module]:
    """The objective `(model, batch, key) -> Sums` of a task objective, for `make_step`.

    Args:
        task: a task objective, such as the result of `classification_objective`.

    Example:
        >>> import deberta_jax as dj
        >>> objective = dj.plain_objective(dj.classification_objective())  # for make_step
    """
    return lambda model, batch, key: task.sums(task.outputs(model, batch, key), batch)


class Losses(NamedTuple):
    """The loss of each example or token, and whether its prediction is correct, if that is defined."""

    losses: Float[Array, "*B"]
    correct: Bool[Array, "*B"] | None = None


def head_outputs(model: Any, batch: ArrayBatch, key: PRNGKeyArray | None) -> Any:
    """The outputs of a head that reads only tokens."""
    token_types = batch.get("token_type_ids")
    return model(batch["input_ids"], batch["attention_mask"], token_type_ids=token_types, key=key)


def batch_weights(batch: ArrayBatch) -> Float[Array, "*B"]:
    """The weights of the batch."""
    return batch["weights"]


def weighted_objective(
    outputs: Callable[[Any, ArrayBatch, PRNGKeyArray | None], Any],
    losses: Callable[[Any, ArrayBatch], Losses],
    divergence: Callable[[Divergence, Any, Any], Float[Array, "*B"]],
    weights: Callable[[ArrayBatch], Float[Array, "*B"]] = batch_weights,
) -> TaskObjective:
    """The objective with these losses and divergences of single examples or tokens."""

    def sums(outputs: Any, batch: ArrayBatch) -> Sums:
        values, correct = losses(outputs, batch)
        weight = weights(batch)
        return Sums(
            loss=jnp.sum(weight * values),
            weight=jnp.sum(weight),
            tokens=jnp.sum(batch["attention_mask"] != 0),
            metrics={} if correct is None else {"accuracy": jnp.sum(jnp.where(correct, weight, 0))},
        )

    def summed_divergence(name: Divergence, outputs: Any, target: Any, batch: ArrayBatch) -> Float[Array, ""]:
        return jnp.sum(weights(batch) * divergence(name, outputs, target))

    return TaskObjective(outputs, sums, summed_divergence)


def classification_objective(
    class_weights: Sequence[float] = (), label_smoothing: float = 0.0, focal: float = 0.0
) -> TaskObjective:
    """The task objective of a classifier: one of C classes per text or per token.

    The loss is the cross entropy against 1 - s on the label plus s / C on each class (Szegedy et al. 2016), s being
    `label_smoothing`; soft labels, `probabilities` [B, C] in the batch, replace the label. A batch has `input_ids` and
    `attention_mask` [B, T], `labels` (integers) and `weights` [B] or [B, T], and may have `token_type_ids` [B, T].

    Args:
        class_weights: factors of the weights of examples by class [C], in the loss and in its normalization.
        label_smoothing: s, in [0, 1).
        focal: the exponent of the focal loss (Lin et al. 2017); 0 for cross entropy.

    Returns:
        A task objective, which `plain_objective` turns into one for `make_step`.

    Raises:
        InputError: in a step, for another number of class weights than C.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> model = dj.SequenceClassification(dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> objective = dj.plain_objective(dj.classification_objective(label_smoothing=0.1))
        >>> batch = {"input_ids": jnp.array([[1, 7, 8, 2]]), "attention_mask": jnp.ones((1, 4), jnp.int32)}
        >>> batch |= {"labels": jnp.array([1]), "weights": jnp.ones(1)}
        >>> jax.eval_shape(objective, model, batch, None).loss.shape  # a scalar
        ()
    """

    def losses(logits: Float[Array, "*B C"], batch: ArrayBatch) -> Losses:
        check_class_weights(class_weights, logits.shape[-1])
        if not label_smoothing and not focal and PROBABILITIES not in batch:
            return classification_losses(logits, batch)
        targets = target_distribution(logits, batch, label_smoothing)
        entropies = focal_cross_entropy(logits, targets, focal) if focal else soft_cross_entropy(logits, targets)
        return Losses(entropies, classification_losses(logits, batch).correct)

    return weighted_objective(head_outputs, losses, categorical_divergence, class_scaled_weights(class_weights))


def target_distribution(logits: Float[Array, "*B C"], batch: ArrayBatch, smoothing: float) -> Float[Array, "*B C"]:
    """1 - s on the label, or times the `probabilities` of soft labels, plus s / C on each class; s is `smoothing`."""
    C = logits.shape[-1]
    targets = batch.get(PROBABILITIES, jax.nn.one_hot(batch["labels"], C, dtype=logits.dtype))
    return (1 - smoothing) * targets + smoothing / C


def check_class_weights(class_weights: Sequence[float], C: int) -> None:
    """Raise InputError if there are class weights, but not one for each of C classes."""
    if class_weights and len(class_weights) != C:
        raise InputError(f"class_weights has {len(class_weights)} values for {C} labels")


def class_scaled_weights(class_weights: Sequence[float]) -> Callable[[ArrayBatch], Float[Array, "*B"]]:
    """The weights of the batch, each times the weight of the example's class."""

    def weights(batch: ArrayBatch) -> Float[Array, "*B"]:
        if not class_weights:
            return batch["weights"]
        by_class = jnp.asarray(class_weights, batch["weights"].dtype)
        return batch["weights"] * by_class[jnp.clip(batch["labels"], 0, len(class_weights) - 1)]

    return weights


def multi_label_objective(
    class_weights: Sequence[float] = (), label_smoothing: float = 0.0, focal: float = 0.0
) -> TaskObjective:
    """Any of C labels per text: `labels` [B, C] are 0, 1, or a probability between.

    The loss of a text is the mean of the labels' binary cross entropies, each against (1 - s) times its label plus
    s / 2, s being `label_smoothing`; with `focal`, of their focal losses. `class_weights` scale the terms of texts that
    have the label, in the loss and in its normalization. Raises InputError for another number of class weights than C.
    """

    def term_weights(batch: ArrayBatch) -> Float[Array, "B C"]:
        labels = batch["labels"]
        check_class_weights(class_weights, labels.shape[-1])
        return 1 + labels * (jnp.asarray(class_weights, labels.dtype) - 1)

    def losses(logits: Float[Array, "B C"], batch: ArrayBatch) -> Losses:
        labels = batch["labels"]
        targets = (1 - label_smoothing) * labels + label_smoothing / 2
        terms = binary_focal_cross_entropy(logits, targets, focal) if focal else binary_cross_entropy(logits, targets)
        correct = ((logits > 0) == (labels > 0.5)).all(-1)
        if not class_weights:
            return Losses(terms.mean(-1), correct)
        scales = term_weights(batch)
        total = scales.sum(-1)
        return Losses((scales * terms).sum(-1) / jnp.where(total > 0, total, 1), correct)

    def weights(batch: ArrayBatch) -> Float[Array, "B"]:
        return batch["weights"] * term_weights(batch).mean(-1) if class_weights else batch["weights"]

    def divergence(name: Divergence, logits: Float[Array, "B C"], target: Float[Array, "B C"]) -> Float[Array, "B"]:
        return binary_divergence(name, logits, target).mean(-1)

    return weighted_objective(head_outputs, losses, divergence, weights)


def classification_losses(logits: Float[Array, "*B C"], batch: ArrayBatch) -> Losses:
    """Cross entropy."""
    labels = batch["labels"]
    return Losses(cross_entropy(logits, labels), jnp.argmax(logits, -1).astype(labels.dtype) == labels)


def categorical_divergence(
    name: Divergence, logits: Float[Array, "*B C"], target: Float[Array, "*B C"]
) -> Float[Array, "*B"]:
    """The divergence of two categorical distributions, or the mean squared difference of their logits."""
    logits, target = upcast(logits), upcast(target)
    if name == "mse":
        return jnp.mean(jnp.square(logits - target), axis=-1)
    forward = soft_cross_entropy(logits, jax.lax.stop_gradient(jax.nn.softmax(target, axis=-1)))
    if name == "kl":
        return forward
    return forward + soft_cross_entropy(target, jax.lax.stop_gradient(jax.nn.softmax(logits, axis=-1)))


def binary_divergence(name: Divergence, logits: Float[Array, "*B"], target: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """The divergence of two Bernoulli distributions, or the squared difference of their logits."""
    logits, target = upcast(logits), upcast(target)
    if name == "mse":
        return jnp.square(logits - target)
    forward = binary_cross_entropy(logits, jax.lax.stop_gradient(jax.nn.sigmoid(target)))
    if name == "kl":
        return forward
    return forward + binary_cross_entropy(target, jax.lax.stop_gradient(jax.nn.sigmoid(logits)))
