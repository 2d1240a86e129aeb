"""Replaced-token detection: who learns from what, and that all that holds of a step holds of it."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.errors import InputError
from deberta_jax.model.pair import initial_pair, tables
from deberta_jax.model.shardings import shardings
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.replaced_tokens import (
    RtdConfig,
    collapse_warning,
    detect,
    evaluate,
    generate,
    prior_loss,
    replaced,
    replaced_token_detection,
    summarize,
    with_draws,
)
from deberta_jax.sharding import make_mesh
from deberta_jax.training.losses import binary_cross_entropy
from deberta_jax.training.optimizer import OptimizerConfig
from deberta_jax.training.run import TrainingConfig
from deberta_jax.training.state import abstract_state, initial_state
from deberta_jax.training.step import place

CONFIG = dataclasses.replace(
    PRESETS["tiny"],
    vocab_size=352,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
)
GENERATOR = dataclasses.replace(CONFIG, num_hidden_layers=2)
ROWS, LENGTH, MASKED = 16, 18, 5
WORD = "deberta.embeddings.word.embedding"


def batch(number):
    rng = np.random.default_rng(number)
    positions = np.arange(LENGTH)
    first = positions < 11
    masked = np.tile(np.array([1, 4, 9, 12, 13]), (ROWS, 1))
    # Rows of different lengths, so that a mean of means would be wrong.
    ends = 14 + np.arange(ROWS)[:, None] % 4
    ids = rng.integers(5, 352, (ROWS, LENGTH))
    # A slot in four is not used: its position and its label say nothing.
    used = rng.random((ROWS, MASKED)) < 0.75
    used[:, 0] = True
    labels = np.where(used, np.take_along_axis(ids, masked, 1), 0)
    np.put_along_axis(ids, masked, np.where(used, 4, np.take_along_axis(ids, masked, 1)), 1)
    return {
        "input_ids": ids.astype(np.int32),
        "segment_ids": np.where(first, 1, np.where(positions < ends, 2, 0)).astype(np.int32),
        "position_ids": np.tile(np.where(first, positions, positions - 11), (ROWS, 1)).astype(np.int32),
        "masked_positions": np.where(used, masked, 0).astype(np.int32),
        "labels": labels.astype(np.int32),
        "label_weights": used.astype(np.float32),
    }


def arrays(number):
    return {name: jnp.asarray(values) for name, values in batch(number).items()}


def method_of(sharing="gdes", step="decoupled", accumulate=1, config=CONFIG, dtype=None, remat="none", **optimizer):
    rtd = RtdConfig(sharing=sharing, step=step, loss_weight=10.0, **optimizer.pop("rtd", {}))
    defaults = {"learning_rate": 0.01, "warmup": 0.0}
    training = TrainingConfig(steps=10, accumulate=accumulate, optimizer=OptimizerConfig(**(defaults | optimizer)))
    generator = dataclasses.replace(config, num_hidden_layers=2)

    def build(key):
        return initial_pair(generator, config, sharing, dtype=dtype, remat=remat, key=key)

    return replaced_token_detection(training, rtd, build)


def trained(method, shape=(1, 1, 1), steps=2):
    mesh = make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])
    step = method.make_step(shardings(abstract_state(method.build, method.optimizer, 0, mesh), mesh))
    state = initial_state(method.build, method.optimizer, 0, mesh)
    history = []
    for number in range(steps):
        state, metrics = step(state, place(batch(number), mesh))
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


def named(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@functools.cache
def alone(*way):
    """Two steps on one device."""
    return trained(method_of(*way))


def assert_same_training(ours, theirs):
    for mine, other in zip(ours[1], theirs[1], strict=True):
        assert mine == pytest.approx(other, rel=1e-4, abs=1e-5)
    mine, other = named(ours[0].model), named(theirs[0].model)
    assert set(mine) == set(other)
    for name, array in mine.items():
        np.testing.assert_allclose(array, other[name], rtol=1e-4, atol=1e-5, err_msg=name)


def pair_of(sharing):
    return initial_pair(GENERATOR, CONFIG, sharing, key=jax.random.key(3))


def losses_of(pair):
    """The gradient of each loss by every parameter of both models."""
    rows = with_draws(arrays(0), jax.random.key(0))

    def mlm(pair):
        return generate(pair.generator, rows, None).loss

    def rtd(pair):
        read = replaced(rows, generate(pair.generator, rows, None).rows["written"])
        return detect(pair.detector(), read, None).loss

    return {name: named(jax.jit(jax.grad(loss))(pair)) for name, loss in {"mlm": mlm, "rtd": rtd}.items()}


@pytest.mark.parametrize("sharing", ["gdes", "es", "none"])
def test_each_loss_moves_its_own_model_and_of_the_tables_what_sharing_says(sharing):
    by = losses_of(pair_of(sharing))
    moved = {loss: {name for name, slope in gradients.items() if np.any(slope)} for loss, gradients in by.items()}
    assert all(name.startswith("generator.") for name in moved["mlm"])
    beyond = {f"generator.{WORD}"} if sharing == "es" else set()
    assert {name for name in moved["rtd"] if name.startswith("generator.")} == beyond
    assert (f"discriminator.{WORD}" in moved["rtd"]) == (sharing != "es")
    assert (f"discriminator.{WORD}" in by["rtd"]) == (sharing != "es")


def test_after_a_step_of_the_generator_alone_the_discriminators_table_has_moved_with_it():
    pair = pair_of("gdes")
    before = np.asarray(tables(pair.detector())["word"].embedding[...])
    np.testing.assert_array_equal(before, tables(pair.generator)["word"].embedding[...])
    gradients = jax.grad(lambda model: generate(model, with_draws(arrays(0), jax.random.key(0)), None).loss)(
        pair.generator
    )
    pair.generator = jax.tree.map(lambda x, slope: x - 0.1 * slope, pair.generator, gradients)
    assert not np.any(named(pair.discriminator)[WORD])
    after = np.asarray(tables(pair.detector())["word"].embedding[...])
    np.testing.assert_array_equal(after, tables(pair.generator)["word"].embedding[...])
    assert np.abs(after - before).max() > 1e-3


def test_the_decoupled_discriminator_reads_the_generators_new_embeddings():
    method = method_of("gdes", "decoupled")
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    state = initial_state(method.build, method.optimizer, 0, mesh)
    pair, keys = jax.tree.map(jnp.copy, state.model), jax.random.split(jax.random.fold_in(state.key, 0), 3)
    rows = with_draws(arrays(0), keys[0])
    read = replaced(rows, generate(pair.generator, rows, keys[1]).rows["written"])
    old = detect(pair.detector(), read, keys[2])
    moved, history = trained(method, steps=1)
    pair.generator = moved.model.generator
    new = detect(pair.detector(), read, keys[2])
    losses = [float(found.loss / found.weight) for found in (old, new)]
    assert history[0]["discriminator_loss"] == pytest.approx(losses[1], rel=1e-5)
    assert abs(losses[0] - losses[1]) > 1e-4


@pytest.mark.parametrize(
    ("way", "shape", "settings"),
    [
        (("gdes", "decoupled"), (2, 2, 2), {"accumulate": 2}),
        (("es", "joint"), (1, 8, 1), {}),
        (("gdes", "joint"), (2, 1, 1), {"accumulate": 2, "remat": "full"}),
    ],
)
def test_every_mesh_accumulation_and_remat_train_as_one_device_does_at_once(way, shape, settings):
    assert_same_training(trained(method_of(*way, **settings), shape), alone(*way))


def test_bfloat16_stays_near_float32():
    _, history = trained(method_of(dtype=jnp.bfloat16))
    for ours, theirs in zip(history, alone("gdes", "decoupled")[1], strict=True):
        assert ours["generator_loss"] == pytest.approx(theirs["generator_loss"], rel=0.02)
        assert np.isfinite(ours["discriminator_loss"])


def test_joint_and_decoupled_steps_begin_with_the_same_losses_and_part():
    joint, decoupled = (alone("gdes", step)[1] for step in ("joint", "decoupled"))
    assert joint[0]["generator_loss"] == pytest.approx(decoupled[0]["generator_loss"], rel=1e-6)
    assert joint[0]["loss"] == pytest.approx(joint[0]["generator_loss"] + 10 * joint[0]["discriminator_loss"], rel=1e-6)
    assert joint[1]["generator_loss"] != pytest.approx(decoupled[1]["generator_loss"], rel=1e-6)


def test_where_one_model_is_not_finite_neither_moves():
    method = method_of()
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    step = method.make_step(shardings(abstract_state(method.build, method.optimizer, 0, mesh), mesh))
    state = initial_state(method.build, method.optimizer, 0, mesh)
    state.model.discriminator.detector.classifier.bias.set_value(jnp.full(1, jnp.nan))
    before = named(jax.device_get((state.model, state.optimizer_state)))
    state, metrics = step(state, place(batch(0), mesh))
    assert np.isfinite(metrics["generator_loss"]) and not np.isfinite(metrics["discriminator_loss"])
    assert (int(state.step), int(state.skipped), int(metrics["skipped_in_row"])) == (1, 1, 1)
    after = named((state.model, state.optimizer_state))
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


@pytest.mark.parametrize("decay", ["none", "microsoft"])
@pytest.mark.parametrize("step", ["decoupled", "joint"])
def test_the_difference_decays_only_where_it_is_asked_to(step, decay):
    method = method_of(step=step, weight_decay=0.5, rtd={"difference_decay": decay})
    pair = pair_of("gdes")
    pair.discriminator.deberta.embeddings.word.embedding.set_value(jnp.ones((352, 32)))
    zeros = jax.tree.map(jnp.zeros_like, pair)
    optimizer = method.optimizer if step == "joint" else method.optimizer.discriminator
    model, gradients = (pair, zeros) if step == "joint" else (pair.discriminator, zeros.discriminator)
    updates, _ = optimizer.update(gradients, optimizer.init(model), model)
    moved = named(updates if step == "decoupled" else updates.discriminator)
    assert np.any(moved[WORD]) == (decay == "microsoft")
    assert np.any(moved["deberta.encoder.relative.embedding"])


def test_the_discriminator_has_a_learning_rate_of_its_own():
    method = method_of(rtd={"discriminator_learning_rate": 0.0})
    state, history = trained(method, steps=2)
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    born = named(initial_state(method.build, method.optimizer, 0, mesh).model)
    changed = {name for name, array in named(state.model).items() if np.any(array != born[name])}
    assert changed and all(name.startswith("generator.") for name in changed)
    assert history[0]["discriminator_learning_rate"] == 0 and history[0]["learning_rate"] > 0


def test_drawn_tokens_stand_in_the_masked_places_and_only_the_changed_ones_count():
    rows = arrays(1)
    written = np.where(np.arange(MASKED) % 2 == 0, rows["labels"], (rows["labels"] + 1) % 352).astype(np.int32)
    read = replaced(rows, jnp.asarray(written))
    for row in range(ROWS):
        expected, changed = np.array(rows["input_ids"][row]), np.zeros(LENGTH, bool)
        for slot in np.flatnonzero(rows["label_weights"][row]):
            expected[rows["masked_positions"][row, slot]] = written[row, slot]
            changed[rows["masked_positions"][row, slot]] = written[row, slot] != rows["labels"][row, slot]
        np.testing.assert_array_equal(read["input_ids"][row], expected)
        np.testing.assert_array_equal(read["replaced"][row], changed)


def test_the_discriminators_loss_is_the_mean_over_real_tokens_special_ones_too():
    pair, rows = pair_of("gdes"), with_draws(arrays(0), jax.random.key(0))
    read = replaced(rows, generate(pair.generator, rows, None).rows["written"])
    sums = detect(pair.detector(), read, None)
    logits = pair.detector()(read["input_ids"], segment_ids=rows["segment_ids"], position_ids=rows["position_ids"])
    real = rows["segment_ids"] > 0
    assert sums.weight == real.sum()
    losses = np.asarray(binary_cross_entropy(logits, read["replaced"].astype(logits.dtype)))[real]
    assert float(sums.loss / sums.weight) == pytest.approx(losses.mean(), rel=1e-6)


def test_held_out_batches_add_up_and_are_always_drawn_alike():
    pair = pair_of("gdes")
    whole = jax.jit(evaluate)(pair, batch(5), 0)
    halves = [{name: x[rows] for name, x in batch(5).items()} for rows in (slice(0, 8), slice(8, 16))]
    parts = jax.tree.map(lambda *x: sum(map(np.float64, x)), *(jax.jit(evaluate)(pair, half, 0) for half in halves))
    one, other = summarize(jax.tree.map(np.float64, whole)), summarize(parts)
    assert one["generator_loss"] == pytest.approx(other["generator_loss"], rel=1e-5)
    assert set(one) == set(other)
    assert one["gain"] == pytest.approx(prior_loss(one["replaced"]) - one["discriminator_loss"])
    assert 0 < one["spread"] <= 1
    again = jax.jit(evaluate)(pair, batch(5), 0)
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    assert jax.jit(evaluate)(pair, batch(5), 1).discriminator.loss != whole.discriminator.loss


def test_a_collapsed_discriminator_is_warned_of_after_the_warm_up():
    method, poor = method_of(warmup=4.0), {"auc": 0.51, "spread": 0.2}
    assert method.warning(4, poor) is None
    assert "has collapsed, or has learned nothing yet: AUC 0.510, chance is 0.5" in method.warning(5, poor)
    assert "has collapsed: its states are nearly one (spread 0.0010)" in method.warning(
        5, {"auc": 0.9, "spread": 0.001}
    )
    assert "AUC nan" in method.warning(5, {"auc": float("nan"), "spread": 0.2})
    assert method.warning(5, {"auc": 0.8, "spread": 0.2}) is None
    config = TrainingConfig(steps=10, optimizer=OptimizerConfig(warmup=4.0))
    assert collapse_warning(config, 5, poor) == method.warning(5, poor)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sharing": "es"}, "no update for both: give rtd.step joint"),
        ({"loss_weight": 0.0}, "rtd.loss_weight is 0.0; it must be above 0"),
        ({"step": "joint", "discriminator_learning_rate": 1e-3}, "is for decoupled steps"),
        ({"discriminator_learning_rate": -1.0}, "it cannot be negative"),
    ],
)
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        RtdConfig(**wrong)


def test_no_logits_of_every_position_are_ever_held():
    """The generator's logits are formed at masked positions only, whatever the vocabulary."""
    config = dataclasses.replace(CONFIG, vocab_size=20_000)
    method = method_of(config=config)
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    abstract = abstract_state(method.build, method.optimizer, 0, mesh)
    rows, length, masked = 32, 128, 20
    shapes = {"input_ids": length, "segment_ids": length, "position_ids": length}
    shapes |= {"masked_positions": masked, "labels": masked, "label_weights": masked}
    kinds = {"label_weights": jnp.float32}
    example = {name: jax.ShapeDtypeStruct((rows, width), kinds.get(name, jnp.int32)) for name, width in shapes.items()}
    compiled = method.make_step(shardings(abstract, mesh)).lower(abstract, example).compile()
    every = rows * length * config.vocab_size
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * every
    shapes = re.findall(r"\b(?:f|bf|s|u|pred)\d*\[([\d,]+)\]", compiled.as_text())
    assert max(math.prod(map(int, shape.split(","))) for shape in shapes) < every
