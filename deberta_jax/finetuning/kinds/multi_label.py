"""Multi-label classification: any number of C labels for a text or a text pair."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from deberta_jax.finetuning.baselines import best_label_set
from deberta_jax.finetuning.features import Feature, Window, text_feature
from deberta_jax.finetuning.kinds.kind import Averaging, ClassWeighting, CustomTable, ReportContent
from deberta_jax.finetuning.kinds.text_kind import text_kind
from deberta_jax.finetuning.mistakes import Mistake, log_loss, text_of
from deberta_jax.finetuning.objectives import multi_label_objective
from deberta_jax.finetuning.outcomes import Outcome, PredictedExample, mean_probabilities
from deberta_jax.finetuning.sections import Section, calibration_section, class_table
from deberta_jax.finetuning.summary import Comparison
from deberta_jax.inference.classification import Classification, labels_above_half
from deberta_jax.tasks.custom_label_sets import MULTI_LABEL as ROW_PARSER
from deberta_jax.tasks.examples import PROBABILITIES, TextExample
from deberta_jax.tasks.metrics import multi_label_scores


def _targets(
    example: TextExample, windows: Sequence[Window], label_index: Mapping[str, int], max_length: int
) -> Iterator[Feature]:
    labels = np.zeros(len(label_index), np.float32)
    shares = example.extra.get(PROBABILITIES) or dict.fromkeys(_labels(example), 1.0)
    for label, share in shares.items():
        labels[label_index[label]] = share
    yield text_feature(windows, labels=labels, weights=np.float32(1))


def _labels(example: TextExample) -> tuple[str, ...]:
    assert isinstance(example.label, tuple)
    return tuple(map(str, example.label))


def _outcome(result: Classification) -> Outcome:
    return Outcome(tuple(result.labels), result.scores)


def _average(outcomes: Sequence[Outcome]) -> Outcome:
    probabilities = mean_probabilities(outcomes)
    return Outcome(tuple(labels_above_half(probabilities)), probabilities)


def _figures(folder: Path, predicted: Sequence[PredictedExample], labels: Sequence[str]) -> list[Section]:
    # One entry per example and label; an unassigned label is the empty name.
    pairs = [(item, label) for item in predicted for label in labels]
    true = [label if label in item.example.label else "" for item, label in pairs]
    predictions = [label if label in item.prediction else "" for item, label in pairs]
    sections = [Section("Classes", table=class_table(labels, true, predictions))]
    if all(item.probabilities for item in predicted):
        confidences, correct = [], []
        for item in predicted:
            for label, p in (item.probabilities or {}).items():
                confidences.append(max(p, 1 - p))
                correct.append((p > 0.5) == (label in item.example.label))
        sections.append(calibration_section(folder, confidences, correct))
    return sections


def _mistake(item: PredictedExample) -> Mistake:
    true, probabilities = item.example.label, item.probabilities or {}
    losses = [log_loss(p if label in true else 1 - p) for label, p in probabilities.items()]
    severity = 0.0 if set(true) == set(item.prediction) else max(losses, default=1.0)
    return Mistake(severity, ", ".join(true) or "none", ", ".join(item.prediction) or "none", text_of(item.example))


_REPORT = ReportContent(_figures, _mistake, "loss")
_TABLE = CustomTable(ROW_PARSER, multi_label_scores, "f1_micro")

MULTI_LABEL = text_kind(
    "multi_label",
    "multi_label_classification",
    _targets,
    multi_label_objective(),
    _outcome,
    _REPORT,
    Averaging(_average, by_label=True),
    _TABLE,
    ClassWeighting(multi_label_objective, _labels, independent=True),
    comparison=Comparison(best_label_set, lambda labels: (tuple(sorted(labels)),)),
)
