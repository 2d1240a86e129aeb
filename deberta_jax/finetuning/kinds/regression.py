"""Regression: a number, or several, for a text or a text pair."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Array, Float

from deberta_jax.finetuning import figures
from deberta_jax.finetuning.baselines import mean_number
from deberta_jax.finetuning.config import Divergence
from deberta_jax.finetuning.features import Feature, Window, text_feature
from deberta_jax.finetuning.kinds.kind import Averaging, CustomTable, ReportContent
from deberta_jax.finetuning.kinds.text_kind import text_kind
from deberta_jax.finetuning.mistakes import Mistake, text_of
from deberta_jax.finetuning.objectives import Losses, head_outputs, weighted_objective
from deberta_jax.finetuning.outcomes import Outcome, PredictedExample
from deberta_jax.finetuning.sections import Figure, Section
from deberta_jax.finetuning.strata import BY_QUANTILE
from deberta_jax.finetuning.summary import Comparison
from deberta_jax.inference.classification import Regression
from deberta_jax.tasks.custom_rows import REGRESSION as ROW_PARSER
from deberta_jax.tasks.examples import TextExample
from deberta_jax.tasks.metrics import regression_scores
from deberta_jax.training.losses import squared_error
from deberta_jax.training.objective import ArrayBatch


def _targets(
    example: TextExample, windows: Sequence[Window], label_index: Mapping[str, int], max_length: int
) -> Iterator[Feature]:
    yield text_feature(windows, labels=np.asarray(example.label, np.float32), weights=np.float32(1))


def _losses(logits: Float[Array, "B C"], batch: ArrayBatch) -> Losses:
    """Squared errors, their mean over several numbers; `labels` are floats, [B] or [B, C]."""
    return Losses(squared_error(logits, batch["labels"].reshape(logits.shape)).mean(-1))


def _divergence(name: Divergence, logits: Float[Array, "B C"], target: Float[Array, "B C"]) -> Float[Array, "B"]:
    # The original implementation applies a softmax over the batch, which has no meaning (golden f06).
    return squared_error(logits, target).mean(-1)


_OBJECTIVE = weighted_objective(head_outputs, _losses, _divergence)


def _outcome(result: Regression) -> Outcome:
    return Outcome(tuple(result.values.values()) if len(result.values) > 1 else result.value)


def _average(outcomes: Sequence[Outcome]) -> Outcome:
    mean = np.asarray([outcome.prediction for outcome in outcomes], np.float64).mean(0).tolist()
    return Outcome(tuple(mean) if isinstance(mean, list) else mean)


def _figures(folder: Path, predicted: Sequence[PredictedExample], labels: Sequence[str]) -> list[Section]:
    sections = []
    size = len(np.atleast_1d(predicted[0].prediction)) if predicted else 1
    names = labels if len(labels) == size else [str(index) for index in range(size)]
    for index, label in enumerate(names):
        true = [float(np.atleast_1d(item.example.label)[index]) for item in predicted]
        values = [float(np.atleast_1d(item.prediction)[index]) for item in predicted]
        path = figures.scatter(true, values, folder / (f"numbers-{index}.png" if size > 1 else "numbers.png"))
        title = "Numbers" if size == 1 else f"Numbers of {label}"
        sections.append(Section(title, figure=Figure(path, "Predicted against true numbers, and the errors")))
    return sections


def _mistake(item: PredictedExample) -> Mistake:
    true, predicted = np.atleast_1d(item.example.label), np.atleast_1d(item.prediction)
    listed = ", ".join(f"{value:g}" for value in true), ", ".join(f"{value:.3g}" for value in predicted)
    return Mistake(float(np.abs(predicted - true).mean()), *listed, text_of(item.example))


_REPORT = ReportContent(_figures, _mistake, "error", loss="squared error")
_TABLE = CustomTable(ROW_PARSER, regression_scores, "spearman")

REGRESSION = text_kind(
    "regression",
    "regression",
    _targets,
    _OBJECTIVE,
    _outcome,
    _REPORT,
    Averaging(_average),
    _TABLE,
    stratification=BY_QUANTILE,
    comparison=Comparison(mean_number),
)
