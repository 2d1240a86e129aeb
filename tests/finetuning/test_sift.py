"""Virtual adversarial training: what moves by it, what it costs, and that every kind of task can have it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.finetuning.objectives import (
    choice_objective,
    entity_objective,
    label_objective,
    number_objective,
    objective_of,
    several_objective,
    span_objective,
)
from deberta_jax.finetuning.sift import SiftConfig, adversarial, sift
from deberta_jax.model.heads import (
    EntityScoring,
    MultipleChoice,
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)
from deberta_jax.model.shardings import shardings
from deberta_jax.sharding import make_mesh
from deberta_jax.training.method import one_objective
from deberta_jax.training.optimizer import OptimizerConfig
from deberta_jax.training.run import TrainingConfig
from deberta_jax.training.state import abstract_state, initial_state
from deberta_jax.training.step import place

B, T, C = 8, 12, 3
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
    labels=("a", "b", "c"),
)
ONE = DebertaConfig(**{name: getattr(CONFIG, name) for name in ("vocab_size", "hidden_size", "num_hidden_layers")} | {
    "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32, "labels": ("score",),
})  # fmt: skip
SETTINGS = SiftConfig(weight=5.0, learning_rate=0.05, initial=0.1)
RNG = np.random.default_rng(0)
ROWS = {
    "input_ids": RNG.integers(1, 40, (B, T)).astype(np.int32),
    "attention_mask": (np.arange(T) < RNG.integers(6, T + 1, (B, 1))).astype(np.int32),
    "token_type_ids": np.zeros((B, T), np.int32),
    "weights": np.asarray([1, 1, 1, 1, 1, 1, 1, 0], np.float32),
}
CHOICES = {name: np.stack([ROWS[name]] * 3, 1) for name in ("input_ids", "attention_mask", "token_type_ids")}
CHOICES["input_ids"] = RNG.integers(1, 40, (B, 3, T)).astype(np.int32)
KINDS = {
    "single_label": (
        lambda key: SequenceClassification(CONFIG, key=key),
        label_objective(),
        ROWS | {"labels": RNG.integers(0, C, B).astype(np.int32)},
    ),
    "regression": (
        lambda key: SequenceClassification(ONE, key=key),
        number_objective(),
        ROWS | {"labels": RNG.normal(size=B).astype(np.float32)},
    ),
    "multi_label": (
        lambda key: SequenceClassification(CONFIG, key=key),
        several_objective(),
        ROWS | {"labels": RNG.integers(0, 2, (B, C)).astype(np.float32)},
    ),
    "token": (
        lambda key: TokenClassification(CONFIG, key=key),
        label_objective(),
        ROWS
        | {"labels": RNG.integers(0, C, (B, T)).astype(np.int32), "weights": ROWS["attention_mask"].astype(np.float32)},
    ),
    "extractive_qa": (
        lambda key: QuestionAnswering(CONFIG, key=key),
        span_objective(),
        ROWS | {"labels": RNG.integers(0, 6, (B, 2)).astype(np.int32)},
    ),
    "multiple_choice": (
        lambda key: MultipleChoice(CONFIG, key=key),
        choice_objective(),
        ROWS | CHOICES | {"labels": RNG.integers(0, 3, B).astype(np.int32)},
    ),
    "entity_ranking": (
        lambda key: EntityScoring(CONFIG, key=key),
        entity_objective(),
        ROWS
        | {
            "entity_positions": RNG.integers(1, 6, (B, 4, 2)).astype(np.int32),
            "labels": RNG.integers(0, 2, (B, 4)).astype(np.float32),
            "weights": np.ones((B, 4), np.float32),
        },
    ),
}


def arrays(batch):
    return {name: jnp.asarray(values) for name, values in batch.items()}


def noise(batch):
    rows = batch["input_ids"].size // T
    return 0.1 * jax.random.normal(jax.random.key(5), (rows, T, 16))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task_finds_a_worse_perturbation_than_chance(kind):
    build, task, batch = KINDS[kind]
    batch = arrays(batch)

    @jax.jit
    def distances(model):
        found = adversarial(task, SETTINGS, model, batch, noise(batch))
        clean = jax.lax.stop_gradient(found.clean)
        # Of logits: those of a new model are so like each other that rounding hides what probabilities do.
        apart = [task.divergence("mse", outputs, clean, batch) for outputs in (found.first, found.second)]
        return apart[0], apart[1], found.before, found.after, found.gradient

    first, second, before, after, gradient = distances(build(jax.random.key(0)))
    assert second > first
    assert np.abs(np.asarray(before)).max() <= 0.2 + 1e-6
    # A token moves by the learning rate at most: its gradient is scaled by its largest value.
    assert np.abs(np.asarray(after - before)).max() <= 0.05 + 1e-6
    assert np.isfinite(np.asarray(gradient)).all()


@pytest.mark.parametrize("kind", ["single_label", "token", "extractive_qa"])
def test_the_perturbed_passes_give_no_gradient_to_word_embeddings(kind):
    build, task, batch = KINDS[kind]
    batch = arrays(batch)

    def through_the_perturbed_pass(model):
        found = adversarial(task, SETTINGS, model, batch, noise(batch))
        # The clean outputs as if they were not the model's.
        return task.divergence("kl", found.second, jax.lax.stop_gradient(found.clean), batch)

    gradient = jax.jit(jax.grad(through_the_perturbed_pass))(build(jax.random.key(0)))
    assert not np.asarray(gradient.deberta.embeddings.word.embedding[...]).any()
    assert np.asarray(gradient.deberta.encoder.layers.up.kernel[...]).any()


def test_rows_of_padding_change_nothing():
    build, task, batch = KINDS["single_label"]
    model, batch = build(jax.random.key(0)), arrays(batch)
    cut = {name: values[:7] for name, values in batch.items()}

    def loss(model, its):
        return adversarial(task, SETTINGS, model, its, noise(batch)[: len(its["labels"])]).adversarial

    losses = [float(jax.jit(loss)(model, its)) for its in (batch, cut)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_without_a_key_it_is_the_task_alone():
    build, task, batch = KINDS["single_label"]
    model, batch = build(jax.random.key(0)), arrays(batch)
    assert sift(task, SETTINGS)(model, batch, None).loss == objective_of(task)(model, batch, None).loss


def after(objective, mesh, steps=3):
    build, _, batch = KINDS["single_label"]
    training = TrainingConfig(steps=10, batch_size=B, optimizer=OptimizerConfig(learning_rate=1e-3, warmup=0.0))
    method = one_objective(training, build, objective)
    abstract = abstract_state(build, method.optimizer, 0, mesh)
    state = initial_state(build, method.optimizer, 0, mesh)
    step = method.make_step(shardings(abstract, mesh))
    found = []
    for _ in range(steps):
        state, metrics = step(state, place(batch, mesh))
        found.append({name: float(metrics[name]) for name in ("loss", "task_loss", "adversarial_loss")})
    return found


def test_a_step_on_eight_devices_does_as_on_one_and_tells_both_losses():
    objective = sift(KINDS["single_label"][1], SETTINGS)
    one = after(objective, make_mesh(1, 1, 1, jax.devices()[:1]))
    eight = after(objective, make_mesh(2, 2, 2))
    for a, b in zip(one, eight, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
        assert a["loss"] == pytest.approx(a["task_loss"] + 5 * a["adversarial_loss"], rel=1e-5)


def test_a_step_costs_three_forward_and_two_backward_passes():
    build, task, batch = KINDS["single_label"]
    batch, model = arrays(batch), jax.eval_shape(build, jax.random.key(0))

    def flops(objective):
        gradient = jax.jit(jax.grad(lambda model: objective(model, batch, jax.random.key(1)).loss))
        return gradient.lower(model).compile().cost_analysis()["flops"]

    ratio = flops(sift(task, SETTINGS)) / flops(objective_of(task))
    # Of passes as dear as forward 1 and backward 2 it is (3 + 2 * 2 + the perturbation's own) / 3.
    assert 2 < ratio < 3.2


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(InputError, match="sift.weight is -1"):
        SiftConfig(weight=-1.0)
