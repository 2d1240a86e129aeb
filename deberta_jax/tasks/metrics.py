"""What predictions are worth, by the metrics that benchmarks publish."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deberta_jax.errors import InputError

Scores = dict[str, float]


def labelled(examples: Sequence[Any], predictions: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Examples that have a label, their labels, and what is predicted for them; raises InputError where none has."""
    its = [(e, e.label, p) for e, p in zip(examples, predictions, strict=True) if e.label is not None]
    if not its:
        raise InputError("no example has a label: there is nothing to score")
    return tuple(map(list, zip(*its, strict=True)))  # type: ignore[return-value]


def accuracy(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
    """The part of examples that are right, in all and by group where there are several."""
    its, wanted, found = labelled(examples, predictions)
    right = np.asarray([a == b for a, b in zip(wanted, found, strict=True)])
    scores = {"accuracy": float(right.mean())}
    groups: dict[str, list[bool]] = defaultdict(list)
    for example, one in zip(its, right.tolist(), strict=True):
        groups[example.group].append(one)
    if len(groups) > 1:
        scores |= {f"accuracy/{group}": float(np.mean(ones)) for group, ones in sorted(groups.items())}
    return scores


def accuracy_and_f1(positive: str) -> Callable[[Sequence[Any], Sequence[Any]], Scores]:
    """Accuracy, F1 of one label, and the mean of both, as GLUE has it (MRPC, QQP)."""

    def score(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
        from sklearn.metrics import f1_score

        _, wanted, found = labelled(examples, predictions)
        right = accuracy(examples, predictions)["accuracy"]
        f1 = float(f1_score([a == positive for a in wanted], [b == positive for b in found], zero_division=0.0))
        return {"accuracy": right, "f1": f1, "mean": (right + f1) / 2}

    return score


def accuracy_and_macro_f1(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
    """Accuracy, the mean of the labels' F1, and the mean of both, as SuperGLUE has it (CB)."""
    from sklearn.metrics import f1_score

    _, wanted, found = labelled(examples, predictions)
    right = accuracy(examples, predictions)["accuracy"]
    f1 = float(f1_score(wanted, found, average="macro", zero_division=0.0))
    return {"accuracy": right, "f1_macro": f1, "mean": (right + f1) / 2}


def own_labels(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
    """Accuracy and the mean of the labels' F1."""
    scores = accuracy_and_macro_f1(examples, predictions)
    return {name: scores[name] for name in ("accuracy", "f1_macro")}


def matthews(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
    """Matthews' correlation (CoLA), 0 where all predictions are the same."""
    from sklearn.metrics import matthews_corrcoef

    _, wanted, found = labelled(examples, predictions)
    return {"matthews": float(matthews_corrcoef(wanted, found)), **accuracy(examples, predictions)}


def correlations(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
    """Pearson's and Spearman's correlation and their mean (STS-B), 0 where all predictions are the same."""
    from scipy.stats import pearsonr, spearmanr

    _, wanted, found = labelled(examples, predictions)
    if len(wanted) < 2 or np.ptp(found) == 0 or np.ptp(wanted) == 0:
        pearson = spearman = 0.0
    else:
        with warnings.catch_warnings():
            # Of numbers that hardly differ: what comes out is what it is.
            warnings.simplefilter("ignore")
            pearson, spearman = float(pearsonr(wanted, found)[0]), float(spearmanr(wanted, found)[0])
    return {"pearson": pearson, "spearman": spearman, "mean": (pearson + spearman) / 2}


def own_numbers(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
    """Correlations, errors, and the part of the variance that is explained."""
    _, wanted, found = labelled(examples, predictions)
    errors = np.asarray(found, np.float64) - np.asarray(wanted, np.float64)
    variance = float(np.var(wanted))
    scores = correlations(examples, predictions)
    return {
        "pearson": scores["pearson"],
        "spearman": scores["spearman"],
        "mean_squared_error": float(np.square(errors).mean()),
        "mean_absolute_error": float(np.abs(errors).mean()),
        "r2": 1 - float(np.square(errors).mean()) / variance if variance else 0.0,
    }


def own_several(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
    """F1 over all labels of all texts, the mean over labels, and the part of texts all of whose labels are right."""
    from sklearn.metrics import f1_score

    _, wanted, found = labelled(examples, predictions)
    names = sorted({label for one in (*wanted, *found) for label in one})
    exact = float(np.mean([set(a) == set(b) for a, b in zip(wanted, found, strict=True)]))
    if not names:
        return {"f1_micro": 0.0, "f1_macro": 0.0, "exact": exact}
    table = [np.asarray([[name in one for name in names] for one in ones]) for ones in (wanted, found)]
    micro, macro = (float(f1_score(*table, average=how, zero_division=0.0)) for how in ("micro", "macro"))
    return {"f1_micro": micro, "f1_macro": macro, "exact": exact}


def answer_options(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
    """F1 over all answers, and the part of questions all of whose answers are right (MultiRC)."""
    from sklearn.metrics import f1_score

    its, wanted, found = labelled(examples, predictions)
    f1 = float(f1_score([a == "1" for a in wanted], [b == "1" for b in found], zero_division=0.0))
    groups: dict[str, bool] = {}
    for example, a, b in zip(its, wanted, found, strict=True):
        groups[example.group] = groups.get(example.group, True) and a == b
    exact = float(np.mean(list(groups.values())))
    return {"f1a": f1, "exact_match": exact, "mean": (f1 + exact) / 2}


def mean_over_groups(examples: Sequence[Any], predictions: Sequence[Any]) -> Scores:
    """Accuracy by group, of which the mean is reported (XNLI's languages)."""
    scores = accuracy(examples, predictions)
    parts = [value for name, value in scores.items() if "/" in name]
    return {"mean": float(np.mean(parts or list(scores.values()))), **scores}
