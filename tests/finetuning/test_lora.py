"""Low-rank adapters: the encoder is frozen bit for bit, merging adds the product, and the optimizer state is small."""

import jax
import numpy as np
import pytest
from toy_training import CONFIG, B, C, T, eight_devices, one_device, random_tokens, train_steps

from deberta_jax.errors import InputError
from deberta_jax.finetuning.config import LoraConfig
from deberta_jax.finetuning.lora import LoraModel, lora_objective, merge, trainable
from deberta_jax.finetuning.objectives import classification_objective, plain_objective
from deberta_jax.hub.pretrained import load_pretrained, save_pretrained
from deberta_jax.model.heads import SequenceClassification

LORA = LoraConfig(rank=3, alpha=6.0, targets="all")
OBJECTIVE = lora_objective(plain_objective(classification_objective()))


def build(key):
    keys = jax.random.split(key)
    return LoraModel(SequenceClassification(CONFIG, key=keys[0]), LORA, key=keys[1])


@pytest.fixture(scope="module")
def model():
    return jax.jit(build)(jax.random.key(0))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "input_ids": random_tokens(rng, B, T),
        "attention_mask": np.ones((B, T), np.int32),
        "token_type_ids": np.zeros((B, T), np.int32),
        "labels": rng.integers(0, C, B).astype(np.int32),
        "weights": np.ones(B, np.float32),
    }


@pytest.fixture(scope="module")
def trained(batch):
    return train_steps(one_device(), build, OBJECTIVE, batch, steps=4, trainable=trainable)


@jax.jit
def logits(model, batch):
    return model(batch["input_ids"], batch["attention_mask"])


def test_the_initial_model_equals_its_base_bit_for_bit(model, batch):
    assert (logits(merge(model), batch) == logits(model.base, batch)).all()


def test_merged_kernels_are_the_sum_of_kernel_and_product(model):
    model = jax.tree.map(lambda x: x + 0.1, model)
    merged = merge(model)
    for name, adapter in zip(model.targets, model.adapters, strict=True):
        base, result = model.base.deberta.encoder.layers, merged.deberta.encoder.layers
        for part in name.split("."):
            base, result = getattr(base, part), getattr(result, part)
        down, up = np.asarray(adapter.down[...]), np.asarray(adapter.up[...])
        for layer in range(CONFIG.num_hidden_layers):
            product = down[layer].reshape(-1, 3) @ up[layer].reshape(3, -1) * (6.0 / 3)
            difference = np.asarray(result.kernel[...] - base.kernel[...])[layer]
            assert difference.reshape(product.shape) == pytest.approx(product, abs=1e-5)


def test_the_encoder_is_frozen_bit_for_bit_and_the_loss_falls(trained):
    initial, state, metrics = trained
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    same = jax.tree.map(
        lambda a, b: bool((a == b).all()), initial.base.deberta, jax.device_get(state.model.base.deberta)
    )
    assert all(jax.tree.leaves(same))
    for before, after in zip(jax.tree.leaves(initial.adapters), jax.tree.leaves(state.model.adapters), strict=True):
        assert np.any(np.asarray(before) != np.asarray(after))
    before, after = (model.base.classifier.kernel[...] for model in (initial, state.model))
    assert np.any(np.asarray(before) != np.asarray(after))


def test_the_optimizer_has_moments_of_adapters_and_head_only(trained):
    initial, state, _ = trained
    flags = jax.tree.leaves(trainable(initial))
    sizes = [x.size for x in jax.tree.leaves(initial)]
    num_trained = sum(size for size, flag in zip(sizes, flags, strict=True) if flag)
    assert sum(x.size for x in jax.tree.leaves(state.optimizer_state) if x.ndim) == 2 * num_trained
    assert num_trained < sum(sizes) / 2


def test_eight_devices_compute_the_same_losses_as_one(trained, batch):
    _, _, metrics = train_steps(eight_devices(), build, OBJECTIVE, batch, steps=4, trainable=trainable)
    assert [step["loss"] for step in metrics] == pytest.approx([step["loss"] for step in trained[2]], rel=1e-5)


def test_a_merged_model_can_be_saved_and_loaded(model, batch, tmp_path):
    merged = merge(jax.tree.map(lambda x: x + 0.05, model))
    save_pretrained(tmp_path, merged)
    loaded = load_pretrained(tmp_path, "sequence_classification", require_tokenizer=False)[0]
    assert np.asarray(logits(loaded, batch)) == pytest.approx(np.asarray(logits(merged, batch)), abs=1e-6)


def test_invalid_options_are_refused():
    with pytest.raises(InputError, match="lora.rank is -1"):
        LoraConfig(rank=-1)
