"""Adapters: the encoder holds still to the bit, the sum of both is a model of its own kind, little state is kept."""

import jax
import numpy as np
import pytest

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.finetuning.lora import Adapted, LoraConfig, adapted_objective, merged, trainable
from deberta_jax.finetuning.objectives import label_objective, objective_of
from deberta_jax.model.heads import SequenceClassification
from deberta_jax.model.shardings import shardings
from deberta_jax.sharding import make_mesh
from deberta_jax.training.method import one_objective
from deberta_jax.training.optimizer import OptimizerConfig
from deberta_jax.training.run import MeshConfig, TrainingConfig
from deberta_jax.training.state import abstract_state, initial_state
from deberta_jax.training.step import place

CONFIG = DebertaConfig(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    position_buckets=4,
    max_position_embeddings=32,
    share_att_key=True,
    norm_rel_ebd="layer_norm",
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    labels=("a", "b", "c"),
)
LORA = LoraConfig(rank=3, alpha=6.0, targets="all")


def build(key):
    keys = jax.random.split(key)
    return Adapted(SequenceClassification(CONFIG, key=keys[0]), LORA, key=keys[1])


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "input_ids": rng.integers(1, 40, (8, 12)).astype(np.int32),
        "attention_mask": np.ones((8, 12), np.int32),
        "token_type_ids": np.zeros((8, 12), np.int32),
        "labels": rng.integers(0, 3, 8).astype(np.int32),
        "weights": np.ones(8, np.float32),
    }


def logits(model, batch):
    return np.asarray(model(batch["input_ids"], batch["attention_mask"]))


def after(mesh, batch, steps=4):
    """The state after a few steps on a mesh, and the losses."""
    training = TrainingConfig(
        steps=10, batch_size=8, optimizer=OptimizerConfig(learning_rate=1e-2, warmup=0.0), mesh=MeshConfig(1, 1, 1)
    )
    objective = adapted_objective(objective_of(label_objective()))
    method = one_objective(training, build, objective, trainable)
    abstract = abstract_state(method.build, method.optimizer, 0, mesh)
    state = initial_state(method.build, method.optimizer, 0, mesh)
    step = method.make_step(shardings(abstract, mesh))
    losses = []
    for _ in range(steps):
        state, metrics = step(state, place(batch, mesh))
        losses.append(float(metrics["loss"]))
    return state, losses


def test_before_any_step_the_model_is_its_base_to_the_bit(batch):
    adapted = build(jax.random.key(0))
    assert (logits(merged(adapted), batch) == logits(adapted.base, batch)).all()


def test_merged_kernels_are_the_sum(batch):
    adapted = jax.tree.map(lambda x: x + 0.1, build(jax.random.key(0)))
    model = merged(adapted)
    for name, adapter in zip(adapted.targets, adapted.adapters, strict=True):
        base, found = adapted.base.deberta.encoder.layers, model.deberta.encoder.layers
        for part in name.split("."):
            base, found = getattr(base, part), getattr(found, part)
        down, up = np.asarray(adapter.down[...]), np.asarray(adapter.up[...])
        for layer in range(2):
            wanted = down[layer].reshape(-1, 3) @ up[layer].reshape(3, -1) * (6.0 / 3)
            difference = np.asarray(found.kernel[...] - base.kernel[...])[layer]
            assert difference.reshape(wanted.shape) == pytest.approx(wanted, abs=1e-5)


def test_the_encoder_holds_still_to_the_bit_and_the_loss_falls(batch):
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    initial = after(mesh, batch, steps=0)[0].model
    state, losses = after(mesh, batch)
    assert losses[-1] < losses[0]
    still = jax.tree.map(lambda a, b: bool((a == b).all()), initial.base.deberta, state.model.base.deberta)
    assert all(jax.tree.leaves(still))
    moved = [
        bool(np.any(np.asarray(a) != np.asarray(b)))
        for a, b in zip(jax.tree.leaves(initial.adapters), jax.tree.leaves(state.model.adapters), strict=True)
    ]
    assert all(moved)
    assert np.any(
        np.asarray(initial.base.classifier.kernel[...]) != np.asarray(state.model.base.classifier.kernel[...])
    )


def test_the_optimizer_has_moments_of_adapters_and_head_alone(batch):
    state, _ = after(make_mesh(1, 1, 1, jax.devices()[:1]), batch, steps=1)
    adapted = build(jax.random.key(0))
    flags = jax.tree.leaves(trainable(adapted))
    trained = sum(x.size for x, flag in zip(jax.tree.leaves(adapted), flags, strict=True) if flag)
    kept = sum(x.size for x in jax.tree.leaves(state.optimizer_state) if x.ndim)
    assert kept == 2 * trained
    assert trained < sum(x.size for x in jax.tree.leaves(adapted)) / 2


def test_eight_devices_do_as_one(batch):
    one = after(make_mesh(1, 1, 1, jax.devices()[:1]), batch)
    eight = after(make_mesh(2, 2, 2), batch)
    assert eight[1] == pytest.approx(one[1], rel=1e-5)


def test_a_merged_model_is_of_the_kind_that_is_saved(batch, tmp_path):
    from deberta_jax.hub.pretrained import load_pretrained, save_pretrained

    adapted = jax.tree.map(lambda x: x + 0.05, build(jax.random.key(0)))
    model = merged(adapted)
    save_pretrained(tmp_path, model)
    again = load_pretrained(tmp_path, "sequence_classification").model
    assert logits(again, batch) == pytest.approx(logits(model, batch), abs=1e-6)


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(InputError, match="lora.rank is -1"):
        LoraConfig(rank=-1)
