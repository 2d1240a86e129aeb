"""Whether probabilities mean what they say."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BINS = 15


class Bin(NamedTuple):
    """Predictions of like confidence: how many, their mean confidence, and the part that is right."""

    number: int
    confidence: float
    right: float


def bins(confidences: Sequence[float], right: Sequence[bool]) -> list[Bin]:
    """Predictions by confidence in bins of equal width, (0, 1/15], (1/15, 2/15], ...; empty ones left out."""
    p, hit = np.asarray(confidences, np.float64), np.asarray(right, np.float64)
    places = np.clip(np.ceil(p * BINS).astype(int) - 1, 0, BINS - 1)
    return [
        Bin(int(inside.sum()), float(p[inside].mean()), float(hit[inside].mean()))
        for place in range(BINS)
        if (inside := places == place).any()
    ]


def calibration_error(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """Expected calibration error: the mean over predictions of |right - confidence| of their bin (Guo et al. 2017)."""
    found = bins(confidences, right)
    whole = sum(one.number for one in found)
    return sum(one.number * abs(one.right - one.confidence) for one in found) / whole if whole else 0.0
