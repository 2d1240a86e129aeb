"""Configs as people have them: activations, poolers, labels and buckets as in transformers, or one line."""

import dataclasses
import json

import numpy as np
import pytest
from toy_folders import V3, toy_model, toy_tensors

from deberta_jax.config import DebertaConfig
from deberta_jax.config_values import ACTIVATIONS
from deberta_jax.errors import InputError
from deberta_jax.hub.pretrained import load_pretrained, save_pretrained

HEAD = "sequence_classification"
IDS = np.random.default_rng(0).integers(1, 67, (2, 30))


@pytest.fixture
def folder(tmp_path):
    """A saved classifier of three labels."""
    save_pretrained(tmp_path / "model", toy_model(dataclasses.replace(V3, labels=("a", "b", "c")), HEAD))
    return tmp_path / "model"


def change(folder, **values):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: x for key, x in config.items() if x is not None}))


def load(folder, head=HEAD):
    return load_pretrained(folder, head, require_tokenizer=False)[0]


def test_outputs_without_a_name_are_numbered(folder, caplog):
    change(folder, id2label={"1": "x", "2": "y", "3": "z"}, label2id=None)
    assert load(folder).config.labels == ("LABEL_0", "x", "y")
    assert "id2label names the ids 3, but a classifier of 3 labels has 0 to 2" in caplog.text
    save_pretrained(folder, load(folder))
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "LABEL_0", "1": "x", "2": "y"}


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ("aab", ("a", "LABEL_1", "b")),
        ("aaa", ("a", "LABEL_1", "LABEL_2")),
        (["LABEL_1"] * 2 + ["x"], ("LABEL_1", "LABEL_1_", "x")),
    ],
)
def test_a_name_that_repeats_another_is_numbered(names, labels, folder, caplog):
    change(folder, id2label=dict(enumerate(names)), label2id=None)
    assert load(folder).config.labels == labels
    assert f"id2label repeats names: {names[0]} of id 1 is called {labels[1]}" in caplog.text


def test_an_empty_id2label_is_none(folder):
    change(folder, id2label={}, label2id={})
    assert load(folder).config.labels == ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize("named", [["a"], {"x": "a"}, {"0": "a", "00": "b"}, {"1.5": "a"}, {"9" * 5000: "a"}, "abc", 5])
def test_ids_that_are_not_integers_are_an_error(named, folder):
    change(folder, id2label=named)
    with pytest.raises(InputError, match=r"config.json: id2label must name") as error:
        load(folder)
    assert len(str(error.value)) < 500


def test_a_pooler_of_another_size_is_an_error_only_for_heads_that_use_it(folder):
    change(folder, pooler_hidden_size=64)
    load(folder, None)
    for head in (HEAD, "multiple_choice"):
        with pytest.raises(
            InputError, match=r"model: config: pooler_hidden_size is 64, but .* hidden_size 32.*set both"
        ):
            load(folder, head)
    save_pretrained(folder, toy_model(dataclasses.replace(V3, pooler_hidden_size=64), "masked_lm"))
    load(folder, "masked_lm")


@pytest.mark.parametrize("value", ["text-classification", "", "Regression"])
def test_an_unknown_problem_type_is_an_error(value, folder):
    change(folder, problem_type=value)
    with pytest.raises(InputError, match=f"problem_type '{value}' is not one of regression, .* omit it"):
        load(folder)


@pytest.mark.parametrize("name", ["prelu", "xielu"])
def test_an_activation_with_parameters_is_an_error(name):
    with pytest.raises(InputError, match=f"hidden_act '{name}' has parameters of its own"):
        DebertaConfig(hidden_act=name)


@pytest.mark.parametrize("positions", [30, 31, 33, 64, 127, 128, 129])
@pytest.mark.parametrize("clamp", [True, False])
def test_with_few_positions_each_distance_has_its_own_bucket(positions, clamp):
    sizes = {"position_buckets": 256, "clamp_distances": clamp}
    short = dataclasses.replace(V3, **sizes, max_position_embeddings=positions)
    expected = toy_model(dataclasses.replace(V3, **sizes, max_position_embeddings=512), None)
    outputs = [with_parameters_of(expected, short)(IDS).last_hidden_state, expected(IDS).last_hidden_state]
    np.testing.assert_array_equal(*outputs)
    assert np.isfinite(outputs[0]).all()


def with_parameters_of(model, config):
    """A model of another config with the same parameters."""
    import jax

    return jax.tree.unflatten(jax.tree.structure(toy_model(config, None)), jax.tree.leaves(model))


def test_buckets_are_ignored_without_relative_attention():
    for buckets in (1, 256):
        config = dataclasses.replace(V3, position_buckets=buckets, max_position_embeddings=64, relative_attention=False)
        assert np.isfinite(toy_model(config, None)(IDS).last_hidden_state).all()


def reference_of(transformers, config, tensors, folder, head="ForSequenceClassification"):
    """The outputs of transformers and of ours for the same weights and config."""
    import safetensors.numpy
    import torch

    folder.mkdir(exist_ok=True)
    safetensors.numpy.save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    values = config.to_dict() | {"clamp_distances": None}
    (folder / "config.json").write_text(json.dumps({key: x for key, x in values.items() if x is not None}))
    version = "Deberta" if config.model_type == "deberta" else "DebertaV2"
    model = getattr(transformers, f"{version}{head}").from_pretrained(folder).eval()
    with torch.no_grad():
        return model(torch.tensor(IDS))[0].numpy(), np.asarray(load(folder)(IDS))


@pytest.mark.reference
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_agree_with_transformers(name, tmp_path, transformers):
    config = dataclasses.replace(V3, hidden_act=name, pooler_hidden_act=name, conv_kernel_size=3, conv_act=name)
    expected, outputs = reference_of(transformers, config, toy_tensors(config, HEAD), tmp_path)
    np.testing.assert_allclose(outputs, expected, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.reference
@pytest.mark.parametrize(
    "sizes",
    [
        {"position_buckets": 256, "max_position_embeddings": 30},
        {"position_buckets": 256, "max_position_embeddings": 64},
        {"position_buckets": 256, "max_position_embeddings": 128},
        {"position_buckets": 256, "max_position_embeddings": 129},
        {"position_buckets": 256, "max_position_embeddings": 130},
        {"position_buckets": 256, "max_relative_positions": 40},
        {"position_buckets": 256, "max_position_embeddings": 64, "relative_attention": False},
        {"position_buckets": 1, "relative_attention": False},
        {"position_buckets": 64, "max_position_embeddings": 33},
    ],
)
def test_buckets_agree_with_transformers(sizes, tmp_path, transformers):
    config = dataclasses.replace(V3, **sizes)
    expected, outputs = reference_of(transformers, config, toy_tensors(config, HEAD), tmp_path)
    np.testing.assert_allclose(outputs, expected, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.reference
def test_classifiers_agree_with_transformers_if_ids_start_at_one(folder, transformers):
    import torch

    change(folder, id2label={"1": "x", "2": "y", "3": "z"}, label2id=None)
    model = transformers.DebertaV2ForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        np.testing.assert_allclose(load(folder)(IDS), model(torch.tensor(IDS))[0].numpy(), atol=1e-5)
    labels = load(folder).config.labels
    assert all(labels[index] == name for index, name in model.config.id2label.items() if index < 3)
