"""Regression: a number for a text or a text pair."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Array, Float

from deberta_jax.finetuning import figures
from deberta_jax.finetuning.config import Divergence
from deberta_jax.finetuning.features import Feature, Window, single_feature
from deberta_jax.finetuning.kinds.kind import Averaging, CustomTable, ReportContent
from deberta_jax.finetuning.kinds.text_kind import text_kind
from deberta_jax.finetuning.mistakes import Mistake, text_of
from deberta_jax.finetuning.objectives import Losses, head_outputs, weighted_objective
from deberta_jax.finetuning.outcomes import Outcome, PredictedExample
from deberta_jax.finetuning.sections import Figure, Section
from deberta_jax.inference.classification import Regression
from deberta_jax.tasks.custom_rows import REGRESSION as ROW_PARSER
from deberta_jax.tasks.examples import TextExample
from deberta_jax.tasks.metrics import regression_scores
from deberta_jax.training.losses import squared_error
from deberta_jax.training.objective import ArrayBatch


def _targets(
    example: TextExample, windows: Sequence[Window], label_index: Mapping[str, int], max_length: int
) -> Iterator[Feature]:
    assert isinstance(example.label, float | int)
    yield single_feature(windows[0], labels=np.float32(example.label), weights=np.float32(1))


def _losses(logits: Float[Array, "B 1"], batch: ArrayBatch) -> Losses:
    """Squared errors; `labels` [B] are floats."""
    return Losses(squared_error(logits[:, 0], batch["labels"]))


def _divergence(name: Divergence, logits: Float[Array, "B 1"], target: Float[Array, "B 1"]) -> Float[Array, "B"]:
    # The original implementation applies a softmax over the batch, which has no meaning (golden f06).
    return squared_error(logits[:, 0], target[:, 0])


_OBJECTIVE = weighted_objective(head_outputs, _losses, _divergence)


def _outcome(result: Regression) -> Outcome:
    return Outcome(result.value)


def _average(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(float(np.mean([outcome.prediction for outcome in outcomes])))


def _figures(folder: Path, predicted: Sequence[PredictedExample], labels: Sequence[str]) -> list[Section]:
    true = [float(item.example.label) for item in predicted]
    path = figures.scatter(true, [float(item.prediction) for item in predicted], folder / "numbers.png")
    return [Section("Numbers", figure=Figure(path, "Predicted against true numbers, and the errors"))]


def _mistake(item: PredictedExample) -> Mistake:
    true, predicted = item.example.label, item.prediction
    return Mistake(abs(predicted - true), f"{true:g}", f"{predicted:.3g}", text_of(item.example))


_REPORT = ReportContent(_figures, _mistake, "error")
_TABLE = CustomTable(ROW_PARSER, regression_scores, "spearman")

REGRESSION = text_kind("regression", "regression", _targets, _OBJECTIVE, _outcome, _REPORT, Averaging(_average), _TABLE)
