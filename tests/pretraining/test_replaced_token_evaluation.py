"""Held-out metrics of a generator and a discriminator, and the warning about a collapsed discriminator."""

import jax
import numpy as np
import pytest
from packed_batches import packed_batch
from toy_configs import toy_config

from deberta_jax.model.pair import initial_pair
from deberta_jax.pretraining.config import generator_config
from deberta_jax.pretraining.replaced_token_evaluation import (
    collapse_warning,
    evaluate_pair,
    prior_loss,
    summarize,
)
from deberta_jax.training.config import OptimizerConfig, TrainingConfig

CONFIG = toy_config(relative_attention=False, position_biased_input=True)


def test_sums_of_held_out_batches_add_up_and_do_not_depend_on_when_they_are_computed():
    pair = jax.jit(lambda key: initial_pair(generator_config(CONFIG), CONFIG, key=key))(jax.random.key(3))
    evaluate = jax.jit(evaluate_pair)
    batch, half = packed_batch(5, 16), np.arange(16)[:, None] < 8
    emptied = {"segment_ids": 0, "label_weights": 0}
    parts = [
        batch | {name: np.where(rows, batch[name], empty).astype(batch[name].dtype) for name, empty in emptied.items()}
        for rows in (half, ~half)
    ]
    whole = evaluate(pair, batch, 0)
    sums = [jax.tree.map(np.float64, evaluate(pair, part, 0)) for part in parts]
    metrics = summarize(jax.tree.map(np.float64, whole))
    assert summarize(jax.tree.map(np.add, *sums)) == pytest.approx(metrics, rel=1e-5, abs=1e-6)
    assert metrics["gain"] == pytest.approx(prior_loss(metrics["replaced"]) - metrics["discriminator_loss"])
    assert 0 < metrics["spread"] <= 1
    jax.tree.map(np.testing.assert_array_equal, whole, evaluate(pair, batch, 0))
    assert evaluate(pair, batch, 1).discriminator.loss != whole.discriminator.loss


def test_a_collapsed_discriminator_gives_a_warning_after_the_warm_up():
    training = TrainingConfig(steps=10, optimizer=OptimizerConfig(warmup=4.0))

    def warning(step, auc, spread):
        return collapse_warning(training, step, {"auc": auc, "spread": spread})

    assert warning(4, 0.51, 0.2) is None
    assert "has collapsed, or is still untrained: AUC 0.510, chance is 0.5" in warning(5, 0.51, 0.2)
    assert "has collapsed: all tokens have nearly the same state (spread 0.0010)" in warning(5, 0.9, 0.001)
    assert "AUC nan" in warning(5, float("nan"), 0.2)
    assert warning(5, 0.8, 0.2) is None
