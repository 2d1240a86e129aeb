"""Each metric of `--metric` against a computation by hand, also for degenerate inputs."""

import math

import numpy as np
import pytest

from deberta_jax.errors import InputError
from deberta_jax.tasks.catalogue import TASKS
from deberta_jax.tasks.examples import ChoiceExample, TextExample
from deberta_jax.tasks.selected_metrics import METRICS, is_better, lower_is_better, with_metric


def value(kind, metric, labels, predictions, probabilities=None):
    make = (
        ChoiceExample if kind == "multiple_choice" else lambda name, text, label: TextExample(name, text, None, label)
    )
    examples = [make(str(k), (("a", "b"),) * 4, label) for k, label in enumerate(labels)]
    return METRICS[kind][metric](examples, predictions, probabilities or [None] * len(labels))


def shares(*rows, names="abc"):
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_macro_f1_is_the_mean_over_labels():
    # a: precision 1/2, recall 1/2; b: 1/2 and 1; c: recall 0.
    assert value("single_label", "f1_macro", list("aabc"), list("abba" + "")[:4]) == pytest.approx(
        np.mean([2 * 1 / (2 + 2), 2 * 1 / (1 + 2), 0.0])
    )
    assert value("single_label", "f1_macro", list("aa"), list("aa")) == 1.0


def auc_by_hand(is_label, scores):
    """The share of pairs of a positive and a negative example that the score orders; half for a tie."""
    positive = [s for s, y in zip(scores, is_label, strict=True) if y]
    negative = [s for s, y in zip(scores, is_label, strict=True) if not y]
    return np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])


def test_the_area_under_the_curve_is_the_share_of_ordered_pairs():
    labels = list("abab")
    p = [0.9, 0.6, 0.4, 0.2]
    rows = [{"a": x, "b": 1 - x} for x in p]
    assert value("single_label", "auc", labels, labels, rows) == pytest.approx(3 / 4)
    labels = list("abcab")
    rows = shares((0.5, 0.3, 0.2), (0.5, 0.2, 0.3), (0.1, 0.1, 0.8), (0.2, 0.5, 0.3), (0.3, 0.6, 0.1))
    expected = np.mean([auc_by_hand([y == c for y in labels], [row[c] for row in rows]) for c in "abc"])
    assert value("single_label", "auc", labels, labels, rows) == pytest.approx(expected)
    # A label without examples does not count, and one label alone is chance.
    assert value("single_label", "auc", list("ab"), list("ab"), shares((0.9, 0.1, 0), (0.1, 0.9, 0))) == 1.0
    assert value("single_label", "auc", list("aa"), list("aa"), shares((0.9, 0.1, 0), (0.1, 0.9, 0))) == 0.5
    sets = [("a", "b"), ("b",), ()]
    rows = shares((0.9, 0.2, 0.5), (0.1, 0.4, 0.1), (0.3, 0.3, 0.3))
    expected = np.mean([1.0, auc_by_hand([1, 1, 0], [0.2, 0.4, 0.3])])
    assert value("multi_label", "auc", sets, sets, rows) == pytest.approx(expected)


def test_the_log_loss_is_minus_the_logarithm_of_the_probability():
    rows = shares((0.5, 0.25, 0.25), (0.1, 0.2, 0.7))
    expected = -(math.log(0.25) + math.log(0.1)) / 2
    assert value("single_label", "log_loss", list("ba"), list("ac"), rows) == pytest.approx(expected)
    choices = [{"0": 0.5, "1": 0.25, "2": 0.25}, {"0": 0.1, "1": 0.2, "2": 0.7}]
    assert value("multiple_choice", "log_loss", [1, 0], [0, 2], choices) == pytest.approx(expected)
    binary = [math.log(p) for p in (0.5, 1 - 0.25, 0.25, 1 - 0.1, 0.2, 1 - 0.7)]
    sets = [("a", "c"), ("b",)]
    assert value("multi_label", "log_loss", sets, sets, rows) == pytest.approx(-np.mean(binary))
    # One class only, and probability 0.
    assert value("single_label", "log_loss", list("aa"), list("aa"), shares((1, 0, 0), (1, 0, 0))) < 1e-9
    assert 30 < value("single_label", "log_loss", list("bb"), list("aa"), shares((1, 0, 0), (1, 0, 0))) < math.inf


def test_mean_average_precision_counts_the_first_three():
    names = "abcd"
    rows = shares((0.4, 0.3, 0.2, 0.1), (0.4, 0.3, 0.2, 0.1), (0.1, 0.2, 0.3, 0.4), names=names)
    assert value("single_label", "map3", list("bda"), list("aad"), rows) == pytest.approx((1 / 2 + 0 + 0) / 3)
    choices = [dict(zip("0123", row.values(), strict=True)) for row in rows]
    assert value("multiple_choice", "map3", [0, 2, 3], [0, 0, 3], choices) == pytest.approx((1 + 1 / 3 + 1) / 3)
    sets = [("a", "c"), ("d",), ()]
    # Ranks 1 and 3 of two labels; none of one; the example without a label does not count.
    assert value("multi_label", "map3", sets, sets, rows) == pytest.approx(((1 + 2 / 3) / 2 + 0) / 2)
    assert value("multi_label", "map3", [()], [()], rows[:1]) == 0.0


def test_the_matthews_correlation_is_that_of_the_counts():
    labels, predictions = list("aaabbb"), list("aabbba")
    tp, tn, fp, fn = 2, 2, 1, 1
    expected = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert value("single_label", "matthews", labels, predictions) == pytest.approx(expected)
    assert value("single_label", "matthews", list("aaa"), list("aaa")) == 0.0
    assert value("single_label", "matthews", list("aab"), list("aaa")) == 0.0
    sets = [("a",), ("a",), ("a",), (), (), ()], [("a",), ("a",), (), (), (), ("a",)]
    assert value("multi_label", "matthews", *sets) == pytest.approx(expected)


def kappa_by_hand(true, predicted, size):
    """1 minus the observed over the expected squared distance."""
    true, predicted = np.asarray(true), np.asarray(predicted)
    observed = np.mean((true - predicted) ** 2)
    expected = np.mean((true[:, None] - predicted[None]) ** 2)
    return 1 - observed / expected


def test_the_quadratic_weighted_kappa_is_one_minus_a_ratio_of_squares():
    true, predicted = [1, 2, 3, 4, 4, 2], [1, 2, 2, 4, 3, 4]
    expected = kappa_by_hand(true, predicted, 4)
    names = [list(map(str, side)) for side in (true, predicted)]
    rows = [dict.fromkeys("1234", 0.25)] * 6
    assert value("single_label", "quadratic_kappa", *names, rows) == pytest.approx(expected)
    noisy = [p + e for p, e in zip(predicted, (0.4, -0.3, 0.2, 5.0, 0.1, 0.3), strict=True)]
    assert value("regression", "quadratic_kappa", [float(t) for t in true], noisy) == pytest.approx(expected)
    pairs = list(zip(map(float, true), [1.0] * 6, strict=True)), list(zip(noisy, [1.0] * 6, strict=True))
    assert value("regression", "quadratic_kappa", *pairs) == pytest.approx((expected + 1) / 2)
    # One class only: right, and wrong.
    assert value("single_label", "quadratic_kappa", ["2", "2"], ["2", "2"], rows[:2]) == 1.0
    assert value("single_label", "quadratic_kappa", ["2", "2"], ["3", "3"], rows[:2]) == 0.0


def test_the_root_mean_squared_error_is_its_mean_over_columns():
    assert value("regression", "rmse", [1.0, 3.0], [2.0, 0.0]) == pytest.approx(math.sqrt(5))
    expected = (math.sqrt((1 + 9) / 2) + 2) / 2
    assert value("regression", "rmse", [(1.0, 1.0), (3.0, 1.0)], [(2.0, 3.0), (0.0, 3.0)]) == pytest.approx(expected)
    assert value("regression", "rmse", [1.0], [1.0]) == 0.0


def test_the_direction_of_a_metric_is_known():
    assert [
        n for n in ("rmse", "rmse/x", "log_loss", "accuracy", "auc", "mean_absolute_error") if lower_is_better(n)
    ] == [
        "rmse",
        "rmse/x",
        "log_loss",
        "mean_absolute_error",
    ]
    assert is_better("rmse", 0.1, 0.2) and is_better("auc", 0.2, 0.1) and not is_better("auc", 0.1, 0.1)


def test_a_task_gets_another_metric_by_any_of_its_names():
    task, names = TASKS["sst-2"], ["accuracy"]
    for name, expected in (
        ("auc", "auc"),
        ("macro-F1", "f1_macro"),
        ("QWK", "quadratic_kappa"),
        ("MAP@3", "map3"),
        ("mcc", "matthews"),
        ("log-loss", "log_loss"),
    ):
        assert with_metric(task, name, ("0", "1"), names).best_metric == expected
    assert with_metric(task, "accuracy", ("0", "1"), names) == task
    examples = [TextExample("1", "t", None, "0"), TextExample("2", "t", None, None)]
    scores = with_metric(task, "log_loss", ("0", "1"), names).score(
        examples, ["0", "1"], [{"0": 0.5, "1": 0.5}, {"0": 0.1, "1": 0.9}]
    )
    assert scores == {"accuracy": 1.0, "log_loss": pytest.approx(math.log(2))}


def test_a_metric_that_does_not_fit_is_one_line_with_those_that_do():
    fitting = "accuracy, auc, f1_macro, log_loss, map3, matthews, quadratic_kappa"
    message = f"metric is 'rmse', which tasks of kind single_label do not have; use {fitting}$"
    with pytest.raises(InputError, match=message):
        with_metric(TASKS["sst-2"], "rmse", ("0", "1"), ["accuracy", "accuracy/x"])
    with pytest.raises(InputError, match="needs labels that are numbers; the labels are not_entailment, entailment"):
        with_metric(TASKS["rte"], "kappa", TASKS["rte"].labels, ["accuracy"])
    with pytest.raises(InputError, match="kind token do not have; use f1, precision$"):
        with_metric(TASKS["ner"], "auc", (), ["f1", "precision"])
