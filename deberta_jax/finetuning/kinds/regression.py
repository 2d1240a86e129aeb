"""Regression: a number for a text or a text pair."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from deberta_jax.finetuning import figures
from deberta_jax.finetuning.features import Feature, Window, single_feature
from deberta_jax.finetuning.kinds.kind import CustomTable, Encoding, Kind, ReportContent
from deberta_jax.finetuning.mistakes import Mistake, text_of
from deberta_jax.finetuning.objectives import Divergence, Losses, head_outputs, weighted_objective
from deberta_jax.finetuning.outcomes import Outcome, PredictedExample, outcome_pipeline
from deberta_jax.finetuning.sections import Figure, Section
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.classification import classification_pipeline
from deberta_jax.inference.encode import encode
from deberta_jax.inference.stream import Pipeline
from deberta_jax.tasks.custom_rows import REGRESSION as ROW_PARSER
from deberta_jax.tasks.examples import TextExample
from deberta_jax.tasks.metrics import regression_scores
from deberta_jax.tokenizers.tokenizer import Tokenizer
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


def _pipeline(model: Any, tokenizer: Tokenizer, batching: Batching) -> Pipeline[Outcome]:
    def to_outcome(result: Any) -> Outcome:
        return Outcome(result.value)

    return outcome_pipeline(classification_pipeline(model, tokenizer, batching=batching), to_outcome)


def _figures(folder: Path, predicted: Sequence[PredictedExample], labels: Sequence[str]) -> list[Section]:
    true = [float(item.example.label) for item in predicted]
    path = figures.scatter(true, [float(item.prediction) for item in predicted], folder / "numbers.png")
    return [Section("Numbers", figure=Figure(path, "Predicted against true numbers, and the errors"))]


def _mistake(item: PredictedExample) -> Mistake:
    true, predicted = item.example.label, item.prediction
    return Mistake(abs(predicted - true), f"{true:g}", f"{predicted:.3g}", text_of(item.example))


REGRESSION = Kind(
    name="regression",
    head="sequence_classification",
    problem_type="regression",
    encoding=Encoding(encode, _targets),
    objective=weighted_objective(head_outputs, _losses, _divergence),
    pipeline=_pipeline,
    table=CustomTable(ROW_PARSER, regression_scores, "spearman"),
    report=ReportContent(_figures, _mistake, "error"),
    predict_options='--text "..."',
)
