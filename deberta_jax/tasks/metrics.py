"""The published metrics of classification and regression tasks."""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from deberta_jax.errors import InputError
from deberta_jax.tasks.task import Metrics

Scores = dict[str, float]


def labelled(examples: Sequence[Any], predictions: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the examples with a label, their labels, and their predictions; raises InputError if there is none."""
    rows = [(e, e.label, p) for e, p in zip(examples, predictions, strict=True) if e.label is not None]
    if not rows:
        raise InputError("no example has a label, so nothing can be scored")
    return tuple(map(list, zip(*rows, strict=True)))  # type: ignore[return-value]


def accuracy(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
    """Return the accuracy, overall and by group if there are several."""
    scored, labels, predictions = labelled(examples, predictions)
    correct = [label == prediction for label, prediction in zip(labels, predictions, strict=True)]
    scores = {"accuracy": float(np.mean(correct))}
    groups: dict[str, list[bool]] = defaultdict(list)
    for example, hit in zip(scored, correct, strict=True):
        groups[example.group].append(hit)
    if len(groups) > 1:
        scores |= {f"accuracy/{group}": float(np.mean(hits)) for group, hits in sorted(groups.items())}
    return scores


def accuracy_and_f1(positive: str) -> Metrics:
    """Return the metrics of GLUE's MRPC and QQP: accuracy, the F1 of one label, and their mean."""

    def score(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
        from sklearn.metrics import f1_score

        _, labels, predicted = labelled(examples, predictions)
        overall = accuracy(examples, predictions)["accuracy"]
        is_positive = [[label == positive for label in values] for values in (labels, predicted)]
        f1 = float(f1_score(*is_positive, zero_division=0.0))
        return {"accuracy": overall, "f1": f1, "mean": (overall + f1) / 2}

    return score


def accuracy_and_macro_f1(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
    """Return the metrics of SuperGLUE's CB: accuracy, the mean F1 of the labels, and the mean of both."""
    from sklearn.metrics import f1_score

    _, labels, predicted = labelled(examples, predictions)
    overall = accuracy(examples, predictions)["accuracy"]
    f1 = float(f1_score(labels, predicted, average="macro", zero_division=0.0))
    return {"accuracy": overall, "f1_macro": f1, "mean": (overall + f1) / 2}


def single_label_scores(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
    """Return accuracy and the mean F1 of the labels."""
    scores = accuracy_and_macro_f1(examples, predictions)
    return {name: scores[name] for name in ("accuracy", "f1_macro")}


def matthews(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
    """Return the Matthews correlation (CoLA), 0 if all predictions are equal, and the accuracy."""
    from sklearn.metrics import matthews_corrcoef

    _, labels, predicted = labelled(examples, predictions)
    return {"matthews": float(matthews_corrcoef(labels, predicted)), **accuracy(examples, predictions)}


def correlations(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
    """Return the Pearson and Spearman correlations (STS-B), 0 if all predictions are equal, and their mean."""
    from scipy.stats import pearsonr, spearmanr

    _, labels, predicted = labelled(examples, predictions)
    if len(labels) < 2 or np.ptp(predicted) == 0 or np.ptp(labels) == 0:
        pearson = spearman = 0.0
    else:
        with warnings.catch_warnings():
            # SciPy warns of values that are nearly constant; the result is used as it is.
            warnings.simplefilter("ignore")
            pearson, spearman = float(pearsonr(labels, predicted)[0]), float(spearmanr(labels, predicted)[0])
    return {"pearson": pearson, "spearman": spearman, "mean": (pearson + spearman) / 2}


def regression_scores(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
    """Return the correlations, the mean errors, and R2, the explained share of the variance."""
    _, labels, predicted = labelled(examples, predictions)
    errors = np.asarray(predicted, np.float64) - np.asarray(labels, np.float64)
    variance = float(np.var(labels))
    scores = correlations(examples, predictions)
    return {
        "pearson": scores["pearson"],
        "spearman": scores["spearman"],
        "mean_squared_error": float(np.square(errors).mean()),
        "mean_absolute_error": float(np.abs(errors).mean()),
        "r2": 1 - float(np.square(errors).mean()) / variance if variance else 0.0,
    }


def several_regression_scores(names: Sequence[str]) -> Metrics:
    """Return the metrics of several numbers: the mean of each metric of `regression_scores`, and each by column."""

    def score(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
        scored, labels, predicted = labelled(examples, predictions)
        columns = {
            name: regression_scores(
                [example._replace(label=label[index]) for example, label in zip(scored, labels, strict=True)],
                [prediction[index] for prediction in predicted],
            )
            for index, name in enumerate(names)
        }
        first = next(iter(columns.values()))
        means = {metric: float(np.mean([scores[metric] for scores in columns.values()])) for metric in first}
        return means | {f"{metric}/{name}": columns[name][metric] for metric in first for name in columns}

    return score


def multi_label_scores(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
    """Return micro and macro F1 over labels, and the share of texts with exactly the right labels."""
    from sklearn.metrics import f1_score

    _, labels, predicted = labelled(examples, predictions)
    names = sorted({label for values in (*labels, *predicted) for label in values})
    exact = float(np.mean([set(gold) == set(values) for gold, values in zip(labels, predicted, strict=True)]))
    if not names:
        return {"f1_micro": 0.0, "f1_macro": 0.0, "exact_match": exact}
    indicators = [np.asarray([[name in values for name in names] for values in side]) for side in (labels, predicted)]
    micro, macro = (float(f1_score(*indicators, average=mode, zero_division=0.0)) for mode in ("micro", "macro"))
    return {"f1_micro": micro, "f1_macro": macro, "exact_match": exact}


def multirc_scores(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
    """Return F1 over all answer options, the share of questions with all options right (MultiRC), and their mean."""
    from sklearn.metrics import f1_score

    scored, labels, predicted = labelled(examples, predictions)
    is_correct = [[label == "1" for label in values] for values in (labels, predicted)]
    f1 = float(f1_score(*is_correct, zero_division=0.0))
    groups: dict[str, bool] = {}
    for example, label, prediction in zip(scored, labels, predicted, strict=True):
        groups[example.group] = groups.get(example.group, True) and label == prediction
    exact = float(np.mean(list(groups.values())))
    return {"f1a": f1, "exact_match": exact, "mean": (f1 + exact) / 2}


def mean_over_groups(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
    """Return the mean of the accuracies of the groups (XNLI: the languages), and each accuracy."""
    scores = accuracy(examples, predictions)
    by_group = [value for name, value in scores.items() if "/" in name]
    return {"mean": float(np.mean(by_group or list(scores.values()))), **scores}
