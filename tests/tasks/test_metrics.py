"""Metrics of classification and regression by hand-computed values."""

import numpy as np
import pytest

from deberta_jax.errors import InputError
from deberta_jax.tasks import metrics
from deberta_jax.tasks.examples import TextExample


def texts(labels, groups=None):
    groups = groups or [""] * len(labels)
    return [
        TextExample(str(k), "t", None, label, group)
        for k, (label, group) in enumerate(zip(labels, groups, strict=True))
    ]


def test_accuracy_ignores_unlabelled_examples_and_is_reported_by_group():
    scores = metrics.accuracy(texts(["a", "b", None, "a"], ["x", "y", "x", "y"]), ["a", "b", "a", "b"])
    assert scores == {"accuracy": 2 / 3, "accuracy/x": 1.0, "accuracy/y": 0.5}
    with pytest.raises(InputError, match="no example has a label"):
        metrics.accuracy(texts([None]), ["a"])


def test_the_f1_of_the_positive_label_is_averaged_with_accuracy():
    scores = metrics.accuracy_and_f1("1")(texts(list("1100")), list("1010"))
    assert scores == {"accuracy": 0.5, "f1": 0.5, "mean": 0.5}
    scores = metrics.accuracy_and_f1("1")(texts(list("0000")), list("0000"))
    assert scores == {"accuracy": 1.0, "f1": 0.0, "mean": 0.5}


def test_macro_f1_is_the_mean_over_labels():
    scores = metrics.accuracy_and_macro_f1(texts(list("aab")), list("aba"))
    assert scores["f1_macro"] == pytest.approx(0.25)


def test_the_matthews_correlation_follows_from_the_counts_and_is_0_for_one_label():
    labels, predictions = list("1110001"), list("1010011")
    tp, tn, fp, fn = (
        sum(a == x and b == y for a, b in zip(labels, predictions, strict=True)) for x, y in ("11", "00", "01", "10")
    )
    expected = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert metrics.matthews(texts(labels), predictions)["matthews"] == pytest.approx(expected)
    assert metrics.matthews(texts(labels), list("1111111"))["matthews"] == 0


def test_correlations_of_values_and_ranks_are_0_for_constant_predictions():
    scores = metrics.correlations(texts([1.0, 2.0, 3.0, 4.0]), [1.0, 4.0, 9.0, 16.0])
    assert scores["spearman"] == pytest.approx(1)
    assert scores["pearson"] == pytest.approx(np.corrcoef([1, 2, 3, 4], [1, 4, 9, 16])[0, 1])
    assert metrics.correlations(texts([1.0, 2.0]), [3.0, 3.0]) == {"pearson": 0.0, "spearman": 0.0, "mean": 0.0}


def test_multiple_labels_are_scored_overall_by_label_and_by_text():
    scores = metrics.multi_label_scores(texts([("a",), ("a", "b"), ()]), [("a",), ("b",), ("b",)])
    assert scores["f1_micro"] == pytest.approx(2 * 2 / (3 + 3))
    assert scores["f1_macro"] == pytest.approx(np.mean([2 * 1 / 3, 2 * 1 / 3]))
    assert scores["exact_match"] == pytest.approx(1 / 3)


def test_a_multirc_question_is_right_if_all_its_answers_are():
    scores = metrics.multirc_scores(texts(list("1010"), ["p", "p", "q", "q"]), list("1011"))
    assert scores["exact_match"] == 0.5
    assert scores["f1a"] == pytest.approx(2 * 2 / (2 + 3))


def test_the_mean_over_groups_weights_groups_equally():
    scores = metrics.mean_over_groups(texts(list("aaab"), ["en", "en", "en", "de"]), list("aaaa"))
    assert scores["mean"] == 0.5


def test_regression_is_scored_by_correlation_and_error():
    scores = metrics.regression_scores(texts([1.0, 2.0, 3.0]), [1.0, 2.0, 6.0])
    assert (scores["mean_squared_error"], scores["mean_absolute_error"]) == (3.0, 1.0)
    assert scores["r2"] == pytest.approx(1 - 3 / (2 / 3))
    assert scores["spearman"] == pytest.approx(1)
