"""Baselines: predictions that do not depend on the text, from the answers of the training examples."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from deberta_jax.errors import shorten
from deberta_jax.finetuning.outcomes import Outcome
from deberta_jax.tasks.examples import SpanPrediction
from deberta_jax.tasks.selected_metrics import is_better
from deberta_jax.tasks.task import Task

# Sets of the most frequent labels that are compared, and examples that they are compared on.
_MAX_SETS, _MAX_EXAMPLES = 20, 2000


class Baseline(NamedTuple):
    """What is predicted, in words, and the outcome for an example."""

    name: str
    outcome: Callable[[Any], Outcome]


# (task, labelled training examples) -> the baseline.
MakeBaseline = Callable[[Task, Sequence[Any]], Baseline]


def most_frequent_answer(task: Task, train: Sequence[Any]) -> Baseline:
    """The most frequent answer, such as the majority class."""
    counts = Counter(example.answer for example in train)
    (answer, _), *_ = counts.most_common(1)
    shares = {str(name): count / len(train) for name, count in counts.items()}
    return Baseline(f"always {shorten(repr(answer))}", lambda example: Outcome(answer, shares))


def most_frequent_choice(task: Task, train: Sequence[Any]) -> Baseline:
    """The position of the correct choice that is most frequent."""
    counts = Counter(example.label for example in train)
    best = max(counts, key=counts.__getitem__)

    def outcome(example: Any) -> Outcome:
        choices = range(len(example.pairs))
        total = sum(counts[index] for index in choices) + len(choices)
        return Outcome(min(best, len(choices) - 1), {str(index): (counts[index] + 1) / total for index in choices})

    return Baseline(f"always choice {best + 1}", outcome)


def mean_number(task: Task, train: Sequence[Any]) -> Baseline:
    """The mean of the numbers."""
    mean = np.asarray([example.label for example in train], np.float64).mean(0).tolist()
    listed = ", ".join(f"{value:.4g}" for value in np.atleast_1d(mean))
    return Baseline(f"the mean, {listed}", lambda example: Outcome(tuple(mean) if isinstance(mean, list) else mean))


def best_label_set(task: Task, train: Sequence[Any]) -> Baseline:
    """The set of the most frequent labels with the best score."""
    examples = list(train)[:: max(1, len(train) // _MAX_EXAMPLES)]
    counts = Counter(label for example in train for label in example.label)
    ranked = [label for label, _ in counts.most_common()]
    shares = {label: counts[label] / len(train) for label in ranked}
    best, best_score = (), _constant_score(task, examples, (), shares)
    for size in range(1, min(len(ranked), _MAX_SETS) + 1):
        labels = tuple(sorted(ranked[:size]))
        score = _constant_score(task, examples, labels, shares)
        if is_better(task.best_metric, score, best_score):
            best, best_score = labels, score
    name = f"always {shorten(', '.join(best))}" if best else "no label"
    return Baseline(name, lambda example: Outcome(best, shares))


def _constant_score(task: Task, examples: Sequence[Any], labels: tuple[str, ...], shares: Mapping[str, float]) -> float:
    size = len(examples)
    return task.score(examples, [labels] * size, [shares] * size)[task.best_metric]


def most_frequent_tag(task: Task, train: Sequence[Any]) -> Baseline:
    """The most frequent tag for each word."""
    counts = Counter(tag for example in train for tag in example.tags)
    tag = max(counts, key=counts.__getitem__)
    return Baseline(f"always {tag!r}", lambda example: Outcome((tag,) * len(example.words)))


def no_answer(task: Task, train: Sequence[Any]) -> Baseline:
    """No answer to any question."""
    return Baseline("no answer", lambda example: Outcome(SpanPrediction("", 0.0), {"": 1.0}))


def first_entity(task: Task, train: Sequence[Any]) -> Baseline:
    """The first entity of the passage."""

    def outcome(example: Any) -> Outcome:
        start, end = min(example.entities, default=(0, 0))
        return Outcome(example.passage[start:end])

    return Baseline("the first entity", outcome)


def source_text(task: Task, train: Sequence[Any]) -> Baseline:
    """The source as it is."""
    return Baseline("a copy of the source", lambda example: Outcome(example.source))
