"""Training steps of replaced-token detection: what each loss updates, and that every mesh gives the same result."""

import dataclasses
import functools
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_batches import VOCABULARY, packed_batch
from small_states import state_of
from toy_configs import toy_config

from deberta_jax.model.pair import ReplacedTokenPair, initial_pair, tables
from deberta_jax.model.shardings import shardings
from deberta_jax.model.tree import replace_parts
from deberta_jax.pretraining.config import RtdConfig, generator_config
from deberta_jax.pretraining.replaced_token_losses import (
    add_draws,
    discriminator_objective,
    generator_objective,
    replace_tokens,
)
from deberta_jax.pretraining.replaced_tokens import replaced_token_detection
from deberta_jax.sharding import make_mesh
from deberta_jax.training.config import OptimizerConfig, TrainingConfig
from deberta_jax.training.state import abstract_state
from deberta_jax.training.step import place

RELATIVE = toy_config(num_hidden_layers=3)
# Disentangled attention would double the time to compile a training step.
CONFIG = dataclasses.replace(RELATIVE, relative_attention=False, position_biased_input=True)
ROWS = 16
WORD = "deberta.embeddings.word.embedding"


def method_of(sharing="gdes", step="decoupled", accumulate=1, config=CONFIG, dtype=None, remat="none", **optimizer):
    rtd = RtdConfig(sharing=sharing, step=step, loss_weight=10.0, **optimizer.pop("rtd", {}))
    defaults = {"learning_rate": 0.01, "warmup": 0.0}
    training = TrainingConfig(steps=10, accumulate=accumulate, optimizer=OptimizerConfig(**(defaults | optimizer)))

    def build(key):
        return initial_pair(generator_config(config), config, sharing, dtype=dtype, remat=remat, key=key)

    return replaced_token_detection(training, rtd, build)


class Trainer(NamedTuple):
    """A compiled step on a mesh, and a function that gives its initial state."""

    mesh: Any
    step: Any
    start: Any


@functools.cache
def pair_of(sharing, config=CONFIG):
    """A pair for each kind of sharing, all with the same two models."""
    if sharing == "gdes":
        return jax.jit(lambda key: initial_pair(generator_config(config), config, key=key))(jax.random.key(3))
    pair = pair_of("gdes", config)
    return ReplacedTokenPair(pair.generator, pair.detector(), sharing)


def trainer_of(sharing, method, shape=(1, 1, 1)):
    mesh = make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])
    state = state_of(pair_of(sharing), method.build, method.optimizer, mesh)
    # The step donates its state.
    return Trainer(mesh, method.make_step(shardings(state, mesh)), lambda: jax.tree.map(jnp.copy, state))


def train(trainer, steps=2):
    state, history = trainer.start(), []
    for number in range(steps):
        state, metrics = trainer.step(state, place(packed_batch(number, ROWS), trainer.mesh))
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


@functools.cache
def one_device(sharing, step):
    return trainer_of(sharing, method_of(sharing, step))


@functools.cache
def trained(sharing, step):
    """Two steps on one device."""
    return train(one_device(sharing, step))


def named(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def nonzero(gradients):
    return {name for name, gradient in named(gradients).items() if np.any(gradient)}


def arrays(number):
    return {name: jnp.asarray(values) for name, values in packed_batch(number, ROWS).items()}


generate = jax.jit(generator_objective)
discriminate = jax.jit(discriminator_objective)
generator_gradient = jax.jit(jax.grad(lambda generator, batch: generator_objective(generator, batch, None).loss))


discriminator_gradient = jax.jit(
    jax.grad(lambda pair, batch: discriminator_objective(pair.detector(), batch, None).loss)
)


@pytest.mark.parametrize("sharing", ["gdes", "es", "none"])
def test_the_discriminators_loss_updates_the_shared_tables_only_with_es(sharing):
    batch = arrays(0)
    replaced = replace_tokens(batch, (batch["labels"] + 1) % VOCABULARY)
    gradients = discriminator_gradient(pair_of(sharing, RELATIVE), replaced)
    shared = {f"generator.{WORD}"} if sharing == "es" else set()
    assert {name for name in nonzero(gradients) if name.startswith("generator.")} == shared
    assert "discriminator.deberta.encoder.relative.embedding" in nonzero(gradients)
    assert (f"discriminator.{WORD}" in nonzero(gradients)) == (sharing != "es")
    assert (f"discriminator.{WORD}" in named(gradients)) == (sharing != "es")


def test_with_gdes_an_update_of_the_generator_moves_the_discriminators_table_too():
    pair = pair_of("gdes")
    before = np.asarray(tables(pair.detector())["word"].embedding[...])
    np.testing.assert_array_equal(before, tables(pair.generator)["word"].embedding[...])
    gradients = generator_gradient(pair.generator, add_draws(arrays(0), jax.random.key(0)))
    updated = jax.tree.map(lambda x, gradient: x - 0.1 * gradient, pair.generator, gradients)
    pair = replace_parts(pair, {"generator": updated})
    assert not np.any(named(pair.discriminator)[WORD])
    after = np.asarray(tables(pair.detector())["word"].embedding[...])
    np.testing.assert_array_equal(after, tables(pair.generator)["word"].embedding[...])
    assert np.abs(after - before).max() > 1e-3


def test_the_decoupled_discriminator_reads_the_updated_embeddings_of_the_generator():
    trainer = one_device("gdes", "decoupled")
    state = trainer.start()
    pair, keys = state.model, jax.random.split(jax.random.fold_in(state.key, 0), 3)
    batch = add_draws(arrays(0), keys[0])
    inputs = replace_tokens(batch, generate(pair.generator, batch, keys[1]).rows["sampled"])
    updated, history = train(trainer, steps=1)
    losses = [
        float(sums.loss / sums.weight)
        for generator in (pair.generator, updated.model.generator)
        for sums in [discriminate(replace_parts(pair, {"generator": generator}).detector(), inputs, keys[2])]
    ]
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
def test_meshes_accumulation_and_remat_train_like_one_device(way, shape, settings):
    state, history = train(trainer_of(way[0], method_of(*way, **settings), shape))
    expected_state, expected_history = trained(*way)
    for metrics, expected in zip(history, expected_history, strict=True):
        assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-5)
    arrays, expected_arrays = named(state.model), named(expected_state.model)
    assert set(arrays) == set(expected_arrays)
    for name, array in arrays.items():
        np.testing.assert_allclose(array, expected_arrays[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_bfloat16_is_close_to_float32_and_a_discriminator_with_learning_rate_0_does_not_change():
    trainer = trainer_of("gdes", method_of(dtype=jnp.bfloat16, rtd={"discriminator_learning_rate": 0.0}))
    state, history = train(trainer)
    for metrics, expected in zip(history, trained("gdes", "decoupled")[1], strict=True):
        assert metrics["generator_loss"] == pytest.approx(expected["generator_loss"], rel=0.02)
        assert np.isfinite(metrics["discriminator_loss"])
        assert metrics["discriminator_learning_rate"] == 0 and metrics["learning_rate"] > 0
    initial = named(trainer.start().model)
    changed = {name for name, array in named(state.model).items() if np.any(array != initial[name])}
    assert changed and all(name.startswith("generator.") for name in changed)


def test_joint_and_decoupled_steps_have_the_same_first_losses_but_not_the_same_updates():
    joint, decoupled = (trained("gdes", step)[1] for step in ("joint", "decoupled"))
    assert joint[0]["generator_loss"] == pytest.approx(decoupled[0]["generator_loss"], rel=1e-6)
    assert joint[0]["loss"] == pytest.approx(joint[0]["generator_loss"] + 10 * joint[0]["discriminator_loss"], rel=1e-6)
    assert joint[1]["generator_loss"] != pytest.approx(decoupled[1]["generator_loss"], rel=1e-6)


def test_a_step_changes_neither_model_if_the_discriminators_loss_is_not_finite():
    trainer = one_device("gdes", "decoupled")
    state = trainer.start()
    bias = state.model.discriminator.detector.classifier.bias
    bias.set_value(jnp.full_like(bias[...], jnp.nan, device=bias[...].sharding))
    before = named(jax.device_get((state.model, state.optimizer_state)))
    state, metrics = trainer.step(state, place(packed_batch(0, ROWS), trainer.mesh))
    assert np.isfinite(metrics["generator_loss"]) and not np.isfinite(metrics["discriminator_loss"])
    assert (int(state.step), int(state.skipped), int(metrics["skipped_in_row"])) == (1, 1, 1)
    after = named((state.model, state.optimizer_state))
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


@pytest.mark.parametrize("decay", ["none", "microsoft"])
@pytest.mark.parametrize("step", ["decoupled", "joint"])
def test_the_embedding_difference_decays_only_with_the_option_microsoft(step, decay):
    method = method_of(step=step, weight_decay=0.5, rtd={"difference_decay": decay})
    relative = "deberta.encoder.relative.embedding"
    # Optimizers work on any tree; these paths are those of the pair.
    assert named(pair_of("gdes", RELATIVE).discriminator).keys() >= {WORD, relative}
    weights = {WORD: jnp.ones((4, 2)), relative: jnp.ones((4, 2))}
    model = weights if step == "decoupled" else {"discriminator": weights}
    optimizer = method.optimizer.discriminator if step == "decoupled" else method.optimizer
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, model), optimizer.init(model), model)
    updates = updates if step == "decoupled" else updates["discriminator"]
    assert np.any(updates[WORD]) == (decay == "microsoft")
    assert np.any(updates[relative])


def test_the_step_never_holds_logits_of_every_position():
    """The generator computes logits at masked positions only."""
    config = dataclasses.replace(CONFIG, vocab_size=20_000)
    method = method_of(config=config)
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    abstract = abstract_state(method.build, method.optimizer, 0, mesh)
    rows, length, masked = 32, 128, 20
    widths = {"input_ids": length, "segment_ids": length, "position_ids": length}
    widths |= {"masked_positions": masked, "labels": masked, "label_weights": masked}
    dtypes = {"label_weights": jnp.float32}
    batch = {name: jax.ShapeDtypeStruct((rows, width), dtypes.get(name, jnp.int32)) for name, width in widths.items()}
    compiled = method.make_step(shardings(abstract, mesh)).lower(abstract, batch).compile()
    every = rows * length * config.vocab_size
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * every
    shapes = re.findall(r"\b(?:f|bf|s|u|pred)\d*\[([\d,]+)\]", compiled.as_text())
    assert max(math.prod(map(int, shape.split(","))) for shape in shapes) < every
