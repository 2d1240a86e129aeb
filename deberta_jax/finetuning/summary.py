"""The summary of an evaluation: the best metric with its confidence interval, a baseline, and warnings."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from deberta_jax.errors import shorten
from deberta_jax.finetuning.baselines import Baseline, MakeBaseline, most_frequent_answer
from deberta_jax.finetuning.bootstrap import Interval, mean_interval, metric_interval
from deberta_jax.tasks.selected_metrics import is_better
from deberta_jax.tasks.task import Probabilities, Task

# Numbers that differ by less than this share of the standard deviation of the labels are one number.
_CONSTANT = 0.01
# With fewer examples, a metric is not compared with its baseline.
_FEW = 10


class Comparison(NamedTuple):
    """How a kind of task is compared with a prediction that does not depend on the text."""

    baseline: MakeBaseline = most_frequent_answer
    """Makes the baseline."""
    values: Callable[[Any], Sequence[Any]] = lambda prediction: (prediction,)
    """The values of a prediction or of an answer: one label, or the tags of words."""
    mean_metrics: Mapping[str, Callable[[Task, Any, Any], float]] = {}
    """The metrics that are means over examples, and the value of (task, example, prediction)."""


WITH_MOST_FREQUENT = Comparison()


class Summary(NamedTuple):
    """The best metric of a split with its confidence interval, that of the baseline, and warnings."""

    split: str
    examples: int
    metric: str
    value: float
    interval: Interval
    baseline: float
    baseline_name: str
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        low, high = self.interval
        number = f"{self.examples:,} example{'s' * (self.examples != 1)}"
        return (
            f"{self.split}: {self.metric} {self.value:.4f}, 95 % confidence interval {low:.4f} to {high:.4f} "
            f"({number}); baseline {self.baseline:.4f} ({self.baseline_name})"
        )

    def as_json(self) -> dict[str, Any]:
        """The fields of `summary.json`."""
        return {
            "examples": self.examples,
            "metric": self.metric,
            "value": self.value,
            "confidence_interval": list(self.interval),
            "baseline": {"name": self.baseline_name, "value": self.baseline},
            "warnings": list(self.warnings),
        }


def is_correct(task: Task, example: Any, prediction: Any) -> float:
    """1 for a prediction that equals the label."""
    return float(example.label == prediction)


def one_example(metric: str) -> Callable[[Task, Any, Any], float]:
    """A metric of single examples, for one that is their mean."""
    return lambda task, example, prediction: task.metrics([example], [prediction])[metric]


def summarize(
    task: Task,
    comparison: Comparison,
    split: str,
    examples: Sequence[Any],
    predictions: Sequence[Any],
    probabilities: Sequence[Probabilities],
    value: float,
    train: Sequence[Any] | None = None,
) -> Summary:
    """Summarize the predictions for a split with the best metric `value`.

    The baseline is that of the training examples, or of the split if there are none.
    """
    rows = [row for row in zip(examples, predictions, probabilities, strict=True) if row[0].answer is not None]
    examples, predictions, probabilities = map(list, zip(*rows, strict=True))
    baseline = comparison.baseline(task, train or examples)
    constant = baseline_score(task, baseline, examples)
    interval = _interval(task, comparison, value, examples, predictions, probabilities)
    problems = []
    if (single := _single_value(comparison, examples, predictions)) is not None:
        problems.append(f"the model predicts {single} for all {len(examples):,} examples")
    if len(examples) < _FEW:
        problems.append(f"a metric of fewer than {_FEW} examples says little: evaluate on more")
    elif not is_better(task.best_metric, value, constant):
        problems.append(
            f"the model does not beat the baseline: {task.best_metric} {value:.4f}, and {constant:.4f} for "
            f"{baseline.name}; train longer, on more examples, or with another learning rate"
        )
    return Summary(split, len(examples), task.best_metric, value, interval, constant, baseline.name, tuple(problems))


def baseline_score(task: Task, baseline: Baseline, examples: Sequence[Any]) -> float:
    """The best metric of a baseline on labelled examples."""
    outcomes = [baseline.outcome(example) for example in examples]
    predictions = [task.resolve(outcome.prediction) for outcome in outcomes]
    with warnings.catch_warnings():
        # A constant prediction is what some metrics warn of.
        warnings.simplefilter("ignore")
        return task.score(examples, predictions, [outcome.probabilities for outcome in outcomes])[task.best_metric]


def _interval(
    task: Task,
    comparison: Comparison,
    value: float,
    examples: Sequence[Any],
    predictions: Sequence[Any],
    probabilities: Sequence[Probabilities],
) -> Interval:
    if of_example := comparison.mean_metrics.get(task.best_metric):
        pairs = zip(examples, predictions, strict=True)
        return mean_interval(np.asarray([of_example(task, example, prediction) for example, prediction in pairs]))

    def score(index: np.ndarray) -> float:
        columns = ([column[k] for k in index.tolist()] for column in (examples, predictions, probabilities))
        return task.score(*columns)[task.best_metric]

    return metric_interval(score, value, len(examples))


def _single_value(comparison: Comparison, examples: Sequence[Any], predictions: Sequence[Any]) -> str | None:
    """The only predicted value in words, if there are several answers; None if there are several predicted values."""
    if len(examples) < 2:
        return None
    if isinstance(predictions[0], float) or (isinstance(predictions[0], tuple) and _is_number(predictions[0][:1])):
        true, numbers = (np.asarray(side, np.float64) for side in ([e.answer for e in examples], predictions))
        is_constant = (np.ptp(numbers, axis=0) < _CONSTANT * np.std(true, axis=0)).all()
        return f"about {', '.join(f'{v:.4g}' for v in np.atleast_1d(numbers.mean(0)))}" if is_constant else None
    values = {value for prediction in predictions for value in comparison.values(prediction)}
    answers = {value for example in examples for value in comparison.values(example.answer)}
    if len(values) != 1 or len(answers) < 2:
        return None
    (value,) = values
    name = ", ".join(value) if isinstance(value, tuple) else value
    return shorten(repr(name)) if name not in ("", ()) else "nothing"


def _is_number(values: Sequence[Any]) -> bool:
    return bool(values) and all(isinstance(value, float) for value in values)
