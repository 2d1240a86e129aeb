"""Weights of the classes in the loss."""

import math
from collections import Counter
from collections.abc import Sequence

from deberta_jax.errors import InputError, list_names

BALANCED = "balanced"


def class_weights(
    options: Sequence[str], labels: Sequence[str], counts: Counter[str], examples: int | None = None
) -> tuple[float, ...]:
    """The weight of each label; empty if all are equal.

    `options` are LABEL=WEIGHT, with weight 1 for other labels, or "balanced": inversely proportional to `counts`, the
    number of each label in the training set. If each label is decided on its own, `examples` is the size of the
    training set; then "balanced" gives the examples with a label the same weight as those without it.
    """
    if not options:
        return ()
    if not labels:
        raise InputError("class_weights need a task with labels, but this task has none")
    if tuple(options) == (BALANCED,):
        if examples is not None:
            return tuple(max(examples - counts[label], 1) / max(counts[label], 1) for label in labels)
        total = sum(counts.values())
        return tuple(total / (len(labels) * max(counts[label], 1)) for label in labels)
    weights = dict.fromkeys(labels, 1.0)
    for option in options:
        label, _, value = option.rpartition("=")
        if label not in weights:
            raise InputError(f"class_weights: no label {label!r}; the labels are {list_names(labels)}")
        try:
            weights[label] = float(value)
        except ValueError:
            raise InputError(f"class_weights: {option!r} is not LABEL=NUMBER") from None
        if not 0 <= weights[label] < math.inf:
            raise InputError(f"class_weights: {option!r}: a weight must be finite and not negative")
    return tuple(weights.values())
