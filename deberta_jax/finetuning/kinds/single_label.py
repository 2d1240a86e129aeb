"""Single-label classification: one of C labels for a text or a text pair."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deberta_jax.finetuning.features import Feature, Window, single_feature
from deberta_jax.finetuning.kinds.kind import CustomTable, Encoding, Kind, ReportContent
from deberta_jax.finetuning.mistakes import Mistake, log_loss, text_of
from deberta_jax.finetuning.objectives import classification_objective
from deberta_jax.finetuning.outcomes import Outcome, PredictedExample, outcome_pipeline
from deberta_jax.finetuning.sections import Section, calibration_section, class_sections, group_sections
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.classification import classification_pipeline
from deberta_jax.inference.encode import encode
from deberta_jax.inference.stream import Pipeline
from deberta_jax.tasks.custom_rows import SINGLE_LABEL as ROW_PARSER
from deberta_jax.tasks.examples import TextExample
from deberta_jax.tasks.metrics import single_label_scores
from deberta_jax.tokenizers.tokenizer import Tokenizer


def _targets(
    example: TextExample, windows: Sequence[Window], label_index: Mapping[str, int], max_length: int
) -> Iterator[Feature]:
    yield single_feature(windows[0], labels=np.int32(label_index[str(example.label)]), weights=np.float32(1))


def _pipeline(model: Any, tokenizer: Tokenizer, batching: Batching) -> Pipeline[Outcome]:
    def to_outcome(result: Any) -> Outcome:
        return Outcome(result.label, result.scores)

    return outcome_pipeline(classification_pipeline(model, tokenizer, batching=batching), to_outcome)


def _figures(folder: Path, predicted: Sequence[PredictedExample], labels: Sequence[str]) -> list[Section]:
    true = [str(item.example.label) for item in predicted]
    predictions = [str(item.prediction) for item in predicted]
    correct = [a == b for a, b in zip(true, predictions, strict=True)]
    sections = class_sections(folder, labels, true, predictions)
    confidences = [max(item.probabilities.values()) for item in predicted if item.probabilities]
    if len(confidences) == len(predicted):
        sections.append(calibration_section(folder, confidences, correct))
    return sections + group_sections(folder, [item.example for item in predicted], correct)


def _mistake(item: PredictedExample) -> Mistake:
    label, prediction = str(item.example.label), str(item.prediction)
    loss = log_loss((item.probabilities or {}).get(label, 0.0))
    return Mistake(0.0 if label == prediction else loss, label, prediction, text_of(item.example))


SINGLE_LABEL = Kind(
    name="single_label",
    head="sequence_classification",
    problem_type="single_label_classification",
    encoding=Encoding(encode, _targets),
    objective=classification_objective(),
    weighted_objective=classification_objective,
    classes=lambda example: (str(example.label),),
    pipeline=_pipeline,
    table=CustomTable(ROW_PARSER, single_label_scores, "accuracy"),
    report=ReportContent(_figures, _mistake, "loss"),
    predict_options='--text "..."',
)
