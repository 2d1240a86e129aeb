"""Baselines of language models: constant predictions at the predicted positions of held-out text."""

import math

import numpy as np
import pytest

from deberta_jax.pretraining.baselines import LabelBaselines, label_baselines
from deberta_jax.pretraining.program import OBJECTIVES

BATCH = {"labels": np.array([[5, 5, 7, 0], [7, 7, 5, 0]]), "label_weights": np.array([[1, 1, 1, 0], [1, 0, 0, 0]])}


def test_labels_are_counted_at_predicted_positions_only():
    baselines = label_baselines([BATCH, BATCH], "", vocab_size=100)
    assert baselines == pytest.approx((math.log(100), math.log(2), 0.5))
    prefixed = {f"masked/{name}": value for name, value in BATCH.items()}
    assert label_baselines([prefixed], "masked/", 100) == pytest.approx(baselines)


def test_the_best_constant_is_below_any_other_constant_prediction():
    labels = np.array([1, 1, 1, 2, 2, 3])
    best = label_baselines([{"labels": labels, "label_weights": np.ones(6)}], "", 10).constant_loss
    for shares in (3, 2, 1), (1, 1, 1), (4, 1, 1), (2, 2, 2):
        assert best <= -np.mean(np.log(np.divide(shares, sum(shares))[labels - 1])) + 1e-12


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_loss_and_accuracy_has_a_title_a_unit_and_a_baseline(objective):
    curves = OBJECTIVES[objective].curves(lambda prefix: LabelBaselines(8.0, 6.0, 0.04))
    assert len({curve.title for curve in curves.values()}) == len(curves)
    for name, curve in curves.items():
        assert curve.title and curve.label and curve.baselines
        if name.endswith("loss"):
            assert "nats per " in curve.label and "best constant" in curve.baselines
        elif name.endswith("accuracy"):
            assert curve.percent and curve.baselines == {"majority-class baseline": 0.04}
        else:
            assert (name, curve.label, curve.baselines) == ("auc", "ROC AUC", {"guessing": 0.5})
