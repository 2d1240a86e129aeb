"""Layers with fresh weights, frozen parameters, and poolers of a run: by what they change and what they leave."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from separable import SEPARABLE
from small_states import state_of
from task_batches import batch_for
from toy_runs import call, read_json
from toy_training import CONFIG, RELATIVE, B, eight_devices

from deberta_jax.errors import InputError
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.layers import (
    freeze_objective,
    frozen_groups,
    of_upper_layers,
    reinitialize_top,
    trained_parameters,
)
from deberta_jax.finetuning.layers_config import LayersConfig
from deberta_jax.finetuning.objectives import plain_objective
from deberta_jax.hub.folder import read_folder
from deberta_jax.hub.heads import head_of_file
from deberta_jax.hub.pretrained import from_pretrained, load_pretrained, save_pretrained
from deberta_jax.inference.classification import classify
from deberta_jax.model.heads import SequenceClassification
from deberta_jax.model.shardings import shardings
from deberta_jax.model.surgery import parameters
from deberta_jax.training.config import OptimizerConfig, TrainingConfig
from deberta_jax.training.flops import count_flops
from deberta_jax.training.method import one_objective
from deberta_jax.training.step import place

OBJECTIVE = plain_objective(KINDS["single_label"].objective)
DEEP = dataclasses.replace(CONFIG, num_hidden_layers=3)


def build_of(config):
    return lambda key: SequenceClassification(config, key=key)


@pytest.mark.parametrize("layers", [LayersConfig(freeze_embeddings=True), LayersConfig(freeze_layers=2)])
def test_frozen_parameters_stay_as_they_are_and_have_no_optimizer_state(layers):
    build, mesh = build_of(DEEP), eight_devices()
    model = jax.jit(build)(jax.random.key(0))
    before = {name: np.asarray(leaf) for name, leaf in parameters(model).items()}
    optimizer = OptimizerConfig(learning_rate=1e-2, warmup=0.0, weight_decay=0.1, layer_decay=0.9)
    method = one_objective(
        TrainingConfig(steps=10, batch_size=B, optimizer=optimizer),
        build,
        freeze_objective(OBJECTIVE, layers),
        lambda model: trained_parameters(model, DEEP, layers),
        adapt=lambda inner: of_upper_layers(inner, frozen_groups(DEEP, layers)),
    )
    state = state_of(model, method.build, method.optimizer, mesh)
    moments = {leaf.shape for leaf in jax.tree.leaves(state.optimizer_state) if leaf.ndim > 1}
    assert before["deberta.embeddings.word.embedding"].shape not in moments
    rows = 3 - layers.freeze_layers
    assert (rows, *before["deberta.encoder.layers.up.kernel"].shape[1:]) in moments
    step = method.make_step(shardings(state, mesh))
    batch = {name: np.asarray(values) for name, values in batch_for("single_label").items()}
    with jax.numpy_dtype_promotion("standard"):
        state, _ = step(state, place(batch, mesh))
    for name, leaf in parameters(state.model).items():
        changed = np.asarray(leaf) != before[name]
        if ".embeddings." in name or "encoder.relative" in name:
            assert not changed.any(), name
        elif ".layers." in name:
            assert not changed[: layers.freeze_layers].any(), name
            # The bias of the keys has a gradient of 0.
            assert "key.bias" in name or changed[layers.freeze_layers :].any((*range(1, changed.ndim),)).all(), name
        else:
            assert changed.any(), name


def test_frozen_layers_have_no_backward_pass():
    config = dataclasses.replace(RELATIVE, num_hidden_layers=4)
    model = jax.eval_shape(build_of(config), jax.random.key(0))
    batch = batch_for("single_label")

    def flops(frozen):
        layers = LayersConfig(freeze_embeddings=True, freeze_layers=frozen)
        objective = freeze_objective(OBJECTIVE, layers)
        return count_flops(jax.grad(lambda model: objective(model, batch, None).loss), model)

    forward = count_flops(lambda model: OBJECTIVE(model, batch, None).loss, model)
    steps = np.diff([flops(frozen) for frozen in range(5)])
    # Each layer saves its backward pass, which costs twice its forward pass.
    np.testing.assert_allclose(steps[1:3], steps[1])
    assert -steps[1] == pytest.approx(2 * forward / 4, rel=0.1)
    assert flops(4) < 1.02 * forward


def test_the_top_layers_are_drawn_as_the_initializer_does_and_the_others_are_kept():
    build = jax.jit(build_of(DEEP))
    model, fresh = build(jax.random.key(0)), build(jax.random.key(7))
    changed = jax.jit(lambda model: reinitialize_top(model, build_of(DEEP), 2, jax.random.key(7)))(model)
    for name, leaf in parameters(changed).items():
        old, new = np.asarray(parameters(model)[name]), np.asarray(parameters(fresh)[name])
        expected = np.concatenate([old[:1], new[1:]]) if ".layers." in name else old
        np.testing.assert_array_equal(leaf, expected, err_msg=name)


def test_an_optimizer_of_upper_layers_is_that_of_a_model_of_these_layers():
    params = {"encoder": {"layers": {"kernel": np.ones((3, 2), np.float32)}}, "head": np.ones(2, np.float32)}
    gradients = jax.tree.map(lambda x: np.float32(2) * x, params)
    inner = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.5))
    optimizer = of_upper_layers(inner, 2)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    # The norm of the gradients of what is trained is 4.
    np.testing.assert_allclose(updates["head"], [-0.25, -0.25], rtol=1e-6)
    np.testing.assert_allclose(updates["encoder"]["layers"]["kernel"], [[0, 0], [0, 0], [-0.25, -0.25]], rtol=1e-6)


def test_options_that_do_not_fit_the_model_are_one_line():
    shared = dataclasses.replace(CONFIG, num_hidden_layers=4, num_hidden_groups=2)
    for layers, config, lora, scratch, message in (
        (LayersConfig(freeze_layers=3), CONFIG, 0, False, "freeze_layers is 3, but the model has 2 layers"),
        (LayersConfig(reinitialize_layers=1), shared, 0, False, "must be a multiple of 2, the layers that share"),
        (LayersConfig(reinitialize_layers=1, freeze_layers=2), CONFIG, 0, False, "overlap in a model of 2 layers"),
        (LayersConfig(freeze_embeddings=True), CONFIG, 4, False, "lora.rank freezes the whole encoder"),
        (LayersConfig(reinitialize_layers=1), CONFIG, 0, True, "from_scratch initializes all weights"),
    ):
        with pytest.raises(InputError, match=message):
            layers.check(config, lora_rank=lora, from_scratch=scratch)
    with pytest.raises(InputError, match="freeze_layers is -1; it must be at least 0"):
        LayersConfig(freeze_layers=-1)


@pytest.mark.parametrize("pooling", ["mean", "attention", "weighted-layers"])
def test_a_model_with_another_pooler_is_saved_and_loaded_exactly(pooling, tokenizer, tmp_path):
    labels = ("a", "b", "c")
    fields = {"vocab_size": 368, "classifier_pooling": pooling, "labels": labels}
    config = dataclasses.replace(CONFIG, **fields)
    model = jax.jit(build_of(config))(jax.random.key(0))
    save_pretrained(tmp_path / "model", model, tokenizer)
    # transformers has no class for this head.
    assert read_json(tmp_path / "model/config.json")["architectures"] == ["DebertaV2Model"]
    stored = read_folder(tmp_path / "model")
    assert head_of_file(stored.config, stored.tensors) == "sequence_classification"
    loaded, _ = load_pretrained(tmp_path / "model", "sequence_classification")
    assert loaded.config == config
    for leaf, other in zip(jax.tree.leaves(model), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(leaf, other)
    # The encoder alone, and a head of other labels, can be read from it.
    load_pretrained(tmp_path / "model")
    other, _ = from_pretrained(tmp_path / "model", "sequence_classification", labels=("x", "y"))
    assert other.text_classifier.kernel.shape[1] == 2


def test_a_run_with_a_pooler_and_a_frozen_encoder_trains_the_head_alone(pretrained, tmp_path):
    separable, folder = SEPARABLE["single_label"](tmp_path), tmp_path / "run"
    words = ("generic", "--data", tmp_path / separable.data, "--model", pretrained, *separable.options)
    options = ("--max-length", "16", "--batch-size", "16", "--epochs", "1", "--optimizer.learning-rate", "1e-2")
    more = ("--pooling", "mean", "--freeze-layers", "1")
    assert call("finetune", *words, *options, *more, "--folder", folder) == 0
    model, tokenizer = from_pretrained(folder / "model", "sequence_classification")
    base, _ = load_pretrained(pretrained)
    for name, leaf in parameters(base).items():
        np.testing.assert_array_equal(leaf, parameters(model.deberta)[name], err_msg=name)
    assert model.config.classifier_pooling == "mean"
    results = classify(model, tokenizer, ["the of shells it", "eats"])
    assert all(sum(result.scores.values()) == pytest.approx(1) for result in results)
