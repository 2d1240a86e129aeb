"""Metrics that `--metric` adds to those of a task, by kind; most need the probabilities of labels."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from deberta_jax.errors import InputError, list_names
from deberta_jax.tasks.task import Probabilities, Task

# (labelled examples, their predictions, their probabilities) -> a value.
Score = Callable[[Sequence[Any], Sequence[Any], Sequence[Probabilities]], float]
_LOWER_IS_BETTER = {"rmse", "log_loss", "mean_squared_error", "mean_absolute_error"}
_SHORT_NAMES = {
    "macro_f1": "f1_macro",
    "micro_f1": "f1_micro",
    "roc_auc": "auc",
    "kappa": "quadratic_kappa",
    "qwk": "quadratic_kappa",
    "quadratic_weighted_kappa": "quadratic_kappa",
    "map_at_3": "map3",
    "mcc": "matthews",
    "rouge_l": "rougeL",
    "mse": "mean_squared_error",
    "mae": "mean_absolute_error",
}
_TOP = 3


def lower_is_better(name: str) -> bool:
    """Whether a smaller value of a metric is better, as for errors and losses."""
    return name.partition("/")[0] in _LOWER_IS_BETTER


def is_better(name: str, value: float, other: float) -> bool:
    """Whether a value of a metric is better than another one."""
    return value < other if lower_is_better(name) else value > other


def with_metric(task: Task, name: str, labels: Sequence[str], existing: Sequence[str]) -> Task:
    """Return the task with another metric that selects the best model; `existing` are the metrics that it has.

    Raises InputError if the metric does not fit the kind of task, or its labels.
    """
    plain = name.strip().replace("-", "_").replace(" ", "_").replace("@", "_at_")
    plain = _SHORT_NAMES.get(plain.lower(), plain if plain in existing else plain.lower())
    added = METRICS.get(task.kind, {})
    if plain in existing:
        return dataclasses.replace(task, best_metric=plain)
    if plain not in added:
        fitting = sorted({metric for metric in existing if "/" not in metric} | added.keys())
        raise InputError(f"metric is {name!r}, which tasks of kind {task.kind} do not have; use {list_names(fitting)}")
    if plain == "quadratic_kappa" and task.kind == "single_label" and not all(map(_is_number, labels)):
        raise InputError(
            f"metric is {name!r}, which needs labels that are numbers; the labels are {list_names(labels)}"
        )
    return dataclasses.replace(task, best_metric=plain, selected=added[plain])


def _is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


def _labels_of(examples: Sequence[Any]) -> list[Any]:
    return [example.label for example in examples]


def macro_f1(examples: Sequence[Any], predictions: Sequence[Any], probabilities: Sequence[Probabilities]) -> float:
    """The mean F1 of the labels that occur among the labels or the predictions."""
    from sklearn.metrics import f1_score

    return float(f1_score(_labels_of(examples), list(predictions), average="macro", zero_division=0.0))


def matthews(examples: Sequence[Any], predictions: Sequence[Any], probabilities: Sequence[Probabilities]) -> float:
    """The Matthews correlation; 0 if all labels or all predictions are equal."""
    return _matthews(_labels_of(examples), predictions)


def label_set_matthews(
    examples: Sequence[Any], predictions: Sequence[Any], probabilities: Sequence[Probabilities]
) -> float:
    """The Matthews correlation over all pairs of an example and a label."""
    names = sorted({name for labels in (*_labels_of(examples), *predictions) for name in labels})
    sides = (_labels_of(examples), predictions)
    return _matthews(*([name in labels for labels in side for name in names] for side in sides))


def _matthews(labels: Sequence[Any], predictions: Sequence[Any]) -> float:
    from sklearn.metrics import matthews_corrcoef

    if len(set(labels)) < 2 or len(set(predictions)) < 2:
        return 0.0
    return float(matthews_corrcoef(labels, predictions))


def label_auc(examples: Sequence[Any], predictions: Sequence[Any], probabilities: Sequence[Probabilities]) -> float:
    """The area under the ROC curve: the mean over labels of one against the rest; both are equal for two labels."""
    names, shares = _shares(probabilities)
    index = {name: number for number, name in enumerate(names)}
    is_label = np.asarray([index[label] for label in _labels_of(examples)])[:, None] == np.arange(len(names))
    return _mean_auc(is_label, shares)


def label_set_auc(examples: Sequence[Any], predictions: Sequence[Any], probabilities: Sequence[Probabilities]) -> float:
    """The mean over labels of the area under the ROC curve."""
    names, shares = _shares(probabilities)
    return _mean_auc(_indicators(examples, names), shares)


def _mean_auc(is_label: np.ndarray, shares: Float[np.ndarray, "B C"]) -> float:
    """The mean over labels that some examples have and others lack; 0.5 if there is none."""
    from sklearn.metrics import roc_auc_score

    mixed = [c for c in range(shares.shape[1]) if 0 < is_label[:, c].sum() < len(is_label)]
    return float(np.mean([roc_auc_score(is_label[:, c], shares[:, c]) for c in mixed])) if mixed else 0.5


def label_log_loss(
    examples: Sequence[Any], predictions: Sequence[Any], probabilities: Sequence[Probabilities]
) -> float:
    """The mean of minus the logarithm of the probability of the label; 0 is clipped."""
    names, shares = _shares(probabilities)
    return _log_loss([names.index(str(label)) for label in _labels_of(examples)], shares)


def label_set_log_loss(
    examples: Sequence[Any], predictions: Sequence[Any], probabilities: Sequence[Probabilities]
) -> float:
    """The mean over examples and labels of the binary cross entropy; probability 0 is clipped."""
    names, shares = _shares(probabilities)
    flat = shares.reshape(-1)
    return _log_loss(_indicators(examples, names).reshape(-1).astype(int).tolist(), np.stack([1 - flat, flat], 1))


def _log_loss(index: Sequence[int], shares: Float[np.ndarray, "B C"]) -> float:
    from sklearn.metrics import log_loss

    if shares.shape[1] < 2:
        return 0.0
    # A prediction of an ensemble is rounded.
    normalized = shares / np.maximum(shares.sum(1, keepdims=True), np.finfo(np.float64).tiny)
    return float(log_loss(index, normalized, labels=list(range(shares.shape[1]))))


def label_map3(examples: Sequence[Any], predictions: Sequence[Any], probabilities: Sequence[Probabilities]) -> float:
    """Mean average precision at 3: one over the rank of the label, 0 beyond the third."""
    names, shares = _shares(probabilities)
    order = np.argsort(-shares, axis=1, kind="stable")
    true = np.asarray([names.index(str(label)) for label in _labels_of(examples)])
    ranks = (order == true[:, None]).argmax(1) + 1
    return float(np.where(ranks <= _TOP, 1 / ranks, 0.0).mean())


def label_set_map3(
    examples: Sequence[Any], predictions: Sequence[Any], probabilities: Sequence[Probabilities]
) -> float:
    """Mean average precision at 3 over the examples with a label; 0 if there is none."""
    names, shares = _shares(probabilities)
    order = np.argsort(-shares, axis=1, kind="stable")[:, :_TOP]
    is_label = _indicators(examples, names)
    hits = np.take_along_axis(is_label, order, 1)
    precision = np.cumsum(hits, 1) / np.arange(1, hits.shape[1] + 1)
    relevant = is_label.sum(1)
    average = (precision * hits).sum(1) / np.clip(relevant, 1, _TOP)
    return float(average[relevant > 0].mean()) if (relevant > 0).any() else 0.0


def label_kappa(examples: Sequence[Any], predictions: Sequence[Any], probabilities: Sequence[Probabilities]) -> float:
    """Cohen's kappa with quadratic weights, of labels in the order of their numbers."""
    labels = _labels_of(examples)
    names = sorted({*labels, *predictions, *((probabilities[0] or {}) if probabilities else ())}, key=float)
    return _kappa([names.index(label) for label in labels], [names.index(label) for label in predictions])


def number_kappa(examples: Sequence[Any], predictions: Sequence[Any], probabilities: Sequence[Probabilities]) -> float:
    """Cohen's kappa with quadratic weights of rounded numbers within the range of the labels; the mean of several."""
    columns = zip(_columns(_labels_of(examples)).T, _columns(predictions).T, strict=True)
    values = []
    for true, predicted in columns:
        labels = np.rint(true).astype(int)
        rounded = np.clip(np.rint(predicted).astype(int), labels.min(), labels.max())
        values.append(_kappa((labels - labels.min()).tolist(), (rounded - labels.min()).tolist()))
    return float(np.mean(values))


def _kappa(true: Sequence[int], predicted: Sequence[int]) -> float:
    """1 if all labels and predictions are equal, where chance agrees, too."""
    from sklearn.metrics import cohen_kappa_score

    if len({*true, *predicted}) < 2:
        return 1.0
    labels = list(range(max(*true, *predicted) + 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(cohen_kappa_score(true, predicted, labels=labels, weights="quadratic"))


def rmse(examples: Sequence[Any], predictions: Sequence[Any], probabilities: Sequence[Probabilities]) -> float:
    """The root of the mean squared error; its mean over several numbers."""
    from sklearn.metrics import root_mean_squared_error

    return float(root_mean_squared_error(_columns(_labels_of(examples)), _columns(predictions)))


def _columns(values: Sequence[Any]) -> Float[np.ndarray, "B C"]:
    return np.asarray([np.atleast_1d(value) for value in values], np.float64)


def _shares(probabilities: Sequence[Probabilities]) -> tuple[list[str], Float[np.ndarray, "B C"]]:
    """The names of the labels, and the probability of each."""
    names = list(dict.fromkeys(name for shares in probabilities for name in shares or {}))
    if not names:
        raise InputError("the predictions have no probabilities, which this metric needs")
    return names, np.asarray(
        [[(shares or {}).get(name, 0.0) for name in names] for shares in probabilities], np.float64
    )


def _indicators(examples: Sequence[Any], names: Sequence[str]) -> Int[np.ndarray, "B C"]:
    return np.asarray([[int(name in labels) for name in names] for labels in _labels_of(examples)])


_OF_LABELS: dict[str, Score] = {
    "auc": label_auc,
    "f1_macro": macro_f1,
    "log_loss": label_log_loss,
    "map3": label_map3,
    "matthews": matthews,
}
METRICS: Mapping[str, Mapping[str, Score]] = {
    "single_label": {**_OF_LABELS, "quadratic_kappa": label_kappa},
    "ordinal": _OF_LABELS,
    "multi_label": {
        "auc": label_set_auc,
        "log_loss": label_set_log_loss,
        "map3": label_set_map3,
        "matthews": label_set_matthews,
    },
    "regression": {"rmse": rmse, "quadratic_kappa": number_kappa},
    "multiple_choice": {"log_loss": label_log_loss, "map3": label_map3},
}
