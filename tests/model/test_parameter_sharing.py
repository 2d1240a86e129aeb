"""Layers that share their parameters (`num_hidden_groups`)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import IDS, MASK, V2, V3, bare, call, masked_lm

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.hub.pretrained import from_pretrained, save_pretrained
from deberta_jax.model.surgery import first_layers, layer, parameters, with_config
from deberta_jax.pretraining.config import generator_config

SHARED = dataclasses.replace(V3, num_hidden_groups=1)
FOUR = dataclasses.replace(V3, num_hidden_layers=4, num_hidden_groups=2)
CONFIGS = {"one group": SHARED, "two groups": FOUR, "v2": dataclasses.replace(V2, num_hidden_groups=1)}


def unshared(model):
    """The same model with a copy of the parameters for each layer."""
    config = dataclasses.replace(model.config, num_hidden_groups=None)
    groups = np.asarray([model.config.group_of(number) for number in range(config.num_hidden_layers)])
    leaves = [x[groups] if ".layers." in name else x for name, x in parameters(model).items()]
    kind = type(model)
    return jax.tree.unflatten(
        jax.tree.structure(jax.eval_shape(lambda key: kind(config, key=key), jax.random.key(0))), leaves
    )


def test_groups_are_consecutive_layers_and_equal_architectures_are_equal():
    config = DebertaConfig(num_hidden_layers=12, num_hidden_groups=3)
    assert [config.group_of(number) for number in range(12)] == [0] * 4 + [1] * 4 + [2] * 4
    assert DebertaConfig(num_hidden_groups=12) == DebertaConfig()
    assert DebertaConfig.from_dict(SHARED.to_dict()).num_hidden_groups == 1
    assert "num_hidden_groups" not in V3.to_dict()
    for groups, message in ((5, "must divide num_hidden_layers 12"), (0, "at least 1")):
        with pytest.raises(InputError, match=f"num_hidden_groups.* {message}"):
            DebertaConfig(num_hidden_groups=groups)


def test_a_generator_has_the_groups_that_half_the_layers_can_have():
    halves = {1: 1, 4: 2, 6: None, 12: None}
    for groups, expected in halves.items():
        config = DebertaConfig(num_hidden_layers=12, num_hidden_groups=groups)
        assert generator_config(config).num_hidden_groups == expected


def test_one_group_applies_one_layer_as_often_as_there_are_layers():
    model = bare(SHARED)
    assert parameters(model)["encoder.layers.up.kernel"].shape[0] == 1
    states = call(model, IDS, MASK, output_hidden_states=True).hidden_states
    by_hand = states[0]
    for number in range(3):
        one = dataclasses.replace(V3, num_hidden_layers=1)
        single = bare(SHARED).encoder
        leaves = jax.tree.leaves(single)
        alone = jax.tree.unflatten(jax.tree.structure(bare(one).encoder), leaves)
        by_hand = alone(by_hand, MASK).last_hidden_state
        np.testing.assert_allclose(by_hand, states[number + 1], atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_with_groups_equals_one_with_copies_and_gradients_are_sums(name):
    model = masked_lm(CONFIGS[name])
    copies = unshared(model)
    weights = jax.random.normal(jax.random.key(1), (*IDS.shape, model.config.vocab_size))

    def loss(model):
        return jnp.sum(model(IDS, MASK) * weights)

    values, gradients = jax.jit(jax.value_and_grad(loss))(model)
    expected, of_copies = jax.jit(jax.value_and_grad(loss))(copies)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    groups = np.asarray([model.config.group_of(number) for number in range(model.config.num_hidden_layers)])
    for path, gradient in parameters(gradients).items():
        each = parameters(of_copies)[path]
        if ".layers." in path:
            each = jnp.stack([each[groups == group].sum(0) for group in range(model.config.num_groups)])
        np.testing.assert_allclose(gradient, each, atol=2e-5 * float(jnp.abs(each).max() + 1), err_msg=path)


@pytest.mark.parametrize(("start", "depth"), [(0, 4), (1, 4), (0, 3), (1, 3), (2, 2), (3, 4)])
def test_any_range_of_layers_runs(start, depth):
    encoder = bare(FOUR).encoder
    copies = unshared(bare(FOUR)).encoder
    x = jax.random.normal(jax.random.key(0), (2, 12, 16))
    options = {"start": start, "depth": depth, "output_hidden_states": True}
    ours, expected = (module(x, MASK, **options) for module in (encoder, copies))
    np.testing.assert_allclose(ours.last_hidden_state, expected.last_hidden_state, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.hidden_states, expected.hidden_states, rtol=1e-5, atol=1e-5)


def test_dropout_differs_between_layers_that_share_parameters():
    model, copies = bare(SHARED), unshared(bare(SHARED))
    ours, expected = (x(IDS, key=jax.random.key(0)).last_hidden_state for x in (model, copies))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_files_contain_each_layer_and_are_recognized(tmp_path, caplog):
    model = masked_lm(FOUR)
    save_pretrained(tmp_path / "shared", model)
    again, _ = from_pretrained(tmp_path / "shared", "masked_lm", require_tokenizer=False)
    assert again.config.num_hidden_groups == 2
    assert all(map(np.array_equal, jax.tree.leaves(model), jax.tree.leaves(again)))
    # Without the key, which other tools do not write, or after they trained each layer on its own.
    save_pretrained(tmp_path / "copies", unshared(model))
    copies, _ = from_pretrained(tmp_path / "copies", "masked_lm", require_tokenizer=False)
    np.testing.assert_allclose(call(copies, IDS), call(model, IDS), atol=1e-5)
    config = (tmp_path / "shared/config.json").read_text()
    different = jax.tree.map(
        lambda x: x + 0.1 * jnp.arange(x.shape[0], dtype=jnp.float32).reshape(-1, *[1] * (x.ndim - 1)), copies
    )
    save_pretrained(tmp_path / "copies", different)
    (tmp_path / "copies/config.json").write_text(config)
    trained, _ = from_pretrained(tmp_path / "copies", "masked_lm", require_tokenizer=False)
    assert trained.config.num_hidden_groups is None
    assert "loaded without parameter sharing" in caplog.text
    assert all(map(np.array_equal, jax.tree.leaves(different), jax.tree.leaves(trained)))


def test_surgery_knows_groups():
    model = bare(FOUR)
    assert first_layers(model, 2).config.num_hidden_groups == 1
    assert first_layers(bare(SHARED), 2).config.num_hidden_layers == 2
    np.testing.assert_array_equal(layer(model, 3).up.kernel[...], model.encoder.layers.up.kernel[1])
    with pytest.raises(InputError, match="k is 3, expected a multiple of 2"):
        first_layers(model, 3)
    with pytest.raises(InputError, match="config says num_hidden_groups 4, the model has 2"):
        with_config(model, num_hidden_groups=None)
