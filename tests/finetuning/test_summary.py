"""Confidence intervals, baselines and warnings of an evaluation."""

import dataclasses
import json

import numpy as np
import pytest

from deberta_jax.finetuning import summary
from deberta_jax.finetuning.bootstrap import mean_interval, metric_interval
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.outcomes import PredictedExample
from deberta_jax.finetuning.report import write_report
from deberta_jax.finetuning.sections import NO_VALUE, class_table
from deberta_jax.finetuning.summary import summarize
from deberta_jax.tasks.catalogue import TASKS
from deberta_jax.tasks.custom_rows import REGRESSION
from deberta_jax.tasks.examples import (
    ChoiceExample,
    EntityExample,
    Seq2SeqExample,
    SpanExample,
    SpanPrediction,
    TextExample,
    WordsExample,
)
from deberta_jax.tasks.metrics import multi_label_scores, regression_scores, several_regression_scores
from deberta_jax.tasks.selected_metrics import METRICS


def texts(labels):
    return [TextExample(str(k), f"t{k}", None, label) for k, label in enumerate(labels)]


def task_of(kind, metrics=None, best=None):
    table = KINDS[kind].table
    base = TASKS["rte"]
    return dataclasses.replace(
        base, kind=kind, labels=(), metrics=metrics or table.metrics, best_metric=best or table.best_metric
    )


def summary_of(kind, examples, predictions, train=None, probabilities=None, **more):
    task = task_of(kind, **more)
    probabilities = probabilities or [None] * len(examples)
    value = task.score(examples, predictions, probabilities)[task.best_metric]
    return summarize(task, KINDS[kind].comparison, "dev", examples, predictions, probabilities, value, train)


@pytest.fixture(autouse=True)
def no_few_examples(monkeypatch):
    """The examples of these tests are few."""
    monkeypatch.setattr(summary, "_FEW", 0)


def test_few_examples_are_a_warning_instead_of_a_comparison(monkeypatch):
    monkeypatch.setattr(summary, "_FEW", 10)
    [warning] = summary_of("single_label", texts("ab"), list("bb"), texts("bba")).warnings[1:]
    assert warning == "a metric of fewer than 10 examples says little: evaluate on more"


def test_the_interval_of_a_mean_is_that_of_the_binomial_distribution():
    hits = np.repeat([1.0, 0.0], [160, 40])
    low, high = mean_interval(hits)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 200)
    assert (low, high) == (pytest.approx(0.8 - half, abs=0.01), pytest.approx(0.8 + half, abs=0.01))
    assert mean_interval(hits) == (low, high)
    # Wilson's interval is symmetric, and for 20 of 20 it is 1 / (1 + z^2 / 20) to 1.
    assert mean_interval(np.ones(20)) == (pytest.approx(0.8389, abs=1e-4), pytest.approx(1))
    assert mean_interval(np.zeros(20)) == (pytest.approx(0), pytest.approx(1 - 0.8389, abs=1e-4))
    # Other values are drawn with replacement.
    assert mean_interval(np.full(5, 0.5)) == (0.5, 0.5)


def test_the_interval_of_many_examples_is_scaled_and_its_time_is_bounded():
    hits = np.random.default_rng(0).random(200_000) < 0.3
    calls = []

    def score(index):
        calls.append(len(index))
        return float(hits[index].mean())

    low, high = metric_interval(score, float(hits.mean()), len(hits))
    assert sum(calls) <= 300 * 500
    half = 1.96 * np.sqrt(0.3 * 0.7 / 200_000)
    assert low == pytest.approx(hits.mean() - half, abs=0.3 * half)
    assert high == pytest.approx(hits.mean() + half, abs=0.3 * half)


def test_a_useful_model_has_no_warning_and_its_baseline_is_that_of_the_training_set():
    summary = summary_of("single_label", texts("aabbb"), list("aabba"), train=texts("aaab"))
    assert (summary.value, summary.baseline, summary.examples) == (0.8, 0.4, 5)
    assert summary.baseline_name == "always 'a'"
    assert 0.2 <= summary.interval.low < 0.8 < summary.interval.high <= 1
    assert summary.warnings == ()
    assert str(summary).startswith("dev: accuracy 0.8000, 95 % confidence interval 0.3755 to 0.9638 (5 examples); base")
    assert json.loads(json.dumps(summary.as_json()))["baseline"] == {"name": "always 'a'", "value": 0.4}


def test_one_predicted_class_and_a_useless_model_are_warnings():
    summary = summary_of("single_label", texts("aabbb"), list("bbbbb"))
    assert summary.warnings[0] == "the model predicts 'b' for all 5 examples"
    assert summary.warnings[1].startswith(
        "the model does not beat the baseline: accuracy 0.6000, and 0.6000 for always"
    )
    # A test set with one class may have one predicted class.
    assert len(summary_of("single_label", texts("bbb"), list("bbb")).warnings) == 1


def test_unlabelled_examples_do_not_count():
    summary = summary_of("single_label", texts(["a", None, "b"]), ["a", "a", "b"])
    assert (summary.examples, summary.value) == (2, 1.0)


def test_errors_are_better_if_they_are_smaller():
    examples = texts([1.0, 2.0, 3.0, 6.0])
    scores = {"metrics": regression_scores, "best": "mean_absolute_error"}
    assert summary_of("regression", examples, [1.1, 2.1, 3.1, 5.0], **scores).warnings == ()
    bad = summary_of("regression", examples, [3.0, 3.0, 3.001, 3.0], **scores)
    assert bad.baseline_name == "the mean, 3"
    assert bad.warnings[0] == "the model predicts about 3 for all 4 examples"
    assert bad.warnings[1].startswith("the model does not beat the baseline: mean_absolute_error 1.5")
    several = {"metrics": several_regression_scores(("x", "y")), "best": "mean_absolute_error"}
    train = texts([(0.0, 1.0), (2.0, 3.0)])
    pairs = summary_of("regression", texts([(1.0, 2.0), (3.0, 4.0)]), [(1.0, 2.0), (2.0, 4.0)], train=train, **several)
    assert pairs.baseline_name == "the mean, 1, 2"
    assert REGRESSION.collect_labels([]) == ("score",)


def test_the_baseline_of_label_sets_is_the_best_constant():
    train = texts([("a",), ("a", "b"), ("a",), ("b", "c"), ()])
    candidates = [(), ("a",), ("a", "b"), ("a", "b", "c")]
    best = max(candidates, key=lambda c: multi_label_scores(train, [c] * 5)["f1_micro"])
    summary = summary_of("multi_label", train, [("a",), ("a", "b"), ("a",), ("b",), ()], train=train)
    assert summary.baseline_name == f"always {', '.join(best)}"
    assert summary.baseline == multi_label_scores(train, [best] * 5)["f1_micro"]


def test_every_kind_has_a_baseline_and_an_interval():
    words = [WordsExample(str(k), ("a", "b"), ("O", "B-X"), (2,)) for k in range(3)]
    token = summary_of(
        "token", words, [("O", "B-X"), ("O", "O"), ("O", "O")], train=[words[0]._replace(tags=("O", "O"))]
    )
    assert (token.baseline_name, token.baseline) == ("always 'O'", 0.0)
    assert token.interval.low < token.value < token.interval.high and token.warnings == ()
    assert summary_of("token", words, [("O", "O")] * 3).warnings[0] == "the model predicts 'O' for all 3 examples"
    questions = [SpanExample(str(k), "q", "fox dog", (("fox", 0),) if k else ()) for k in range(4)]
    answers = [SpanPrediction(text, 0.0) for text in ("", "fox", "fox", "dog")]
    qa = summary_of("extractive_qa", questions, answers)
    assert (qa.baseline_name, qa.baseline, qa.value) == ("no answer", 25.0, 75.0)
    choices = [ChoiceExample(str(k), (("t", "a"), ("t", "b")), k % 2) for k in range(4)]
    choice = summary_of("multiple_choice", choices, [0, 1, 0, 0], train=choices[1:])
    assert (choice.baseline_name, choice.baseline) == ("always choice 2", 0.5)
    pairs = [Seq2SeqExample(str(k), "a b", "a b" if k else "c") for k in range(2)]
    copy = summary_of("seq2seq", pairs, ["a b", "a b"])
    assert (copy.baseline_name, copy.baseline) == ("a copy of the source", 0.5)
    entities = [EntityExample(str(k), "fox dog", "@placeholder", ((4, 7), (0, 3)), ("dog",)) for k in range(2)]
    record = TASKS["record"]
    first = summarize(record, KINDS["entity_ranking"].comparison, "dev", entities, ["dog"] * 2, [None] * 2, 1.0)
    assert (first.baseline_name, first.baseline) == ("the first entity", 0.0)


def test_probabilities_of_a_baseline_have_a_log_loss():
    examples = texts("aab")
    task = dataclasses.replace(
        task_of("single_label"), best_metric="log_loss", selected=METRICS["single_label"]["log_loss"]
    )
    shares = [{"a": 0.9, "b": 0.1}, {"a": 0.8, "b": 0.2}, {"a": 0.3, "b": 0.7}]
    value = task.score(examples, list("aab"), shares)["log_loss"]
    summary = summarize(task, KINDS["single_label"].comparison, "dev", examples, list("aab"), shares, value)
    assert summary.baseline == pytest.approx(-(2 * np.log(2 / 3) + np.log(1 / 3)) / 3)
    assert summary.interval.low < value < summary.interval.high
    assert summary.warnings == ()


def test_a_class_without_examples_has_dashes_and_warnings_are_in_the_report(tmp_path):
    rows = class_table(["a", "b", "c"], list("aab"), list("acc")).rows
    assert rows[0] == ("a", 1.0, 0.5, pytest.approx(2 / 3), 2, 1)
    assert rows[1] == ("b", 0.0, 0.0, 0.0, 1, 0)
    assert rows[2] == ("c", NO_VALUE, NO_VALUE, NO_VALUE, 0, 2)
    examples = texts("aab")
    summary = summary_of("single_label", examples, list("ccc"))
    predicted = [PredictedExample(example, "c", {"c": 1.0}) for example in examples]
    page = write_report(
        tmp_path,
        KINDS["single_label"],
        ("a", "b", "c"),
        predicted,
        title="reviews.csv",
        metrics={"accuracy": float("nan")},
        best_metric="accuracy",
        history=[],
        settings={},
        rows=[],
        summaries=[summary],
    ).read_text()
    assert "<title>reviews.csv</title>" in page
    assert "the model predicts &#39;c&#39; for all 3 examples" in page
    assert "baseline 0.6667 (always &#39;a&#39;)" in page
    assert "nan" not in page.partition("</style>")[2].partition("<img")[0]
    assert f'<td class="n">{NO_VALUE}</td>' in page
