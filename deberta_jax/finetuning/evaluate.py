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
from deberta_jax.finetuning.summary import Summary, summarize
from deberta_jax.inference.buckets import Batching
from deberta_jax.processes.first_process import print_once
from deberta_jax.tasks.examples import Prediction, ReadReport
from deberta_jax.tasks.rows import is_test
from deberta_jax.tasks.squad_metrics import best_threshold
from deberta_jax.tasks.task import Task
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.recorder import read_metrics

# The training set, each example predicted by a model that was not trained on it.
OUT_OF_FOLD = "out_of_fold"


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
        predictions, probabilities = zip(*resolved, strict=True) if resolved else ((), ())
        metrics = task.score(examples, predictions, probabilities) if is_labelled else {}
        evaluations.append(Evaluation(split, examples, resolved, metrics))
    return evaluations, threshold


def summaries_of(
    task: Task, kind: Kind, evaluations: Sequence[Evaluation], train: Sequence[Any] | None = None
) -> list[Summary]:
    """The summary of each labelled split; the baseline is that of the training examples, if there are any."""
    return [
        summarize(
            task,
            kind.comparison,
            evaluation.split,
            evaluation.examples,
            evaluation.predictions,
            [outcome.probabilities for outcome in evaluation.outcomes],
            evaluation.metrics[task.best_metric],
            train,
        )
        for evaluation in evaluations
        if evaluation.metrics
    ]


def print_summaries(summaries: Sequence[Summary]) -> None:
    """Print each summary, and its warnings."""
    for summary in summaries:
        print_once(str(summary))
        for warning in summary.warnings:
            print_once(f"warning: {summary.split}: {warning}")


def metric_names(task: Task, kind: Kind, train: Sequence[Any], examples: Sequence[Any]) -> list[str]:
    """The metrics of a task on examples."""
    baseline = kind.comparison.baseline(task, train)
    return list(task.metrics(examples, [task.resolve(baseline.outcome(example).prediction) for example in examples]))


def _mapped(task: Task, probabilities: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The probabilities of the labels of the task, each the sum over the labels that map to it."""
    if probabilities is None or not task.label_map:
        return probabilities
    mapped: dict[str, Any] = {}
    for label, value in probabilities.items():
        name = task.label_map.get(label, label)
        mapped[name] = mapped.get(name, 0.0) + value
    return mapped


def _write_predictions(
    folder: Path, task: Task, evaluations: Sequence[Evaluation], sources: Mapping[str, Sequence[Path]]
) -> list[Path]:
    """Write the prediction files of each split; those for a test set that is a table also in the layout of its file."""
    paths: list[Path] = []
    for split, examples, outcomes, _ in evaluations:
        if split == OUT_OF_FOLD:
            continue
        predictions = [outcome.prediction for outcome in outcomes]
        paths += task.write(folder, split, examples, predictions)
        files = sources.get(split, ())
        if task.source_rows is not None and is_test(split) and len(files) == 1:
            probabilities = [outcome.probabilities for outcome in outcomes]
            paths.append(task.source_rows.write(folder, files[0], split, predictions, probabilities))
    return paths


def _named_metrics(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """The metrics of all splits; those of the first one without its name."""
    return {
        name if number == 0 else f"{evaluation.split}: {name}": value
        for number, evaluation in enumerate(evaluations)
        for name, value in evaluation.metrics.items()
    }


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
    sources: Mapping[str, Sequence[Path]] | None = None,
    summaries: Sequence[Summary] = (),
    folds: Sequence[Mapping[str, float]] = (),
    sections: Sequence[Section] = (),
) -> list[Path]:
    """Write `metrics.json`, `summary.json`, `rows.json`, `predictions/` and `report.html`; returns their paths.

    The report shows the examples of the first labelled split. `seeds` and `folds` are the metrics of several runs,
    `sections` the first sections of the report. The predictions for a test set that is a custom table are also written
    in its layout; `sources` are the files of each split.
    """
    make_folder(folder)
    labelled = [evaluation for evaluation in evaluations if evaluation.metrics]
    metrics: dict[str, Any] = {evaluation.split: dict(evaluation.metrics) for evaluation in labelled}
    if threshold is not None:
        metrics["no_answer_threshold"] = threshold
    paths = [
        write_json(folder / "metrics.json", metrics),
        write_json(folder / "summary.json", {summary.split: summary.as_json() for summary in summaries}),
        write_json(folder / "rows.json", [vars(report) for report in read_reports]),
    ]
    paths += _write_predictions(folder / "predictions", task, evaluations, sources or {})
    if labelled:
        first = labelled[0]
        path = write_report(
            folder,
            kind,
            labels,
            [
                PredictedExample(example, outcome.prediction, outcome.probabilities)
                for example, outcome in zip(first.examples, first.outcomes, strict=True)
            ],
            title=title,
            metrics=_named_metrics(labelled),
            best_metric=task.best_metric,
            history=read_metrics(folder / "metrics.jsonl"),
            settings=settings,
            rows=[line for report in read_reports for line in (str(report), *report.notes)],
            seeds=seeds,
            summaries=summaries,
            folds=folds,
            sections=sections,
        )
        paths.append(path)
    return paths
