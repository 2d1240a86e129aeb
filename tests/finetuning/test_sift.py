"""Virtual adversarial training: the perturbation increases the divergence for every kind of task, at a bounded cost."""

import jax
import numpy as np
import pytest
from task_batches import BATCHES, TOKENS, batch_for, build_for
from toy_training import CONFIG, RELATIVE, T, eight_devices, one_device, train_steps

from deberta_jax.errors import InputError
from deberta_jax.finetuning.config import SiftConfig
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.objectives import plain_objective
from deberta_jax.finetuning.sift import adversarial_passes, sift
from deberta_jax.training.flops import count_flops

SETTINGS = SiftConfig(weight=5.0, learning_rate=0.05, initial=0.1)


def noise_for(batch):
    sequences = batch["input_ids"].size // T
    return 0.1 * jax.random.normal(jax.random.key(5), (sequences, T, CONFIG.hidden_size))


@pytest.fixture(scope="module")
def classifier():
    return jax.jit(build_for("single_label"))(jax.random.key(0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_perturbation_increases_the_divergence_and_has_no_gradient_to_word_embeddings(kind):
    task, batch = KINDS[kind].objective, batch_for(kind)

    def loss(model):
        passes = adversarial_passes(task, SETTINGS, model, batch, noise_for(batch))
        clean = jax.lax.stop_gradient(passes.clean)
        # Of logits: the probabilities of a new model are so similar that rounding hides their differences.
        divergences = [task.divergence("mse", outputs, clean, batch) for outputs in (passes.first, passes.second)]
        # Gradients of the perturbed pass only.
        return task.divergence("kl", passes.second, clean, batch), (divergences, passes)

    model = jax.jit(build_for(kind))(jax.random.key(0))
    gradient, ((first, second), passes) = jax.jit(jax.grad(loss, has_aux=True))(model)
    assert second > first
    initial, moved = np.asarray(passes.initial_perturbation), np.asarray(passes.perturbation)
    assert np.abs(initial).max() <= 0.2 + 1e-6
    # Each token moves at most by the learning rate, because its gradient is divided by its largest value.
    assert np.abs(moved - initial).max() <= 0.05 + 1e-6
    assert np.isfinite(np.asarray(passes.gradient)).all()
    # The output of a language model is tied to them.
    if KINDS[kind].head != "masked_lm":
        assert not np.asarray(gradient.deberta.embeddings.word.embedding[...]).any()
    assert np.asarray(gradient.deberta.encoder.layers.up.kernel[...]).any()


def test_rows_of_padding_do_not_change_the_loss(classifier):
    task, batch = KINDS["single_label"].objective, batch_for("single_label")
    noise = noise_for(batch)

    @jax.jit
    def loss(model, batch, noise):
        return adversarial_passes(task, SETTINGS, model, batch, noise).adversarial

    without = jax.tree.map(lambda values: values[:7], batch)
    assert loss(classifier, batch, noise) == pytest.approx(float(loss(classifier, without, noise[:7])), rel=1e-5)


def test_in_evaluation_the_objective_is_that_of_the_task(classifier):
    task, batch = KINDS["single_label"].objective, batch_for("single_label")
    losses = [
        jax.jit(lambda model, f=f: f(model, batch, None).loss)(classifier)
        for f in (sift(task, SETTINGS), plain_objective(task))
    ]
    assert losses[0] == losses[1]


def test_eight_devices_compute_the_same_losses_as_one_and_both_losses_are_reported(classifier):
    objective, batch = sift(KINDS["single_label"].objective, SETTINGS), TOKENS | BATCHES["single_label"]
    _, (one, eight) = zip(
        *(
            train_steps(mesh, build_for("single_label"), classifier, objective, batch, steps=3, learning_rate=1e-3)
            for mesh in (one_device(), eight_devices())
        ),
        strict=True,
    )
    names = ("loss", "task_loss", "adversarial_loss")
    for a, b in zip(one, eight, strict=True):
        assert [a[name] for name in names] == pytest.approx([b[name] for name in names], rel=1e-4)
        assert a["loss"] == pytest.approx(a["task_loss"] + 5 * a["adversarial_loss"], rel=1e-5)


def test_a_step_costs_three_forward_and_two_backward_passes():
    task, batch = KINDS["single_label"].objective, batch_for("single_label")
    model = jax.eval_shape(build_for("single_label", RELATIVE), jax.random.key(0))

    def flops(objective):
        gradient = jax.jit(jax.grad(lambda model: objective(model, batch, jax.random.key(1)).loss))
        return count_flops(gradient, model)

    ratio = flops(sift(task, SETTINGS)) / flops(plain_objective(task))
    # With a cost of 1 forward and 2 backward it is (3 + 2 * 2 + the cost of the perturbation) / 3.
    assert 2 < ratio < 3.2


def test_invalid_options_are_refused():
    with pytest.raises(InputError, match="sift.weight is -1"):
        SiftConfig(weight=-1.0)
