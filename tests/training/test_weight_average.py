"""The moving average of weights: that of a short loop, sharded as the weights, and part of the state that resumes."""

import itertools
import os
import signal

import jax
import numpy as np
import pytest
from stub_lm import StubLM, build, make_batch, mesh_of
from stub_runs import exact, lines_of
from train_stub import config, train_stub

from deberta_jax.errors import StopRequested
from deberta_jax.model.shardings import shardings
from deberta_jax.model.tree import named_leaves
from deberta_jax.pretraining.objectives import masked_lm_objective
from deberta_jax.training.config import OptimizerConfig, TrainingConfig
from deberta_jax.training.method import one_objective
from deberta_jax.training.state import initial_state
from deberta_jax.training.step import place
from deberta_jax.training.weight_average import averaged_model

DECAY, STEPS = 0.6, 6
OPTIMIZER = OptimizerConfig(learning_rate=0.01, warmup=0.0)


def method_of(decay=DECAY, accumulate=1, trainable=None):
    training = TrainingConfig(steps=STEPS, batch_size=24, accumulate=accumulate, optimizer=OPTIMIZER)
    return one_objective(training, build, masked_lm_objective, trainable, average_decay=decay)


def initial(method, mesh):
    return initial_state(method.build, method.optimizer, 0, mesh, average=method.average)


def train_states(method, mesh, poisoned=()):
    """The state after each step."""
    state = initial(method, mesh)
    step = method.make_step(shardings(state, mesh))
    states = [jax.device_get(state._replace(key=None))]
    for number in range(STEPS):
        batch = make_batch(number)
        if number in poisoned:
            batch["label_weights"][:] = np.nan
        state, _ = step(state, place(batch, mesh))
        states.append(jax.device_get(state._replace(key=None)))
    return states


def by_hand(states):
    """The average of a few steps in float64."""
    average = {name: np.asarray(x, np.float64) for name, x in named_leaves(states[0].model).items()}
    updates = 0
    for before, after in itertools.pairwise(states):
        if after.skipped > before.skipped:
            continue
        updates += 1
        decay = min(DECAY, (1 + updates) / (10 + updates))
        for name, x in named_leaves(after.model).items():
            average[name] = decay * average[name] + (1 - decay) * np.asarray(x, np.float64)
    return average


@pytest.fixture(scope="module")
def alone(standard_promotion):
    return train_states(method_of(), mesh_of(1, 1, 1))


@pytest.mark.parametrize("poisoned", [(), (2,)])
def test_the_average_is_that_of_a_short_loop_and_ignores_skipped_steps(poisoned, alone):
    states = train_states(method_of(), mesh_of(1, 1, 1), poisoned) if poisoned else alone
    assert states[-1].skipped == len(poisoned)
    for name, expected in by_hand(states).items():
        np.testing.assert_allclose(named_leaves(states[-1].average)[name], expected, rtol=1e-5, atol=1e-7)


def test_the_average_does_not_change_the_training(alone):
    plain = train_states(method_of(decay=0.0), mesh_of(1, 1, 1))
    # Another program, so the same up to rounding.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), plain[-1].model, alone[-1].model)


def test_without_an_average_the_arrays_of_the_state_are_the_same_as_before(alone):
    mesh = mesh_of(1, 1, 1)
    plain = named_leaves(initial(method_of(decay=0.0), mesh))
    averaged = named_leaves(initial(method_of(), mesh))
    assert not any(name.startswith("average") for name in plain)
    assert plain.keys() == {name for name in averaged if not name.startswith("average.")}


@pytest.mark.parametrize(("shape", "accumulate"), [((2, 2, 2), 1), ((1, 8, 1), 3)])
def test_on_a_mesh_and_accumulated_the_average_is_the_same_and_sharded_as_the_weights(shape, accumulate, alone):
    mesh = mesh_of(*shape)
    method = method_of(accumulate=accumulate)
    state = initial(method, mesh)
    assert [x.sharding for x in jax.tree.leaves(state.average)] == [x.sharding for x in jax.tree.leaves(state.model)]
    assert not state.average.up.get_value().sharding.is_fully_replicated
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5),
        train_states(method, mesh)[-1].average,
        alone[-1].average,
    )


def test_only_trained_parameters_are_averaged():
    def trainable(model):
        return jax.tree_util.tree_map_with_path(lambda path, _: "embedding" not in str(path), model)

    method = method_of(trainable=trainable)
    states = train_states(method, mesh_of(1, 1, 1))
    assert "embedding.value" not in named_leaves(states[-1].average) and "up.value" in named_leaves(states[-1].average)
    model = averaged_model(states[-1].average, states[-1].model)
    np.testing.assert_array_equal(model.embedding[...], states[0].model.embedding[...])
    np.testing.assert_array_equal(model.up[...], states[-1].average.up[...])
    assert isinstance(model, StubLM)


def test_the_average_is_evaluated_and_a_stopped_run_resumes_bit_for_bit(tmp_path, monkeypatch):
    settings = config(steps=STEPS, evaluate_every=2, checkpoint_every=100, optimizer=OPTIMIZER)
    method = method_of()
    step = {}

    def make_step(state_shardings):
        return step.setdefault("compiled", method.make_step(state_shardings))

    evaluated = {}

    def evaluate(number, model, check_stop):
        evaluated[number] = jax.device_get(model)
        return {"loss": float(sum(np.abs(x).sum() for x in jax.tree.leaves(evaluated[number])))}

    def run(folder):
        return train_stub(folder, settings, method=method._replace(make_step=make_step), evaluate=evaluate)

    whole = run(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, evaluated[STEPS], jax.device_get(whole.state.average))

    def make(number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return make_batch(number)

    with monkeypatch.context() as patch:
        patch.setattr("train_stub.make_batch", make)
        with pytest.raises(StopRequested):
            run(tmp_path / "stopped")
    resumed = run(tmp_path / "stopped")
    assert sorted(lines_of(tmp_path / "stopped", "held_out")) == [2, 4, 6]
    assert exact(tmp_path / "stopped", "held_out") == exact(tmp_path / "whole", "held_out")
    jax.tree.map(np.testing.assert_array_equal, *(jax.device_get(result.state.average) for result in (whole, resumed)))
