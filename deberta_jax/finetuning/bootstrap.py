"""Confidence intervals of a metric: percentiles over sets drawn with replacement (the bootstrap, Efron 1979).

Shares of correct answers have Wilson's interval (1927), which is valid for few examples and for shares of 0 and 1, too.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_SEED = 0
_ENDS = 0.025, 0.975
# The quantile of the normal distribution at the upper end.
_NORMAL = 1.959964
# Sets for a mean of values and for any metric, and the largest size of a set. Larger data sets are drawn in sets of
# this size, and the width of the interval is scaled (the m-out-of-n bootstrap), so that the time is bounded.
_MEAN_SETS, _MEAN_SIZE = 1000, 20_000
_SETS, _SIZE = 300, 500


class Interval(NamedTuple):
    """The ends of a 95 % confidence interval."""

    low: float
    high: float


def mean_interval(values: Float[np.ndarray, "B"]) -> Interval:
    """The interval of the mean of one value per example."""
    if set(np.unique(values).tolist()) <= {0.0, 1.0}:
        return _share_interval(float(values.mean()), len(values))
    return _interval(
        float(values.mean()), len(values), lambda index: float(values[index].mean()), _MEAN_SETS, _MEAN_SIZE
    )


def metric_interval(score: Callable[[Int[np.ndarray, "M"]], float], value: float, size: int) -> Interval:
    """The interval of a metric with a value on `size` examples; `score(index)` is the metric of some of them."""
    with warnings.catch_warnings():
        # A set may lack classes.
        warnings.simplefilter("ignore")
        return _interval(value, size, score, _SETS, _SIZE)


def _share_interval(share: float, size: int) -> Interval:
    """Wilson's score interval."""
    weight = 1 + _NORMAL**2 / size
    center = (share + _NORMAL**2 / (2 * size)) / weight
    half = _NORMAL * float(np.sqrt(share * (1 - share) / size + _NORMAL**2 / (4 * size**2))) / weight
    return Interval(max(center - half, 0.0), min(center + half, 1.0))


def _interval(
    value: float, size: int, score: Callable[[Int[np.ndarray, "M"]], float], sets: int, most: int
) -> Interval:
    random = np.random.default_rng(_SEED)
    drawn = min(size, most)
    scores = np.asarray([score(random.integers(0, size, drawn)) for _ in range(sets)])
    low, high = np.quantile(scores, _ENDS).tolist()
    if drawn < size:
        center, scale = float(np.median(scores)), float(np.sqrt(drawn / size))
        low, high = value + scale * (low - center), value + scale * (high - center)
    return Interval(low, high)
