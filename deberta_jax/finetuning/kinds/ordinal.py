"""Ordinal regression: one of C levels with an order, such as a rating, for a text or a text pair."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deberta_jax.errors import InputError, list_names
from deberta_jax.finetuning.features import Feature, Window
from deberta_jax.finetuning.kinds.kind import ClassWeighting, CustomTable
from deberta_jax.finetuning.kinds.single_label import SINGLE_LABEL
from deberta_jax.finetuning.objectives import (
    Losses,
    TaskObjective,
    categorical_divergence,
    check_class_weights,
    class_scaled_weights,
    classification_losses,
    head_outputs,
    target_distribution,
    weighted_objective,
)
from deberta_jax.ops.precision import upcast
from deberta_jax.tasks.examples import TextExample
from deberta_jax.tasks.ordinal import ORDINAL as ROW_PARSER
from deberta_jax.tasks.ordinal import ordinal_scores
from deberta_jax.training.objective import ArrayBatch


def log_cumulative(logits: Float[Array, "B C"]) -> tuple[Float[Array, "B K"], Float[Array, "B K"]]:
    """log P(level <= k) and log P(level > k) for each of the C - 1 thresholds, P being the softmax of the logits.

    The probabilities of higher thresholds are never larger, whatever the logits are: rank consistency.
    """
    logits = upcast(logits)
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    axis = logits.ndim - 1
    below = jax.lax.cumlogsumexp(logits, axis=axis)[..., :-1] - total
    above = jax.lax.cumlogsumexp(logits, axis=axis, reverse=True)[..., 1:] - total
    return below, above


def ordinal_objective(
    class_weights: Sequence[float] = (), label_smoothing: float = 0.0, focal: float = 0.0
) -> TaskObjective:
    """The mean over thresholds of the binary cross entropies of "the level is above k" (Cao et al. 2020, equation 4).

    Cao et al. get consistent ranks from one weight vector for all thresholds; here they follow from `log_cumulative`,
    so that the model is a classifier of the levels. Options as those of `classification_objective`, `focal` being that
    of each cross entropy.
    """

    def losses(logits: Float[Array, "B C"], batch: ArrayBatch) -> Losses:
        check_class_weights(class_weights, logits.shape[-1])
        targets = target_distribution(logits, batch, label_smoothing)
        is_below = jnp.cumsum(targets, axis=-1)[..., :-1]
        below, above = log_cumulative(logits)
        if focal:
            entropies = is_below * jnp.exp(focal * above) * below + (1 - is_below) * jnp.exp(focal * below) * above
        else:
            entropies = is_below * below + (1 - is_below) * above
        return Losses(-entropies.mean(-1), classification_losses(logits, batch).correct)

    return weighted_objective(head_outputs, losses, categorical_divergence, class_scaled_weights(class_weights))


def _targets(
    example: TextExample, windows: Sequence[Window], label_index: Mapping[str, int], max_length: int
) -> Iterator[Feature]:
    levels = [float(label) for label in label_index]
    if levels != sorted(levels):
        raise InputError(
            f"the levels of --model are not in ascending order: {list_names(label_index)}; start from another model"
        )
    yield from SINGLE_LABEL.encoding.targets(example, windows, label_index, max_length)


_WEIGHTING = SINGLE_LABEL.class_weighting
assert _WEIGHTING is not None
# Encoding, head, predictions and report are those of a classifier of the levels.
ORDINAL = dataclasses.replace(
    SINGLE_LABEL,
    name="ordinal",
    encoding=SINGLE_LABEL.encoding._replace(targets=_targets),
    objective=ordinal_objective(),
    class_weighting=ClassWeighting(ordinal_objective, _WEIGHTING.classes),
    table=CustomTable(ROW_PARSER, ordinal_scores, "quadratic_kappa"),
)
