"""Pretraining of language models (`clm`, `mt`) on every mesh, and the numbers of masked and auto-regressive rows."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_batches import VOCABULARY, packed_batch
from small_models import V3
from small_states import state_of

from deberta_jax.data.language_modeling import Directions, OrderSequence
from deberta_jax.data.packing import PackedSequence
from deberta_jax.errors import InputError
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.shardings import shardings
from deberta_jax.pretraining import objectives
from deberta_jax.pretraining.config import MixedConfig
from deberta_jax.pretraining.mt import MASKED, ORDERED, both_sums, mixed_lm_objective
from deberta_jax.pretraining.objectives import causal_lm_objective, masked_lm_objective
from deberta_jax.sharding import make_mesh
from deberta_jax.training.losses import cross_entropy
from deberta_jax.training.state import abstract_state
from deberta_jax.training.step import make_step, place

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CONFIG = dataclasses.replace(V3, vocab_size=VOCABULARY, num_hidden_layers=2, **NO_DROPOUT)
# Gradients that differ by rounding give updates that do; Adam would divide small ones by their own size.
OPTIMIZER = optax.sgd(0.5)
ROWS = 8


def build(key):
    return MaskedLM(CONFIG, key=key)


def ordered_batch(number):
    """Sequences in all directions, two documents each, of different lengths."""
    packed, rng = packed_batch(number, ROWS), np.random.default_rng(number)
    make = OrderSequence(Directions(0.25, 0.25, 0.5))
    rows = [make(PackedSequence(*row), rng) for row in zip(packed["input_ids"], packed["segment_ids"], strict=True)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def mixed_batch(number):
    """As many masked sequences as auto-regressive ones."""
    masked, ordered = packed_batch(100 + number, ROWS), ordered_batch(number)
    return {MASKED + name: x for name, x in masked.items()} | {ORDERED + name: x for name, x in ordered.items()}


OBJECTIVES = {"clm": (causal_lm_objective, ordered_batch), "mt": (mixed_lm_objective, mixed_batch)}


def trained(objective, shape, accumulate=1):
    """The losses of two steps, and the state after them."""
    mesh = make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])
    rules = shardings(abstract_state(build, OPTIMIZER, 0, mesh), mesh)
    sums, batch = OBJECTIVES[objective]
    step = make_step(sums, OPTIMIZER, optax.constant_schedule(0.5), rules, accumulate)
    state, losses = state_of(jax.jit(build)(jax.random.key(0)), build, OPTIMIZER, mesh), []
    for number in range(2):
        state, metrics = step(state, place(batch(number), mesh))
        losses.append(float(metrics["loss"]))
    return losses, state


@pytest.fixture(scope="module")
def alone(standard_promotion):
    return {objective: trained(objective, (1, 1, 1)) for objective in OBJECTIVES}


@pytest.mark.parametrize(
    ("objective", "shape", "accumulate"),
    [
        ("clm", (2, 2, 2), 2),
        ("mt", (8, 1, 1), 1),
        ("mt", (1, 8, 1), 1),
        ("mt", (2, 1, 1), 4),
    ],
)
def test_every_mesh_trains_as_one_device_does(objective, shape, accumulate, alone):
    losses, state = trained(objective, shape, accumulate)
    expected_losses, expected_state = alone[objective]
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for ours, expected in zip(jax.tree.leaves(state.model), jax.tree.leaves(expected_state.model), strict=True):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(expected), atol=1e-6)


@pytest.mark.parametrize("chunk", [5, 128])
def test_the_loss_is_that_of_all_logits_in_chunks_of_any_size(chunk, monkeypatch):
    monkeypatch.setattr(objectives, "CHUNK", chunk)
    model, batch = build(jax.random.key(0)), jax.device_put(ordered_batch(0))

    def whole(model):
        inputs = {name: batch[name] for name in ("segment_ids", "position_ids", "order")}
        logits, weights = model(batch["input_ids"], **inputs), batch["label_weights"]
        correct = (weights * (logits.argmax(-1) == batch["labels"])).sum()
        return (weights * cross_entropy(logits, batch["labels"])).sum(), correct

    def chunked(model):
        sums = causal_lm_objective(model, batch, None)
        return sums.loss, sums.metrics["accuracy"]

    (loss, correct), gradients = jax.jit(jax.value_and_grad(chunked, has_aux=True))(model)
    (expected, expected_correct), expected_gradients = jax.jit(jax.value_and_grad(whole, has_aux=True))(model)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert float(correct) == float(expected_correct)
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(np.abs(b).max() + 1))


def test_both_kinds_count_by_their_weights():
    model, batch = build(jax.random.key(0)), jax.device_put(mixed_batch(0))
    both = jax.jit(lambda model: both_sums(model, batch, None))(model)
    mixed = jax.jit(lambda model: mixed_lm_objective(model, batch, None))(model)
    masked, ordered = map(jax.device_put, (packed_batch(100, ROWS), ordered_batch(0)))
    alone = [
        jax.jit(lambda model: masked_lm_objective(model, masked, None))(model),
        jax.jit(lambda model: causal_lm_objective(model, ordered, None))(model),
    ]
    for ours, expected in zip(both, alone, strict=True):
        np.testing.assert_allclose(ours.loss, expected.loss, rtol=1e-6)
        assert float(ours.weight) == float(expected.weight) and int(ours.tokens) == int(expected.tokens)
    np.testing.assert_allclose(mixed.loss, sum(float(part.loss) for part in both), rtol=1e-6)
    assert float(mixed.weight) == sum(float(part.weight) for part in both)


@given(share=st.floats(0.01, 0.99), rows=st.integers(1, 12), unit=st.integers(1, 8))
@settings(max_examples=200)
def test_masked_rows_are_a_multiple_of_the_unit_and_closest_to_their_share(share, rows, unit):
    config = MixedConfig(masked_share=share)
    if rows == 1:
        with pytest.raises(InputError, match=f"batch_size is {unit}; objective mt needs at least {2 * unit}"):
            config.masked_rows(unit, unit)
        return
    number = config.masked_rows(rows * unit, unit)
    assert number % unit == 0 and unit <= number <= (rows - 1) * unit
    distances = [abs(n * unit - share * rows * unit) for n in range(1, rows)]
    assert abs(number - share * rows * unit) <= min(distances) + 1e-9


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_a_share_outside_of_0_and_1_is_refused(share):
    with pytest.raises(InputError, match=r"mt.masked_share is .*; it must be between 0 and 1 \(objective mlm is 1"):
        MixedConfig(masked_share=share)
