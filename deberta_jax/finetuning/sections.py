"""Sections of a report, and those that several kinds of task share."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deberta_jax.errors import list_names
from deberta_jax.finetuning import figures
from deberta_jax.finetuning.calibration import bins, calibration_error

# What a table shows for a value that is not defined.
NO_VALUE = "–"
# Rows of a table of confused pairs.
_MAX_PAIRS = 15
# With more groups than this, a figure by group is unreadable.
_MAX_GROUPS = 40


class Figure(NamedTuple):
    """A PNG file and its description for readers who cannot see it."""

    path: Path
    description: str


class Table(NamedTuple):
    """Rows of texts and numbers; columns of numbers are aligned to the right."""

    header: tuple[str, ...]
    rows: Sequence[Sequence[str | float | int]]


class Section(NamedTuple):
    """A title, and below it a paragraph, a figure and a table, each optional."""

    title: str
    text: str = ""
    figure: Figure | None = None
    table: Table | None = None


def class_sections(
    folder: Path, labels: Sequence[str], true: Sequence[str], predicted: Sequence[str], *, title: str = "Classes"
) -> list[Section]:
    """The confusion matrix, the most confused pairs, and precision, recall and F1 of each class.

    `true` and `predicted` have one class per example.
    """
    from sklearn.metrics import confusion_matrix

    names = list(dict.fromkeys([*labels, *true, *predicted]))
    unused = [name for name in names if name not in {*true, *predicted}]
    sections = []
    if 1 < len(names) - len(unused) <= figures.MAX_CLASSES:
        matrix = confusion_matrix(true, predicted, labels=names)
        path = figures.confusion(matrix, names, folder / "confusion.png")
        text = f"Labels without examples and predictions are not shown: {list_names(unused)}." if unused else ""
        sections.append(Section("Confusion", text, Figure(path, "Predicted by true label")))
    if len(names) > 2:
        sections += confused_pairs(true, predicted, unit="examples")
    return [*sections, Section(title, table=class_table(names, true, predicted))]


def confused_pairs(true: Sequence[str], predicted: Sequence[str], *, unit: str) -> list[Section]:
    """The most frequent wrong predictions; no section if there are none."""
    pairs = Counter((a, b) for a, b in zip(true, predicted, strict=True) if a != b)
    if not pairs:
        return []
    rows = [(a, b, count) for (a, b), count in pairs.most_common(_MAX_PAIRS)]
    return [Section("Most confused", table=Table(("true", "predicted", unit), rows))]


def class_table(names: Sequence[str], true: Sequence[str], predicted: Sequence[str], *, header: str = "label") -> Table:
    """Precision, recall, F1 and counts of the classes `names`; `true` and `predicted` may contain other names.

    The scores of a class without examples are not defined.
    """
    from sklearn.metrics import precision_recall_fscore_support

    scores = precision_recall_fscore_support(true, predicted, labels=list(names), zero_division=0.0)
    precision, recall, f1, support = (values.tolist() for values in scores)
    counts = Counter(predicted)
    rows: list[tuple[str | float | int, ...]] = []
    for name, *values, number in zip(names, precision, recall, f1, support, strict=True):
        rows.append((name, *(values if number else [NO_VALUE] * len(values)), number, counts[name]))
    return Table((header, "precision", "recall", "F1", "true", "predicted"), rows)


def calibration_section(folder: Path, confidences: Sequence[float], correct: Sequence[bool]) -> Section:
    """The accuracy by confidence, and the expected calibration error."""
    error = calibration_error(confidences, correct)
    path = figures.reliability(bins(confidences, correct), error, folder / "calibration.png")
    text = f"Expected calibration error {error:.3f}: the mean difference between confidence and accuracy."
    return Section("Calibration", text, Figure(path, "Accuracy by confidence"))


def group_sections(folder: Path, examples: Sequence[Any], correct: Sequence[bool]) -> list[Section]:
    """The accuracy of each group of examples, if there are several."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for example, is_correct in zip(examples, correct, strict=True):
        groups[example.group].append(is_correct)
    if not 1 < len(groups) <= _MAX_GROUPS:
        return []
    values = {name or "none": float(np.mean(values)) for name, values in sorted(groups.items())}
    path = figures.bars(values, "accuracy", folder / "groups.png", title="Accuracy by group")
    return [Section("Groups", figure=Figure(path, "Accuracy by group"))]
