"""Multiple choice: one of several pairs of texts."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, PRNGKeyArray

from deberta_jax.finetuning.baselines import most_frequent_choice
from deberta_jax.finetuning.features import Feature, Window, text_feature
from deberta_jax.finetuning.kinds.kind import Averaging, CustomTable, Encoding, Kind, ReportContent
from deberta_jax.finetuning.mistakes import Mistake, joined, log_loss
from deberta_jax.finetuning.objectives import (
    IMPOSSIBLE,
    categorical_divergence,
    classification_losses,
    head_outputs,
    weighted_objective,
)
from deberta_jax.finetuning.outcomes import Outcome, PredictedExample, mean_probabilities
from deberta_jax.finetuning.sections import Section, calibration_section, group_sections
from deberta_jax.finetuning.strata import BY_LABEL
from deberta_jax.finetuning.summary import Comparison, is_correct
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.encode import EncodedRow, EncodedRows, encode
from deberta_jax.inference.multiple_choice import choice_logits
from deberta_jax.inference.stream import Pipeline
from deberta_jax.model.multiple_choice import MultipleChoice
from deberta_jax.tasks.custom_choices import MULTIPLE_CHOICE as ROW_PARSER
from deberta_jax.tasks.examples import ChoiceExample
from deberta_jax.tasks.metrics import accuracy
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.objective import ArrayBatch


def _encode(tokenizer: Tokenizer, inputs: Sequence[tuple], max_length: int) -> EncodedRows:
    return encode(tokenizer, inputs, texts_of=lambda example: list(example[0]), max_length=max_length)


def _targets(
    example: ChoiceExample, windows: Sequence[Window], label_index: Mapping[str, int], max_length: int
) -> Iterator[Feature]:
    yield text_feature(windows, labels=np.int32(example.label or 0), weights=np.float32(1))


def _outputs(model: Any, batch: ArrayBatch, key: PRNGKeyArray | None) -> Float[Array, "B M"]:
    """Logits of the choices; one without tokens is padding."""
    logits = head_outputs(model, batch, key)
    return jnp.where(batch["attention_mask"].any(-1), logits, jnp.asarray(IMPOSSIBLE, logits.dtype))


def _pipeline(model: MultipleChoice, tokenizer: Tokenizer, batching: Batching) -> Pipeline[Outcome]:
    def read(inputs: tuple, rows: list[EncodedRow]) -> Outcome:
        probabilities = scipy.special.softmax(np.asarray([row.outputs for row in rows], np.float64))
        by_index = {str(index): value for index, value in enumerate(probabilities.tolist())}
        return Outcome(int(probabilities.argmax()), by_index)

    return Pipeline(model, tokenizer, choice_logits, _encode, read, batching)


def _average(outcomes: Sequence[Outcome]) -> Outcome:
    probabilities = mean_probabilities(outcomes)
    return Outcome(int(max(probabilities, key=probabilities.__getitem__)), probabilities)


def _figures(folder: Path, predicted: Sequence[PredictedExample], labels: Sequence[str]) -> list[Section]:
    correct = [item.prediction == item.example.label for item in predicted]
    confidences = [max(item.probabilities.values()) for item in predicted if item.probabilities]
    sections = group_sections(folder, [item.example for item in predicted], correct)
    if len(confidences) == len(predicted):
        return [calibration_section(folder, confidences, correct), *sections]
    return sections


def _mistake(item: PredictedExample) -> Mistake:
    label, prediction, pairs = item.example.label, item.prediction, item.example.pairs
    loss = log_loss((item.probabilities or {}).get(str(label), 0.0))
    severity = 0.0 if prediction == label else loss
    return Mistake(severity, str(label), f"{prediction}: {joined(*pairs[prediction])}", joined(*pairs[label]))


MULTIPLE_CHOICE = Kind(
    name="multiple_choice",
    head="multiple_choice",
    encoding=Encoding(_encode, _targets, several_sequences=True),
    objective=weighted_objective(_outputs, classification_losses, categorical_divergence),
    pipeline=_pipeline,
    averaging=Averaging(_average),
    table=CustomTable(ROW_PARSER, accuracy, "accuracy"),
    report=ReportContent(_figures, _mistake, "loss"),
    stratification=BY_LABEL,
    comparison=Comparison(most_frequent_choice, mean_metrics={"accuracy": is_correct}),
    predict_options='--text "..." --choices "..." "..."',
)
