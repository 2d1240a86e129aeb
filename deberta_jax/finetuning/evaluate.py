"""What a model makes of the splits of a task, and the files that say so."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax.finetuning.best_model import predicted
from deberta_jax.finetuning.outcomes import Outcome
from deberta_jax.finetuning.report import Judged, write_report
from deberta_jax.inference.buckets import Batching
from deberta_jax.tasks.catalogue import Task
from deberta_jax.tasks.examples import Example, Prediction, ReadReport
from deberta_jax.tasks.squad_metrics import best_threshold
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.recorder import read_metrics


class Judgement(NamedTuple):
    """A split's examples, what is predicted for each, and the metrics; none where the split has no labels."""

    split: str
    examples: Sequence[Example]
    outcomes: Sequence[Outcome]
    metrics: Mapping[str, float]

    @property
    def predictions(self) -> list[Prediction]:
        return [outcome.prediction for outcome in self.outcomes]


def judgements(
    task: Task,
    model: Any,
    tokenizer: Tokenizer,
    splits: Mapping[str, Sequence[Example]],
    batching: Batching,
    threshold: float | None = None,
) -> tuple[list[Judgement], float | None]:
    """Each split judged, the first of them first; of questions without answers, by the threshold that suits that best.

    Returns the threshold, too, which another set of examples is to be judged by.
    """
    found = []
    for split, examples in splits.items():
        outcomes = predicted(task, model, tokenizer, examples, batching)
        assert outcomes is not None
        labelled = any(answer_of(example) is not None for example in examples)
        if task.may_lack_answers and threshold is None and labelled:
            threshold = best_threshold(examples, [outcome.prediction for outcome in outcomes])
        outcomes = [
            Outcome(task.decided(prediction, threshold or 0.0), _of_meant(task, probabilities))
            for prediction, probabilities in outcomes
        ]
        metrics = task.metrics(examples, [outcome.prediction for outcome in outcomes]) if labelled else {}
        found.append(Judgement(split, examples, outcomes, metrics))
    return found, threshold


def _of_meant(task: Task, probabilities: Mapping[str, float] | None) -> Mapping[str, float] | None:
    """Probabilities of a task's own labels, each the sum over those that mean it."""
    if probabilities is None or not task.meant:
        return probabilities
    summed: dict[str, float] = {}
    for label, value in probabilities.items():
        name = task.meant.get(label, label)
        summed[name] = summed.get(name, 0.0) + value
    return summed


def answer_of(example: Any) -> Any:
    """What is to be predicted for an example; None where its file does not say."""
    return next(getattr(example, name) for name in ("label", "tags", "answers") if hasattr(example, name))


def write_all(
    folder: Path,
    task: Task,
    labels: Sequence[str],
    found: Sequence[Judgement],
    *,
    title: str,
    settings: Mapping[str, Any],
    accounts: Sequence[ReadReport],
    threshold: float | None = None,
    seeds: Sequence[Mapping[str, float]] = (),
) -> list[Path]:
    """`metrics.json`, `rows.json`, `predictions/` and `report.html` in a folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics: dict[str, Any] = {judgement.split: dict(judgement.metrics) for judgement in found if judgement.metrics}
    if threshold is not None:
        metrics["no_answer_threshold"] = threshold
    written = [
        _json(folder / "metrics.json", metrics),
        _json(folder / "rows.json", [vars(account) for account in accounts]),
    ]
    for judgement in found:
        if task.data.write is not None:
            written += task.data.write(
                folder / "predictions", judgement.split, judgement.examples, judgement.predictions
            )
    judged = [judgement for judgement in found if judgement.metrics]
    if judged:
        first = judged[0]
        written.append(
            write_report(
                folder,
                title=title,
                kind=task.kind,
                labels=labels,
                best=task.best,
                judged=[
                    Judged(example, outcome.prediction, outcome.probabilities)
                    for example, outcome in zip(first.examples, first.outcomes, strict=True)
                ],
                metrics={
                    name if judgement is first else f"{judgement.split}: {name}": value
                    for judgement in judged
                    for name, value in judgement.metrics.items()
                },
                curve=read_metrics(folder / "metrics.jsonl"),
                settings=settings,
                accounts=[str(account) for account in accounts],
                seeds=seeds,
            )
        )
    return written


def _json(path: Path, values: Any) -> Path:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return path
