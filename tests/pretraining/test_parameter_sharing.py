"""Pretraining of layers that share their parameters, on every mesh."""

import dataclasses

import jax
import numpy as np
import pytest
from packed_batches import VOCABULARY, packed_batch
from small_models import V3
from small_states import state_of

from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.shardings import shardings
from deberta_jax.pretraining.objectives import masked_lm_objective
from deberta_jax.sharding import make_mesh
from deberta_jax.training.config import OptimizerConfig
from deberta_jax.training.optimizer import learning_rate, make_optimizer
from deberta_jax.training.state import abstract_state
from deberta_jax.training.step import make_step, place

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CONFIG = dataclasses.replace(V3, vocab_size=VOCABULARY, num_hidden_layers=4, num_hidden_groups=2, **NO_DROPOUT)
OPTIMIZER = OptimizerConfig(learning_rate=0.01, warmup=0.0)


def build(key):
    return MaskedLM(CONFIG, key=key)


def trained(shape, accumulate=1):
    """The losses of three steps, and the state after them."""
    mesh = make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])
    optimizer = make_optimizer(OPTIMIZER, 10)
    rules = shardings(abstract_state(build, optimizer, 0, mesh), mesh)
    step = make_step(masked_lm_objective, optimizer, learning_rate(OPTIMIZER, 10), rules, accumulate)
    state, losses = state_of(jax.jit(build)(jax.random.key(0)), build, optimizer, mesh), []
    for number in range(3):
        state, metrics = step(state, place(packed_batch(number, 8), mesh))
        losses.append(float(metrics["loss"]))
    return losses, state


@pytest.fixture(scope="module")
def alone(standard_promotion):
    return trained((1, 1, 1))


@pytest.mark.parametrize(("shape", "accumulate"), [((8, 1, 1), 1), ((1, 8, 1), 1), ((2, 2, 2), 2)])
def test_every_mesh_trains_as_one_device_does(shape, accumulate, alone):
    losses, state = trained(shape, accumulate)
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)
    for ours, expected in zip(jax.tree.leaves(state.model), jax.tree.leaves(alone[1].model), strict=True):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(expected), atol=2e-5)


def test_shared_parameters_exist_once_in_model_and_optimizer(alone):
    groups = {x.shape[0] for x in jax.tree.leaves(alone[1].model.deberta.encoder.layers)}
    assert groups == {2}
    size = sum(x.size for x in jax.tree.leaves(alone[1].model))
    moments = sum(x.size for x in jax.tree.leaves(alone[1].optimizer_state) if x.ndim)
    assert moments == 2 * size
