"""Calibration: whether probabilities agree with accuracies."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BINS = 15


class Bin(NamedTuple):
    """Predictions of similar confidence: how many, mean confidence and accuracy."""

    size: int
    confidence: float
    accuracy: float


def bins(confidences: Sequence[float], correct: Sequence[bool]) -> list[Bin]:
    """Predictions by confidence in bins of equal width, (0, 1/15], (1/15, 2/15], ...; empty bins are omitted."""
    p, hits = np.asarray(confidences, np.float64), np.asarray(correct, np.float64)
    numbers = np.clip(np.ceil(p * BINS).astype(int) - 1, 0, BINS - 1)
    return [
        Bin(int(inside.sum()), float(p[inside].mean()), float(hits[inside].mean()))
        for number in range(BINS)
        if (inside := numbers == number).any()
    ]


def calibration_error(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """Expected calibration error: the mean of |accuracy - confidence| over predictions, by bin (Guo et al. 2017)."""
    total = len(confidences)
    return sum(b.size * abs(b.accuracy - b.confidence) for b in bins(confidences, correct)) / total if total else 0.0
