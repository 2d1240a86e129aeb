"""ROC AUC and average precision from histograms, compared with their definitions."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deberta_jax.pretraining.binned_metrics import BINS, average_precision, bin_counts, roc_auc


def binned(scores, replaced):
    scores, replaced = jnp.asarray(scores, jnp.float32), np.asarray(replaced)
    positives, negatives = (
        np.asarray(bin_counts(scores, jnp.asarray(kind)), np.float64) for kind in (replaced, ~replaced)
    )
    assert positives.sum() + negatives.sum() == len(scores)
    return roc_auc(positives, negatives), average_precision(positives, negatives)


def by_definition(scores, replaced):
    positives, negatives = scores[replaced], scores[~replaced]
    pairs = positives[:, None] - negatives[None]
    auc = np.mean((pairs > 0) + 0.5 * (pairs == 0))
    precision = {score: np.mean(replaced[scores >= score]) for score in np.unique(scores)}
    return auc, np.mean([precision[score] for score in positives])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(-2, 2), st.sampled_from([0.01, 1.0, 30.0]))
def test_binned_metrics_equal_their_definitions(seed, gap, scale):
    rng = np.random.default_rng(seed)
    replaced = rng.random(200) < 0.3
    replaced[:2] = True, False
    # Rounded to tenths, so that there are ties and both signs.
    scores = (np.round(rng.normal(gap * replaced, 1), 1) * scale).astype(np.float32)
    assert binned(scores, replaced) == pytest.approx(by_definition(scores, replaced), abs=1e-9)


def test_bins_resolve_scores_that_are_close_to_each_other():
    rng = np.random.default_rng(0)
    replaced = rng.random(5000) < 0.15
    scores = (-2 + 0.02 * rng.normal(0.5 * replaced, 1)).astype(np.float32)
    assert binned(scores, replaced) == pytest.approx(by_definition(scores, replaced), abs=2e-3)


def test_metrics_are_nan_without_positives_or_negatives():
    empty, full = np.zeros(BINS), np.ones(BINS)
    assert np.isnan([roc_auc(empty, full), roc_auc(full, empty), average_precision(empty, full)]).all()


def test_bins_keep_the_order_of_scores_around_zero_and_at_the_extremes():
    scores = np.float32([-3e38, -1, -1e-30, 0, 1e-30, 1, 3e38])
    for cut in range(1, len(scores)):
        assert binned(scores, np.arange(len(scores)) >= cut) == (1.0, 1.0)
