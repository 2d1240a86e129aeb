"""Ordered levels, such as ratings from 1 to 5: the rows of a custom table, and metrics."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from deberta_jax.tasks.cells import number_in
from deberta_jax.tasks.columns import Columns
from deberta_jax.tasks.custom import RowParser
from deberta_jax.tasks.custom_rows import SINGLE_LABEL, parse_single_label
from deberta_jax.tasks.examples import PROBABILITIES, TextExample
from deberta_jax.tasks.metrics import labelled
from deberta_jax.tasks.rows import UnusableRow


def parse_ordinal(row_id: str, row: dict[str, Any], columns: Columns) -> TextExample:
    """A text or a pair with one level, a number, or with a probability for each level."""
    example = parse_single_label(row_id, row, columns)
    for level in (example.label, *example.extra.get(PROBABILITIES, ())):
        try:
            number_in(level)
        except UnusableRow as error:
            raise UnusableRow(f"{error}; the levels of kind ordinal are numbers in their order") from None
    return example


def ordinal_scores(examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Return the quadratic weighted kappa, the accuracy and the mean absolute error of levels."""
    _, labels, predicted = labelled(examples, predictions)
    true, other = np.asarray(labels, np.float64), np.asarray(predicted, np.float64)
    return {
        "quadratic_kappa": quadratic_kappa(true, other),
        "accuracy": float(np.mean(true == other)),
        "mean_absolute_error": float(np.abs(true - other).mean()),
    }


def quadratic_kappa(true: np.ndarray, predicted: np.ndarray) -> float:
    """Return 1 minus the mean squared difference over that of random pairs (Cohen 1968); 1 if all values are equal."""
    # The mean over all pairs (i, j) of (true_i - predicted_j)^2.
    chance = np.square(true).mean() + np.square(predicted).mean() - 2 * true.mean() * predicted.mean()
    return float(1 - np.square(true - predicted).mean() / chance) if chance > 1e-12 else 1.0


ORDINAL = RowParser(parse_ordinal, SINGLE_LABEL.input_columns, SINGLE_LABEL.answer_columns, SINGLE_LABEL.collect_labels)
