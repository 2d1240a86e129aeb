"""Adversarial weight perturbation: weights move along their gradient by a share of their norm, from a given step on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_states import state_of
from task_batches import BATCHES, TOKENS
from toy_training import CONFIG, B, eight_devices, one_device

from deberta_jax.errors import InputError
from deberta_jax.finetuning.awp import awp, perturbed
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.objectives import plain_objective
from deberta_jax.finetuning.techniques import AwpConfig
from deberta_jax.model.heads import SequenceClassification
from deberta_jax.model.shardings import shardings
from deberta_jax.model.tree import named_leaves
from deberta_jax.training.config import OptimizerConfig, TrainingConfig
from deberta_jax.training.flops import count_flops
from deberta_jax.training.method import one_objective
from deberta_jax.training.step import mean_gradient, place

SETTINGS = AwpConfig(learning_rate=0.05, epsilon=1e6)
OBJECTIVE = plain_objective(KINDS["single_label"].objective)
BATCH = TOKENS | BATCHES["single_label"]


def build(key):
    """Without dropout, all passes of a step have the same masks."""
    return SequenceClassification(dataclasses.replace(CONFIG, cls_dropout=0.0), key=key)


@pytest.fixture(scope="module")
def classifier():
    return jax.jit(build)(jax.random.key(0))


def method_of(config, accumulate=1):
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup=0.0)
    training = TrainingConfig(steps=4, batch_size=B, accumulate=accumulate, optimizer=optimizer)
    rule = {} if config is None else {"rule": awp(config, training.steps)}
    return one_objective(training, build, OBJECTIVE, **rule)


def train_losses(config, classifier, mesh, steps=3, accumulate=1):
    """The metrics of each step."""
    method = method_of(config, accumulate)
    state = state_of(classifier, method.build, method.optimizer, mesh)
    step, history = method.make_step(shardings(state, mesh)), []
    # Optax mixes dtypes.
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(steps):
            state, metrics = step(state, place(BATCH, mesh))
            history.append({name: float(value) for name, value in metrics.items()})
    return history


def test_each_matrix_moves_along_its_gradient_by_a_share_of_its_norm(classifier):
    batch = jax.tree.map(jnp.asarray, BATCH)
    gradient = jax.jit(jax.grad(lambda model: OBJECTIVE(model, batch, None).loss))(classifier)
    moved = named_leaves(perturbed(SETTINGS, classifier, gradient))
    gradients = named_leaves(gradient)
    for name, w in named_leaves(classifier).items():
        w, g, v = np.asarray(w, np.float64), np.asarray(gradients[name], np.float64), np.asarray(moved[name]) - w
        if name.endswith(("bias.value", "scale.value")):
            assert not v.any()
            continue
        layers = range(len(w)) if ".layers." in name else [slice(None)]
        for layer in layers:
            norm = np.linalg.norm(g[layer])
            expected = 0.05 * np.linalg.norm(w[layer]) * g[layer] / norm if norm else 0 * g[layer]
            np.testing.assert_allclose(v[layer], expected, rtol=1e-3, atol=1e-7, err_msg=name)


def test_no_weight_moves_by_more_than_a_share_of_its_magnitude(classifier):
    config = AwpConfig(learning_rate=10.0, epsilon=0.01)
    moved = named_leaves(perturbed(config, classifier, jax.tree.map(jnp.ones_like, classifier)))
    for name, w in named_leaves(classifier).items():
        change = np.abs(np.asarray(moved[name]) - np.asarray(w))
        assert (change <= 0.01 * np.abs(np.asarray(w)) + 1e-7).all()
    assert (np.asarray(moved["classifier.kernel.value"]) != np.asarray(classifier.classifier.kernel[...])).any()


def test_the_gradient_of_a_step_is_that_at_the_perturbed_weights(classifier):
    batch = jax.tree.map(jnp.asarray, BATCH)
    where = jax.tree.map(lambda x: x.sharding, jax.device_put(classifier, jax.devices()[0]))

    def gradient_at(model, key):
        return mean_gradient(OBJECTIVE, model, batch, key, where, 1)

    def both(model):
        key = jax.random.key(0)
        _, clean = gradient_at(model, key)
        expected = gradient_at(perturbed(SETTINGS, model, clean), key)
        return awp(SETTINGS, 4)(gradient_at, model, jnp.zeros((), jnp.int32), key), expected

    (sums, gradient), (expected_sums, expected) = jax.jit(both)(classifier)
    assert float(sums.loss) == pytest.approx(float(expected_sums.loss), rel=1e-6)
    assert sums.loss > sums.metrics["task_loss"]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), gradient, expected)


def test_eight_devices_and_micro_batches_compute_the_same_losses_as_one_device(classifier):
    one = train_losses(SETTINGS, classifier, one_device())
    for other in (
        train_losses(SETTINGS, classifier, eight_devices()),
        train_losses(SETTINGS, classifier, one_device(), accumulate=2),
    ):
        for a, b in zip(one, other, strict=True):
            assert [a["loss"], a["task_loss"]] == pytest.approx([b["loss"], b["task_loss"]], rel=1e-4)


def test_before_the_start_a_step_is_a_plain_one(classifier):
    plain = train_losses(None, classifier, one_device())
    late = train_losses(dataclasses.replace(SETTINGS, start=0.5), classifier, one_device())
    # Of 4 steps, the third is the first one that is perturbed.
    for a, b in zip(plain[:2], late[:2], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert b["task_loss"] == pytest.approx(b["loss"], rel=1e-6)
    assert late[2]["loss"] > late[2]["task_loss"] == pytest.approx(plain[2]["loss"], rel=1e-5)


def test_a_step_costs_two_steps(classifier):
    def flops(config):
        mesh, method = one_device(), method_of(config)
        state = state_of(classifier, method.build, method.optimizer, mesh)
        with jax.numpy_dtype_promotion("standard"):
            return count_flops(method.make_step(shardings(state, mesh)), state, place(BATCH, mesh))

    assert flops(SETTINGS) / flops(None) == pytest.approx(2, rel=0.02)


def test_invalid_options_are_refused():
    for options, message in (
        ({"learning_rate": -1.0}, "awp.learning_rate is -1"),
        ({"epsilon": 0.0}, "awp.epsilon is 0.0; it must be positive"),
        ({"start": -1.0}, "awp.start is -1"),
    ):
        with pytest.raises(InputError, match=message):
            AwpConfig(**options)
