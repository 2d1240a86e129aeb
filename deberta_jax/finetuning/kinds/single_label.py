"""Single-label classification: one of C labels for a text or a text pair."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from deberta_jax.finetuning.features import Feature, Window, text_feature
from deberta_jax.finetuning.kinds.kind import Averaging, ClassWeighting, CustomTable, ReportContent
from deberta_jax.finetuning.kinds.text_kind import text_kind
from deberta_jax.finetuning.mistakes import Mistake, log_loss, text_of
from deberta_jax.finetuning.objectives import classification_objective
from deberta_jax.finetuning.outcomes import Outcome, PredictedExample, mean_probabilities
from deberta_jax.finetuning.sections import Section, calibration_section, class_sections, group_sections
from deberta_jax.finetuning.summary import Comparison, is_correct
from deberta_jax.inference.classification import Classification
from deberta_jax.tasks.custom_rows import SINGLE_LABEL as ROW_PARSER
from deberta_jax.tasks.examples import PROBABILITIES, TextExample
from deberta_jax.tasks.metrics import single_label_scores


def _targets(
    example: TextExample, windows: Sequence[Window], label_index: Mapping[str, int], max_length: int
) -> Iterator[Feature]:
    targets: dict[str, np.ndarray | np.generic] = {
        "labels": np.int32(label_index[str(example.label)]),
        "weights": np.float32(1),
    }
    if shares := example.extra.get(PROBABILITIES):
        targets[PROBABILITIES] = np.asarray([shares.get(label, 0.0) for label in label_index], np.float32)
    yield text_feature(windows, **targets)


def _outcome(result: Classification) -> Outcome:
    return Outcome(result.label, result.scores)


def _average(outcomes: Sequence[Outcome]) -> Outcome:
    probabilities = mean_probabilities(outcomes)
    return Outcome(max(probabilities, key=probabilities.__getitem__), probabilities)


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


SINGLE_LABEL = text_kind(
    "single_label",
    "single_label_classification",
    _targets,
    classification_objective(),
    _outcome,
    ReportContent(_figures, _mistake, "loss"),
    Averaging(_average, by_label=True),
    CustomTable(ROW_PARSER, single_label_scores, "accuracy"),
    ClassWeighting(classification_objective, lambda example: (str(example.label),)),
    comparison=Comparison(mean_metrics={"accuracy": is_correct}),
)
