"""The fast gradient method: a perturbation of a given norm along the gradient, in two forward and backward passes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from task_batches import BATCHES, TOKENS, batch_for, build_for
from toy_training import CONFIG, RELATIVE, eight_devices, one_device, train_steps

from deberta_jax.errors import InputError
from deberta_jax.finetuning.config import FinetuneConfig, LoraConfig, SiftConfig
from deberta_jax.finetuning.fgm import fgm, fgm_passes
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.lora import LoraModel, lora_objective, trainable
from deberta_jax.finetuning.objectives import plain_objective
from deberta_jax.finetuning.techniques import AwpConfig, FgmConfig, Techniques
from deberta_jax.model.heads import SequenceClassification
from deberta_jax.training.flops import count_flops
from deberta_jax.training.step import mean_gradient

EPSILON = 0.1
TASK = KINDS["single_label"].objective


@pytest.fixture(scope="module")
def classifier():
    return jax.jit(build_for("single_label"))(jax.random.key(0))


@pytest.mark.parametrize("kind", ["single_label", "multiple_choice", "seq2seq"])
def test_the_perturbation_has_the_given_norm_along_the_gradient_and_increases_the_loss(kind):
    batch, model = batch_for(kind), jax.jit(build_for(kind))(jax.random.key(0))
    passes = jax.jit(lambda model: fgm_passes(KINDS[kind].objective, EPSILON, model, batch))(model)
    assert passes.adversarial.loss > passes.clean.loss
    perturbations, gradients = np.asarray(passes.perturbation), np.asarray(passes.gradient)
    mask = np.asarray(batch["attention_mask"]).reshape(len(perturbations), -1)
    for perturbation, gradient, tokens in zip(perturbations, gradients, mask, strict=True):
        norm = np.linalg.norm(gradient)
        expected = EPSILON * gradient / norm if norm else np.zeros_like(gradient)
        np.testing.assert_allclose(perturbation, expected, rtol=1e-4, atol=1e-7)
        assert not perturbation[tokens == 0].any()


def test_the_gradient_is_that_of_finite_differences_of_the_embeddings(classifier):
    batch = batch_for("single_label")
    passes = jax.jit(lambda model: fgm_passes(TASK, EPSILON, model, batch))(classifier)
    gradient = np.asarray(passes.gradient)
    # Both passes with the same tiny perturbation: the loss moves by its norm times that of the gradient.
    tiny = jax.jit(lambda model: fgm_passes(TASK, 1e-3, model, batch))(classifier)
    rise = float(tiny.adversarial.loss - tiny.clean.loss)
    assert rise == pytest.approx(1e-3 * sum(np.linalg.norm(row) for row in gradient), rel=0.1)


def test_the_objective_is_the_sum_of_both_losses_with_the_gradient_of_both(classifier):
    batch, key = batch_for("single_label"), jax.random.key(3)

    def both(model):
        passes = fgm_passes(TASK, EPSILON, jax.lax.stop_gradient(model), batch, tuple(jax.random.split(key)))
        keys = jax.random.split(key)
        shifted = jax.lax.stop_gradient(passes.perturbation)
        clean = TASK.sums(TASK.outputs(model, batch, keys[0]), batch).loss
        return clean + _shifted_loss(model, shifted, batch, keys[1])

    value, gradient = jax.jit(jax.value_and_grad(lambda model: fgm(TASK, EPSILON)(model, batch, key).loss))(classifier)
    expected, reference = jax.jit(jax.value_and_grad(both))(classifier)
    assert value == pytest.approx(float(expected), rel=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), gradient, reference)


def _shifted_loss(model, perturbation, batch, key):
    """The loss with embeddings of words that are moved, for a model whose embeddings are not projected."""
    embeddings = model.deberta.embeddings
    words = embeddings.word.embedding[...][batch["input_ids"]] + perturbation
    keys = jax.random.split(key)
    output = model.deberta(
        None, batch["attention_mask"], inputs_embeds=words, token_type_ids=batch["token_type_ids"], key=keys[0]
    )
    return TASK.sums(model.head(output.last_hidden_state, key=keys[1]).logits, batch).loss


def test_in_evaluation_the_objective_is_that_of_the_task(classifier):
    batch = batch_for("single_label")
    losses = [jax.jit(lambda model, f=f: f(model, batch, None).loss)(classifier) for f in (fgm(TASK, 0.1), _plain)]
    assert losses[0] == losses[1]


def _plain(model, batch, key):
    return plain_objective(TASK)(model, batch, key)


def test_eight_devices_compute_the_same_losses_as_one_and_both_losses_are_reported(classifier):
    objective, batch = fgm(TASK, EPSILON), TOKENS | BATCHES["single_label"]
    runs = [
        train_steps(mesh, build_for("single_label"), classifier, objective, batch, steps=3, learning_rate=1e-3)[1]
        for mesh in (one_device(), eight_devices())
    ]
    names = ("loss", "task_loss", "adversarial_loss")
    for one, eight in zip(*runs, strict=True):
        assert [one[name] for name in names] == pytest.approx([eight[name] for name in names], rel=1e-4)
        assert one["loss"] == pytest.approx(one["task_loss"] + one["adversarial_loss"], rel=1e-5)
        assert one["adversarial_loss"] > one["task_loss"] - 0.05


def test_micro_batches_have_the_gradient_of_the_batch_because_sequences_are_perturbed_one_by_one():
    def build(key):
        return SequenceClassification(dataclasses.replace(CONFIG, cls_dropout=0.0), key=key)

    model, batch, key = jax.jit(build)(jax.random.key(0)), batch_for("single_label"), jax.random.key(1)
    where = jax.tree.map(lambda x: x.sharding, model)
    (sums, gradient), (expected_sums, expected) = (
        jax.jit(lambda model, n=n: mean_gradient(fgm(TASK, EPSILON), model, batch, key, where, n))(model)
        for n in (4, 1)
    )
    assert float(sums.loss) == pytest.approx(float(expected_sums.loss), rel=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), gradient, expected)


def test_a_step_costs_two_forward_and_two_backward_passes():
    batch = batch_for("single_label")
    model = jax.eval_shape(build_for("single_label", RELATIVE), jax.random.key(0))

    def flops(objective):
        gradient = jax.jit(jax.grad(lambda model: objective(model, batch, jax.random.key(1)).loss))
        return count_flops(gradient, model)

    ratio = flops(fgm(TASK, EPSILON)) / flops(plain_objective(TASK))
    assert ratio == pytest.approx(2, rel=0.01)


def test_adapters_are_trained_with_perturbed_embeddings(classifier):
    model = LoraModel(classifier, LoraConfig(rank=2), key=jax.random.key(1))
    batch, key = batch_for("single_label"), jax.random.key(2)
    objective = lora_objective(fgm(TASK, EPSILON))
    gradient = jax.jit(jax.grad(lambda model: objective(model, batch, key).loss))(model)
    trained = jax.tree.leaves(trainable(model))
    assert all(bool(jnp.any(g)) <= flag for g, flag in zip(jax.tree.leaves(gradient), trained, strict=True))
    assert any(bool(jnp.any(g)) for g in jax.tree.leaves(gradient.adapters))


def test_invalid_options_and_two_kinds_of_adversarial_training_are_refused():
    with pytest.raises(InputError, match="fgm.epsilon is -1"):
        FgmConfig(epsilon=-1.0)
    with pytest.raises(
        InputError, match="^--sift.weight and --fgm.epsilon are set; use one kind of adversarial training$"
    ):
        FinetuneConfig(sift=SiftConfig(weight=5.0), techniques=Techniques(fgm=FgmConfig(1.0)))
    with pytest.raises(InputError, match="^--fgm.epsilon and --awp.learning-rate are set"):
        FinetuneConfig(techniques=Techniques(fgm=FgmConfig(1.0), awp=AwpConfig(1e-3)))
