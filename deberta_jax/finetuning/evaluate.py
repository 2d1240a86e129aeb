"""The evaluation of models on the splits of a task, and the files with their results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax.files import make_folder, write_json
from deberta_jax.finetuning.kinds.kind import Kind
from deberta_jax.finetuning.outcomes import Outcome, PredictedExample
from deberta_jax.finetuning.predictions import predict
from deberta_jax.finetuning.report import write_report
from deberta_jax.finetuning.sections import Section
from deberta_jax.inference.buckets import Batching
from deberta_jax.tasks.examples import Prediction, ReadReport
from deberta_jax.tasks.squad_metrics import best_threshold
from deberta_jax.tasks.task import Task
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.recorder import read_metrics


class Evaluation(NamedTuple):
    """The examples of a split, their outcomes, and the metrics; no metrics if the split has no labels."""

    split: str
    examples: Sequence[Any]
    outcomes: Sequence[Outcome]
    metrics: Mapping[str, float]

    @property
    def predictions(self) -> list[Prediction]:
        return [outcome.prediction for outcome in self.outcomes]

    def __str__(self) -> str:
        count = f"{len(self.examples):,} examples"
        if not self.metrics:
            return f"{self.split}: {count} predicted (no labels)"
        values = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        return f"{self.split}: {values} ({count})"


def evaluate(
    task: Task,
    kind: Kind,
    model: Any,
    tokenizer: Tokenizer,
    splits: Mapping[str, Sequence[Any]],
    batching: Batching,
    no_answer_threshold: float | None = None,
) -> tuple[list[Evaluation], float | None]:
    """Predict and score each split, in order; see `score`."""
    return score(task, splits, predict_splits(kind, model, tokenizer, splits, batching), no_answer_threshold)


def predict_splits(
    kind: Kind, model: Any, tokenizer: Tokenizer, splits: Mapping[str, Sequence[Any]], batching: Batching
) -> dict[str, Sequence[Outcome]]:
    """The outcomes of the examples of each split."""
    return {split: predict(kind, model, tokenizer, examples, batching) for split, examples in splits.items()}


def score(
    task: Task,
    splits: Mapping[str, Sequence[Any]],
    outcomes: Mapping[str, Sequence[Outcome]],
    no_answer_threshold: float | None = None,
) -> tuple[list[Evaluation], float | None]:
    """Score the outcomes of each split, in order.

    For questions that may lack an answer, `no_answer_threshold` is by default the one with the best score on the first
    labelled split; it is returned, too.
    """
    evaluations = []
    threshold = no_answer_threshold
    for split, examples in splits.items():
        is_labelled = any(example.answer is not None for example in examples)
        if task.may_lack_answers and threshold is None and is_labelled:
            threshold = best_threshold(examples, [outcome.prediction for outcome in outcomes[split]])
        resolved = [
            Outcome(task.resolve(prediction, threshold or 0.0), _mapped(task, probabilities))
            for prediction, probabilities in outcomes[split]
        ]
        metrics = task.metrics(examples, [outcome.prediction for outcome in resolved]) if is_labelled else {}
        evaluations.append(Evaluation(split, examples, resolved, metrics))
    return evaluations, threshold


def _mapped(task: Task, probabilities: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The probabilities of the labels of the task, each the sum over the labels that map to it."""
    if probabilities is None or not task.label_map:
        return probabilities
    mapped: dict[str, Any] = {}
    for label, value in probabilities.items():
        name = task.label_map.get(label, label)
        mapped[name] = mapped.get(name, 0.0) + value
    return mapped


def write_results(
    folder: Path,
    task: Task,
    kind: Kind,
    labels: Sequence[str],
    evaluations: Sequence[Evaluation],
    *,
    title: str,
    settings: Mapping[str, Any],
    read_reports: Sequence[ReadReport],
    threshold: float | None = None,
    seeds: Sequence[Mapping[str, float]] = (),
    sections: Sequence[Section] = (),
) -> list[Path]:
    """Write `metrics.json`, `rows.json`, `predictions/` and `report.html`; returns their paths.

    The report shows the examples of the first labelled split. `seeds` are the metrics of runs with several seeds,
    `sections` the first sections of the report.
    """
    make_folder(folder)
    labelled = [evaluation for evaluation in evaluations if evaluation.metrics]
    metrics: dict[str, Any] = {evaluation.split: dict(evaluation.metrics) for evaluation in labelled}
    if threshold is not None:
        metrics["no_answer_threshold"] = threshold
    paths = [
        write_json(folder / "metrics.json", metrics),
        write_json(folder / "rows.json", [vars(report) for report in read_reports]),
    ]
    for evaluation in evaluations:
        paths += task.write(folder / "predictions", evaluation.split, evaluation.examples, evaluation.predictions)
    if labelled:
        first = labelled[0]
        named = {
            name if evaluation is first else f"{evaluation.split}: {name}": value
            for evaluation in labelled
            for name, value in evaluation.metrics.items()
        }
        path = write_report(
            folder,
            kind,
            labels,
            [
                PredictedExample(example, outcome.prediction, outcome.probabilities)
                for example, outcome in zip(first.examples, first.outcomes, strict=True)
            ],
            title=title,
            metrics=named,
            best_metric=task.best_metric,
            history=read_metrics(folder / "metrics.jsonl"),
            settings=settings,
            rows=[str(report) for report in read_reports],
            seeds=seeds,
            sections=sections,
        )
        paths.append(path)
    return paths
