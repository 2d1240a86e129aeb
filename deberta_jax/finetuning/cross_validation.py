"""Cross-validation: out-of-fold predictions, and the ensemble of the models of all folds for the other splits."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from deberta_jax.errors import InputError
from deberta_jax.finetuning.ensemble import average_outcomes
from deberta_jax.finetuning.evaluate import OUT_OF_FOLD, Evaluation, predict_splits, score
from deberta_jax.finetuning.kinds.kind import Kind
from deberta_jax.finetuning.outcomes import Outcome
from deberta_jax.inference.buckets import Batching
from deberta_jax.tasks.submissions import write_objects
from deberta_jax.tasks.task import Task
from deberta_jax.tokenizers.tokenizer import Tokenizer

# Loads a model with its tokenizer.
Load = Callable[[], tuple[Any, Tokenizer]]


def check_folds(kind: Kind) -> None:
    """Raise InputError if the models of several folds cannot be averaged."""
    if kind.averaging is None:
        raise InputError(
            f"folds needs predictions that can be averaged, which tasks of kind {kind.name} do not have; use --seeds"
        )


def evaluate_folds(
    task: Task,
    kind: Kind,
    models: Iterable[Load],
    examples: Sequence[Any],
    folds: Int[np.ndarray, "B"],
    others: Mapping[str, Sequence[Any]],
    batching: Batching,
) -> tuple[list[Evaluation], float | None]:
    """Predict each example with the model that was not trained on it, and the other splits with the mean of all models.

    Returns the evaluations of the split "out_of_fold" and of the others, and the threshold of `evaluate.score`. Models
    are in memory one after the other.
    """
    out_of_fold: list[Outcome | None] = [None] * len(examples)
    ensemble: list[dict[str, Sequence[Outcome]]] = []
    for fold, load in enumerate(models):
        index = np.flatnonzero(folds == fold).tolist()
        splits = {OUT_OF_FOLD: [examples[number] for number in index], **others}
        outcomes = predict_splits(kind, *load(), splits, batching)
        for number, outcome in zip(index, outcomes.pop(OUT_OF_FOLD), strict=True):
            out_of_fold[number] = outcome
        ensemble.append(outcomes)
    complete = [outcome for outcome in out_of_fold if outcome is not None]
    averaged = average_outcomes(kind, ensemble) if others else {}
    return score(task, {OUT_OF_FOLD: examples, **others}, {OUT_OF_FOLD: complete, **averaged})


def write_out_of_fold(path: Path, evaluation: Evaluation, folds: Int[np.ndarray, "B"]) -> list[Path]:
    """Write one line of JSON per training example: id, fold, answer, prediction, and probabilities of labels."""

    def lines() -> Iterable[dict[str, Any]]:
        for example, outcome, fold in zip(evaluation.examples, evaluation.outcomes, folds.tolist(), strict=True):
            line = {"id": example.id, "fold": fold, "answer": example.answer}
            line["prediction"] = getattr(outcome.prediction, "text", outcome.prediction)
            shares = outcome.probabilities or {}
            if shares and all(isinstance(value, float) for value in shares.values()):
                line["probabilities"] = shares
            yield line

    return write_objects(path, lines())


def mean_lines(metrics: Sequence[Mapping[str, float]]) -> list[str]:
    """The mean and the standard deviation over folds of each metric, for the terminal."""
    lines = []
    for name in metrics[0]:
        values = [fold[name] for fold in metrics if name in fold]
        lines.append(
            f"{len(metrics)} folds: {name} mean {statistics.fmean(values):.4f}, standard deviation "
            f"{statistics.pstdev(values):.4f}"
        )
    return lines
