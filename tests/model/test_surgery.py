"""Copies of a model with another config, fewer layers or another vocabulary, and parameters by name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import IDS, SMALL, V2, V3, bare, call, masked_lm

from deberta_jax.errors import InputError
from deberta_jax.hub.pretrained import save_pretrained
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.heads import SequenceClassification
from deberta_jax.model.surgery import first_layers, label, layer, parameters, resized, with_config
from deberta_jax.training.optimizer import scale_by_layer


def test_a_changed_config_applies_everywhere_and_shares_the_parameters():
    model = bare("v3")
    changed = with_config(model, layer_norm_eps=0.1, hidden_dropout_prob=0.0)
    assert changed.config == dataclasses.replace(V3, layer_norm_eps=0.1, hidden_dropout_prob=0.0)
    assert changed.encoder.layers.norm.epsilon == 0.1
    assert changed.embeddings.config.hidden_dropout_prob == 0.0
    assert not np.allclose(call(changed, IDS).last_hidden_state, call(model, IDS).last_hidden_state)
    assert all(a is b for a, b in zip(parameters(changed).values(), parameters(model).values(), strict=True))
    assert model.config == V3


def test_a_config_cannot_be_assigned_or_changed_to_other_sizes():
    for model in (bare("v3"), masked_lm("v3")):
        with pytest.raises(AttributeError, match="with_config"):
            model.config = V2
    with pytest.raises(InputError, match="config says num_hidden_layers 5, the model has 3; first_layers and resized"):
        with_config(bare("v3"), num_hidden_layers=5)
    with pytest.raises(InputError, match="convolution"):
        with_config(bare("v3"), conv_kernel_size=3)


@pytest.mark.parametrize("config", ["v2", "v3"])
def test_the_first_layers_are_a_model_that_equals_the_depth(config):
    model = masked_lm(config)
    short = first_layers(model, 2)
    assert short.config.num_hidden_layers == 2
    assert parameters(short)["deberta.encoder.layers.up.kernel"].shape[0] == 2
    states = call(short.deberta, IDS).last_hidden_state
    np.testing.assert_allclose(states, call(model.deberta, IDS, depth=2).last_hidden_state, atol=1e-6)
    assert call(short, IDS).shape == (2, 12, SMALL["vocab_size"])
    for k in (0, 4):
        with pytest.raises(InputError, match=f"k is {k}, expected 1 to 3"):
            first_layers(model, k)
    with pytest.raises(InputError, match="at least 2"):
        first_layers(model, 1)


def test_a_layer_of_the_stack_is_a_module():
    model = bare("v3")
    second = layer(model, 1)
    assert second.up.kernel.shape == (16, 24)
    assert (second.up.kernel[...] == model.encoder.layers.up.kernel[1]).all()
    with pytest.raises(InputError, match="k is 3, expected 0 to 2"):
        layer(model, 3)


def test_words_their_bias_and_the_config_are_resized_together():
    model = masked_lm("v3")
    larger = resized(model, 70, key=jax.random.key(0))
    assert larger.config.vocab_size == 70
    assert parameters(larger)["head.bias"].shape == (70,)
    np.testing.assert_allclose(call(larger, IDS)[..., :61], call(model, IDS), atol=1e-5)
    new = parameters(larger)["deberta.embeddings.word.embedding"][61:]
    assert 0 < float(jnp.abs(new).max()) < 0.2
    smaller = resized(larger, 61, key=jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, smaller, model)
    with pytest.raises(InputError, match="vocab_size must be at least 1, not 0"):
        resized(model, 0, key=jax.random.key(0))


def test_parameters_and_labels_have_the_same_names():
    model = bare("v3")
    names = parameters(model)
    assert names["encoder.layers.attention.query.kernel"].shape == (3, 16, 2, 8)
    assert all(a is b for a, b in zip(names.values(), jax.tree.leaves(model), strict=True))
    labels = label(model, lambda name: "frozen" if name.startswith("embeddings") else "trained")
    optimizer = optax.multi_transform({"frozen": optax.set_to_zero(), "trained": optax.sgd(1.0)}, labels)
    gradients = jax.tree.map(jnp.ones_like, model)
    updates, _ = optimizer.update(gradients, optimizer.init(model), model)
    for name, update in parameters(updates).items():
        assert (update == (0 if name.startswith("embeddings") else -1)).all()


def test_each_layer_has_its_scale_and_zero_freezes():
    model = bare("v2")
    gradients = jax.tree.map(jnp.ones_like, model)
    optimizer = scale_by_layer([0.0, 0.5, 1.0], embeddings=0.25)
    updates = parameters(optimizer.update(gradients, optimizer.init(model))[0])
    assert updates["encoder.layers.up.bias"][:, 0].tolist() == [0.0, 0.5, 1.0]
    assert updates["embeddings.word.embedding"][0, 0] == updates["encoder.relative.embedding"][0, 0] == 0.25
    assert updates["encoder.convolution.bias"][0] == 0
    with pytest.raises(InputError, match="2 scales for 3 encoder layers"):
        scale_by_layer([0.0, 1.0]).update(gradients, optimizer.init(model))


def test_a_model_that_differs_from_its_config_is_not_saved(tmp_path):
    model = bare("v3")
    short = jax.tree.map(lambda leaf: leaf, model)
    short.encoder.layers = jax.tree.map(lambda leaf: leaf[:2], short.encoder.layers)
    with pytest.raises(InputError, match="config says num_hidden_layers 3, the model has 2"):
        save_pretrained(tmp_path / "model", short)
    assert not (tmp_path / "model").exists()
    save_pretrained(tmp_path / "model", first_layers(model, 2))


def test_parameters_of_integers_are_not_saved(tmp_path):
    model = jax.tree.map(lambda leaf: leaf, bare("v3"))
    model.encoder.layers.up.kernel = jax.tree.map(lambda leaf: leaf.astype(jnp.int8), model.encoder.layers.up.kernel)
    with pytest.raises(InputError, match="encoder.layers.up.kernel has dtype int8, expected a floating-point type"):
        save_pretrained(tmp_path / "model", model)
    assert not (tmp_path / "model").exists()


def test_an_ensemble_is_changed_inside_vmap_only():
    key = jax.random.key(0)
    ensemble = jax.tree.map(lambda leaf: jnp.stack([leaf] * 5), bare("v3"))
    for function in (
        lambda model: first_layers(model, 2),
        lambda model: resized(model, 70, key=key),
        lambda model: layer(model, 1),
        lambda model: with_config(model, hidden_dropout_prob=0.0),
    ):
        with pytest.raises(InputError, match="for an ensemble of models, call the function inside jax.vmap"):
            function(ensemble)
    short = jax.vmap(lambda model: first_layers(model, 2))(ensemble)
    assert parameters(short)["encoder.layers.up.kernel"].shape[:2] == (5, 2)


def test_fields_that_do_not_exist_are_named(unchecked_shapes):
    with pytest.raises(InputError, match="with_config: DebertaConfig has no field hidden_dropout, width$"):
        with_config(bare("v3"), hidden_dropout=0.0, width=3)
    assert hash(with_config(bare("v3"), labels=["a", "b", "c"]).config) == hash(
        dataclasses.replace(V3, labels=("a", "b", "c"))
    )


def test_parameters_have_the_requested_dtype():
    model = SequenceClassification(V3, param_dtype="bfloat16", key=jax.random.key(0))
    assert {leaf.dtype for leaf in parameters(model).values()} == {jnp.dtype("bfloat16")}
    assert model(np.asarray(IDS)).dtype == jnp.float32
    assert call(model.deberta, IDS).last_hidden_state.dtype == jnp.bfloat16
    mixed = Deberta(V3, dtype="float32", param_dtype="bfloat16", key=jax.random.key(0))
    assert call(mixed, IDS).last_hidden_state.dtype == jnp.float32
