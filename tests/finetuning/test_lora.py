"""Low-rank adapters: the encoder is frozen bit for bit, merging adds the product, and the optimizer state is small."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_training import CONFIG, B, C, T, eight_devices, one_device, random_tokens, train_steps

from deberta_jax.errors import InputError
from deberta_jax.finetuning.config import LoraConfig
from deberta_jax.finetuning.lora import LoraModel, lora_objective, merge_lora, trainable
from deberta_jax.finetuning.objectives import classification_objective, plain_objective
from deberta_jax.hub.pretrained import load_pretrained, save_pretrained
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.heads import SequenceClassification
from deberta_jax.model.surgery import label, parameters
from deberta_jax.training.objective import Sums
from deberta_jax.training.optimizer import scale_by_layer

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
def trained(model, batch):
    return train_steps(one_device(), build, model, OBJECTIVE, batch, steps=4, trainable=trainable)


@jax.jit
def logits(model, batch):
    return model(batch["input_ids"], batch["attention_mask"])


def test_the_initial_model_equals_its_base_bit_for_bit(model, batch):
    assert (logits(merge_lora(model), batch) == logits(model.base, batch)).all()


def test_merged_kernels_are_the_sum_of_kernel_and_product(model):
    model = jax.tree.map(lambda x: x + 0.1, model)
    merged = merge_lora(model)
    for name, adapter in zip(model.targets, model.adapters, strict=True):
        base, result = model.base.deberta.encoder.layers, merged.deberta.encoder.layers
        for part in name.split("."):
            base, result = getattr(base, part), getattr(result, part)
        down, up = np.asarray(adapter.down[...]), np.asarray(adapter.up[...])
        for layer in range(CONFIG.num_hidden_layers):
            product = down[layer].reshape(-1, 3) @ up[layer].reshape(3, -1) * (6.0 / 3)
            difference = np.asarray(result.kernel[...] - base.kernel[...])[layer]
            assert difference.reshape(product.shape) == pytest.approx(product, abs=1e-5)


def test_the_encoder_is_frozen_bit_for_bit_and_the_loss_falls(model, trained):
    initial, (state, metrics) = jax.device_get(model), trained
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    same = jax.tree.map(
        lambda a, b: bool((a == b).all()), initial.base.deberta, jax.device_get(state.model.base.deberta)
    )
    assert all(jax.tree.leaves(same))
    for before, after in zip(jax.tree.leaves(initial.adapters), jax.tree.leaves(state.model.adapters), strict=True):
        assert np.any(np.asarray(before) != np.asarray(after))
    before, after = (model.base.classifier.kernel[...] for model in (initial, state.model))
    assert np.any(np.asarray(before) != np.asarray(after))


def test_the_optimizer_has_moments_of_adapters_and_head_only(model, trained):
    state, _ = trained
    flags = jax.tree.leaves(trainable(model))
    sizes = [x.size for x in jax.tree.leaves(model)]
    num_trained = sum(size for size, flag in zip(sizes, flags, strict=True) if flag)
    assert sum(x.size for x in jax.tree.leaves(state.optimizer_state) if x.ndim) == 2 * num_trained
    assert num_trained < sum(sizes) / 2


def test_eight_devices_compute_the_same_losses_as_one(model, trained, batch):
    _, metrics = train_steps(eight_devices(), build, model, OBJECTIVE, batch, steps=4, trainable=trainable)
    assert [step["loss"] for step in metrics] == pytest.approx([step["loss"] for step in trained[1]], rel=1e-5)


def test_a_merged_model_can_be_saved_and_loaded(model, batch, tmp_path):
    merged = merge_lora(jax.tree.map(lambda x: x + 0.05, model))
    save_pretrained(tmp_path, merged)
    loaded = load_pretrained(tmp_path, "sequence_classification", require_tokenizer=False)[0]
    assert np.asarray(logits(loaded, batch)) == pytest.approx(np.asarray(logits(merged, batch)), abs=1e-6)


def test_a_call_gives_the_result_of_the_merged_model(model, batch):
    model = jax.tree.map(lambda x: x + 0.05, model)
    arguments, options = (batch["input_ids"], batch["attention_mask"]), {"token_type_ids": batch["token_type_ids"]}
    merged = merge_lora(model)(*arguments, **options)
    assert (model(*arguments, **options) == merged).all()
    assert np.asarray(logits(model, batch)) == pytest.approx(np.asarray(merged), abs=1e-6)
    key = jax.random.key(3)
    assert (model(*arguments, key=key) == merge_lora(model)(*arguments, key=key)).all()


def test_gradients_reach_both_matrices_through_a_call(model, batch):
    model = jax.tree.map(lambda x: x + 0.05, model)

    @jax.jit
    @jax.grad
    def gradient(model):
        return jnp.sum(jnp.square(model(batch["input_ids"], batch["attention_mask"])))

    for adapter in gradient(model).adapters:
        assert all(jnp.any(x != 0) for x in jax.tree.leaves(adapter))


def test_targets_are_any_projections_of_a_layer(model, batch):
    targets = ("up", "attention.query")
    adapted = LoraModel(model.base, LORA, targets=targets, key=jax.random.key(0))
    assert (adapted.targets, len(adapted.adapters)) == (targets, 2)
    changed = merge_lora(jax.tree.map(lambda x: x + 0.05, adapted))
    base, layers = jax.tree.map(lambda x: x + 0.05, model.base).deberta.encoder.layers, changed.deberta.encoder.layers
    assert (layers.attention.key.kernel[...] == base.attention.key.kernel[...]).all()
    assert (layers.up.kernel[...] != base.up.kernel[...]).any()


def test_adapters_of_a_bare_encoder_are_trained_alone(batch):
    bare = LoraModel(Deberta(CONFIG, key=jax.random.key(0)), LORA, key=jax.random.key(1))
    ids = jnp.asarray(batch["input_ids"])
    assert (bare(ids).last_hidden_state == bare.base(ids).last_hidden_state).all()
    flags = trainable(bare)
    assert all(jax.tree.leaves(flags.adapters)) and not any(jax.tree.leaves(flags.base))

    def objective(model, batch, key):
        x = model(batch["input_ids"]).last_hidden_state
        return Sums(jnp.sum(x**2), jnp.float32(B), jnp.int32(B), {})

    gradients = jax.grad(lambda model: lora_objective(objective)(model, {"input_ids": ids}, None).loss)(bare)
    assert not any(jnp.any(x) for x in jax.tree.leaves(gradients.base))
    assert any(jnp.any(x) for x in jax.tree.leaves(gradients.adapters))


def test_invalid_options_are_refused(model):
    with pytest.raises(InputError, match="lora.rank is -1"):
        LoraConfig(rank=-1)
    key = jax.random.key(0)
    with pytest.raises(InputError, match="lora.rank is 0; a model with adapters needs at least 1"):
        LoraModel(model.base, LoraConfig(), key=key)
    paths = "attention.key, attention.output, attention.query, attention.value, down, up"
    with pytest.raises(InputError, match=f"^targets: unknown query, norm; a layer of this model has {paths}$"):
        LoraModel(model.base, LORA, targets=("query", "up", "norm"), key=key)
    for targets in ((), ("up", "up")):
        with pytest.raises(InputError, match="expected distinct projections"):
            LoraModel(model.base, LORA, targets=targets, key=key)
    with pytest.raises(
        InputError, match=r"targets is 'attention.query', expected a list such as \['attention.query'\]"
    ):
        LoraModel(model.base, LORA, targets="attention.query", key=key)


def test_the_encoder_does_not_decay_if_it_is_excluded_from_the_optimizer(model):
    gradients = jax.tree.map(jnp.zeros_like, model)
    for optimizer, frozen in (
        (optax.adamw(1e-3), False),
        (optax.masked(optax.adamw(1e-3), label(model, lambda path: not path.startswith("base.deberta."))), True),
    ):
        # Optax mixes dtypes.
        with jax.numpy_dtype_promotion("standard"):
            updates, _ = optimizer.update(gradients, optimizer.init(model), model)
        names = parameters(updates)
        assert (names["base.deberta.encoder.layers.up.kernel"] == 0).all() == frozen
        assert (names["base.classifier.kernel"] != 0).any()


def test_the_adapters_of_each_layer_have_its_scale(model):
    ones = jax.tree.map(jnp.ones_like, model)
    updates, _ = scale_by_layer([0.0, *[0.5] * (CONFIG.num_hidden_layers - 1)]).update(ones, optax.EmptyState())
    for adapter in updates.adapters:
        for matrix in (adapter.down[...], adapter.up[...]):
            assert (matrix[0] == 0).all() and (matrix[1:] == 0.5).all()
    assert (updates.base.classifier.kernel[...] == 1).all()


def test_token_types_are_optional(model, batch):
    objective = plain_objective(classification_objective())
    both = jax.jit(lambda model, batch: [objective(model, x, None).loss for x in (batch, without(batch))])
    np.testing.assert_allclose(*both(model.base, batch), rtol=1e-6)


def without(batch):
    return {name: values for name, values in batch.items() if name != "token_type_ids"}
