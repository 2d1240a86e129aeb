"""The step: the same on every mesh, sharded throughout, exact under accumulation, unaffected by non-finite losses."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stub_lm import LAYERS, StubLM, build, make_batch, mesh_of

from deberta_jax.errors import InputError
from deberta_jax.model.shardings import shardings
from deberta_jax.pretraining.objectives import masked_lm_objective
from deberta_jax.sharding import make_mesh
from deberta_jax.training.config import OptimizerConfig
from deberta_jax.training.losses import cross_entropy
from deberta_jax.training.objective import Sums
from deberta_jax.training.optimizer import learning_rate, make_optimizer
from deberta_jax.training.state import abstract_state, initial_state
from deberta_jax.training.step import check_batch_size, make_evaluation, make_step, place

STEPS = 3
CONFIG = OptimizerConfig(learning_rate=0.01, warmup=0.0, clip_norm=1.0)
OPTIMIZER = make_optimizer(CONFIG, STEPS)


def build_with_dropout(key):
    return StubLM(key=key, dropout=0.3)


def sums(model, batch, number):
    """The evaluation of `masked_lm_objective`."""
    return masked_lm_objective(model, batch, None)


@functools.cache
def step_of(mesh, build=build, accumulate=1, objective=masked_lm_objective):
    """A step, compiled once for all tests."""
    state_shardings = shardings(abstract_state(build, OPTIMIZER, 0, mesh), mesh)
    return make_step(objective, OPTIMIZER, learning_rate(CONFIG, STEPS), state_shardings, accumulate)


def trained(mesh, build=build, accumulate=1):
    step, state = step_of(mesh, build, accumulate), initial_state(build, OPTIMIZER, 0, mesh)
    history = []
    for number in range(STEPS):
        state, metrics = step(state, place(make_batch(number), mesh))
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


@pytest.fixture(scope="module")
def alone(standard_promotion):
    """Trained on one device."""
    return trained(mesh_of(1, 1, 1))


def assert_same_training(actual, expected):
    for metrics, reference in zip(actual[1], expected[1], strict=True):
        assert metrics == pytest.approx(reference, rel=1e-5, abs=1e-6)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5),
        *map(jax.device_get, (actual[0].model, expected[0].model)),
    )


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (1, 1, 2), (2, 2, 2)])
def test_every_mesh_trains_as_one_device_does(shape, alone):
    assert_same_training(trained(mesh_of(*shape)), alone)


@pytest.mark.parametrize(("shape", "accumulate"), [((2, 2, 1), 2), ((1, 8, 1), 3)])
def test_accumulated_micro_batches_equal_one_batch(shape, accumulate, alone):
    assert_same_training(trained(mesh_of(*shape), accumulate=accumulate), alone)


def test_the_loss_falls_and_the_accuracy_rises(alone):
    _, history = alone
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["accuracy"] > history[0]["accuracy"]


@pytest.mark.parametrize("shape", [(1, 8, 1), (2, 2, 2)])
def test_every_leaf_of_the_state_is_sharded_like_its_parameter(shape):
    mesh = mesh_of(*shape)
    step, state = step_of(mesh), initial_state(build, OPTIMIZER, 0, mesh)
    for _ in range(3):
        assert [leaf.sharding for leaf in jax.tree.leaves(state)] == jax.tree.leaves(shardings(state, mesh))
        moments = state.optimizer_state[1]
        for name in ("embedding", "up", "down", "scale", "bias"):
            expected = getattr(state.model, name).get_value().sharding
            assert getattr(moments.mu, name).get_value().sharding == expected
            assert getattr(moments.nu, name).get_value().sharding == expected
        assert not state.model.up.get_value().sharding.is_fully_replicated
        state, _ = step(state, place(make_batch(0), mesh))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_an_fsdp_step_gathers_parameters_only(accumulate):
    mesh = mesh_of(1, 8, 1)
    state = abstract_state(build, OPTIMIZER, 0, mesh)
    text = step_of(mesh, accumulate=accumulate).lower(state, place(make_batch(0), mesh)).compile().as_text()
    gathered = gathered_shapes(text)
    parameters = {leaf.shape for leaf in jax.tree.leaves(state.model)}
    one_layer = {(1, *shape[1:]) for shape in parameters if shape[0] == LAYERS}
    assert gathered, "nothing is gathered: the parameters were not split"
    assert {tuple(sorted(shape)) for shape in gathered} <= {
        tuple(sorted(shape)) for shape in parameters | one_layer | {s[1:] for s in one_layer}
    }


def gathered_shapes(text):
    """Shapes of all results of all-gathers in a compiled program."""
    results = re.findall(r"= (\(?[^=]*?\)?) all-gather(?:-start)?\(", text)
    return {
        tuple(int(size) for size in dims.split(","))
        for result in results
        for dims in re.findall(r"\w+\[([\d,]+)\]", result)
    }


def test_dropout_is_the_same_on_every_mesh_and_differs_between_steps():
    mesh = mesh_of(1, 1, 1)
    state, history = trained(mesh, build_with_dropout)
    assert_same_training(trained(mesh_of(2, 2, 2), build_with_dropout), (state, history))

    evaluate = make_evaluation(sums, mesh)
    batch = place(make_batch(0), mesh)
    assert evaluate(state.model, batch).loss == evaluate(state.model, batch).loss
    loss = jax.jit(lambda key: masked_lm_objective(state.model, batch, key).loss)
    assert loss(jax.random.fold_in(state.key, 0)) != loss(jax.random.fold_in(state.key, 1))


def test_an_evaluation_returns_sums_that_add_up_over_batches():
    mesh = mesh_of(2, 2, 2)
    state = initial_state(build, OPTIMIZER, 0, mesh)
    evaluate = make_evaluation(sums, mesh)
    batch = make_batch(0)
    whole = evaluate(state.model, place(batch, mesh))
    parts = [
        evaluate(state.model, place({k: v[rows] for k, v in batch.items()}, mesh))
        for rows in (slice(0, 12), slice(12, 24))
    ]
    total = jax.tree.map(lambda *x: sum(x), *parts)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), whole, total)
    assert isinstance(whole, Sums)
    assert whole.weight == batch["label_weights"].sum()


def poisoned(model, batch, key):
    """The loss is infinite for batches with a segment 7; with a segment 8 it is finite, but its gradient is not."""
    sums = masked_lm_objective(model, batch, key)
    segment = jnp.max(batch["segment_ids"])
    zero = 0 * jnp.sum(model.embedding.get_value() ** 2)
    extra = jnp.where(segment == 7, jnp.inf, 0.0) + jnp.sqrt(jnp.where(segment == 8, zero, 1.0))
    return sums._replace(loss=sums.loss + extra)


def test_a_step_that_is_not_finite_changes_nothing_but_the_counters():
    mesh = mesh_of(2, 2, 2)
    step = step_of(mesh, objective=poisoned)
    state, _ = step(initial_state(build, OPTIMIZER, 0, mesh), place(make_batch(0), mesh))
    before = jax.device_get((state.model, state.optimizer_state))
    for row, segment in ((1, 7), (2, 8)):
        batch = make_batch(1) | {"segment_ids": np.full((24, 10), segment, np.int32)}
        state, metrics = step(state, place(batch, mesh))
        assert int(metrics["skipped_in_row"]) == row
        assert np.isfinite(metrics["loss"]) == (segment == 8)
        assert not np.isfinite(metrics["grad_norm"]) or segment == 7
        jax.tree.map(np.testing.assert_array_equal, jax.device_get((state.model, state.optimizer_state)), before)
    assert (int(state.step), int(state.skipped), int(state.skipped_in_row)) == (3, 2, 2)
    state, metrics = step(state, place(make_batch(1), mesh))
    assert (int(state.step), int(state.skipped), int(state.skipped_in_row)) == (4, 2, 0)
    assert np.isfinite(metrics["loss"])


def test_cross_entropy_is_the_negative_log_likelihood_of_the_label():
    logits = jnp.float32([[1.0, 2.0, -1.0], [0.0, 0.0, 40.0]])
    expected = -np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))[[0, 1], [1, 2]]
    np.testing.assert_allclose(cross_entropy(logits, jnp.array([1, 2])), expected, rtol=1e-6, atol=1e-7)
    # Classes are compared as int32: as int8, class 261 would equal class 5.
    many = jnp.zeros((1, 300)).at[0, 261].set(50.0)
    np.testing.assert_allclose(cross_entropy(many, jnp.array([5], jnp.int8)), [50.0], rtol=1e-6)


def test_a_batch_that_the_mesh_and_the_accumulation_do_not_divide_is_refused():
    with pytest.raises(
        InputError, match=r"batch_size is 30; it must be a multiple of 8 \(mesh data 2 x fsdp 2, accumulate 2\)"
    ):
        check_batch_size(30, mesh_of(2, 2, 2), 2)
    check_batch_size(32, mesh_of(2, 2, 2), 2)


def test_a_state_and_a_step_on_a_mesh_with_other_axes():
    axes, rules = ("x", "y"), {"embed": "x", "vocab": "y"}
    mesh = jax.make_mesh((4, 2), axes, axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with pytest.raises(InputError, match="pass `rules`"):
        initial_state(build, OPTIMIZER, 0, mesh)
    state = initial_state(build, OPTIMIZER, 0, mesh, rules=rules)
    state_shardings = shardings(state, mesh, rules)
    assert {leaf.sharding.spec for leaf in jax.tree.leaves(state)} > {jax.sharding.PartitionSpec()}
    step = make_step(masked_lm_objective, OPTIMIZER, learning_rate(CONFIG, STEPS), state_shardings)
    _, metrics = step(state, place(make_batch(0), mesh))
    default = make_mesh()
    _, expected = step_of(default)(initial_state(build, OPTIMIZER, 0, default), place(make_batch(0), default))
    assert float(metrics["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)


def test_a_state_of_a_model_on_one_device_is_sharded():
    mesh, model = mesh_of(2, 2, 2), build(jax.random.key(0))
    expected = [np.asarray(leaf) for leaf in jax.tree.leaves(model)]
    state = initial_state(build, OPTIMIZER, 0, mesh, model)
    leaves, targets = jax.tree.leaves(state.model), jax.tree.leaves(shardings(state.model, mesh))
    assert [leaf.sharding for leaf in leaves] == targets
    assert all(np.array_equal(leaf, array) for leaf, array in zip(leaves, expected, strict=True))
