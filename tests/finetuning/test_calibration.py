"""Expected calibration error against a loop over bins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deberta_jax.finetuning.calibration import bins, calibration_error


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_error_is_the_mean_distance_over_bins(predictions):
    confidences, correct = zip(*predictions, strict=True)
    expected = 0.0
    for low in range(15):
        inside = [(p, hit) for p, hit in predictions if low / 15 < p <= (low + 1) / 15]
        if inside:
            distance = abs(np.mean([p for p, _ in inside]) - np.mean([hit for _, hit in inside]))
            expected += len(inside) / len(predictions) * distance
    assert calibration_error(confidences, correct) == pytest.approx(expected, abs=1e-6)
    assert sum(b.size for b in bins(confidences, correct)) == len(predictions)
