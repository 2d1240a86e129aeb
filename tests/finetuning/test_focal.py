"""Focal loss and class weights: values by hand, and sums that do not depend on how a batch is split."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_training import B, C, T

from deberta_jax.errors import InputError
from deberta_jax.finetuning.class_weights import class_weights
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.kinds.kind import objective_with_options
from deberta_jax.finetuning.techniques import Techniques
from deberta_jax.training.losses import (
    binary_cross_entropy,
    binary_focal_cross_entropy,
    focal_cross_entropy,
    soft_cross_entropy,
)

WEIGHTS, GAMMA, SMOOTHING = (0.5, 2.0, 3.0), 2.0, 0.1
RNG = np.random.default_rng(1)
LOGITS = {
    "single_label": RNG.normal(size=(B, C)),
    "multi_label": RNG.normal(size=(B, C)),
    "token": RNG.normal(size=(B, T, C)),
}
LABELS = {
    "single_label": RNG.integers(0, C, B).astype(np.int32),
    "multi_label": RNG.integers(0, 2, (B, C)).astype(np.float32),
    "token": RNG.integers(0, C, (B, T)).astype(np.int32),
}


def batch_of(kind):
    shape = (B, T) if kind == "token" else (B,)
    return {
        "labels": jnp.asarray(LABELS[kind]),
        "weights": jnp.asarray(RNG.integers(0, 2, shape), jnp.float32),
        "attention_mask": jnp.ones((B, T), jnp.int32),
    }


def by_hand(kind, batch, weights, smoothing, gamma):
    """The weighted mean of the losses, in Python's numbers."""
    total = total_weight = 0.0
    logits, labels, examples = LOGITS[kind], LABELS[kind], np.asarray(batch["weights"])
    for index in np.ndindex(examples.shape):
        if kind == "multi_label":
            for c in range(C):
                label, weight = labels[index][c], examples[index] * (weights[c] if labels[index][c] else 1.0) / C
                target = (1 - smoothing) * label + smoothing / 2
                p = 1 / (1 + np.exp(-logits[index][c]))
                loss = -target * (1 - p) ** gamma * np.log(p) - (1 - target) * p**gamma * np.log(1 - p)
                total, total_weight = total + weight * loss, total_weight + weight
            continue
        p = np.exp(logits[index]) / np.exp(logits[index]).sum()
        label, weight = labels[index], examples[index] * weights[labels[index]]
        targets = [(1 - smoothing) * (c == label) + smoothing / C for c in range(C)]
        loss = -sum(t * (1 - q) ** gamma * np.log(q) for t, q in zip(targets, p, strict=True))
        total, total_weight = total + weight * loss, total_weight + weight
    return total / total_weight


@pytest.mark.parametrize("kind", LOGITS)
@pytest.mark.parametrize(
    ("weights", "smoothing", "gamma"),
    [((), 0.0, GAMMA), (WEIGHTS, 0.0, 0.0), (WEIGHTS, SMOOTHING, 0.0), (WEIGHTS, SMOOTHING, GAMMA)],
)
def test_the_loss_is_that_of_a_computation_by_hand(kind, weights, smoothing, gamma):
    task, batch = objective_with_options(KINDS[kind], weights, smoothing, gamma), batch_of(kind)
    sums = task.sums(jnp.asarray(LOGITS[kind], jnp.float32), batch)
    expected = by_hand(kind, batch, weights or (1.0,) * C, smoothing, gamma)
    assert sums.loss / sums.weight == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", LOGITS)
def test_sums_over_parts_of_a_batch_add_up_to_those_of_the_batch(kind):
    # So do micro-batches and devices, whose sums are added before the division.
    task, batch = objective_with_options(KINDS[kind], WEIGHTS, SMOOTHING, GAMMA), batch_of(kind)
    logits = jnp.asarray(LOGITS[kind], jnp.float32)
    whole = task.sums(logits, batch)
    parts = [task.sums(logits[rows], {name: x[rows] for name, x in batch.items()}) for rows in (slice(3), slice(3, B))]
    for name in ("loss", "weight"):
        assert sum(float(getattr(part, name)) for part in parts) == pytest.approx(float(getattr(whole, name)), rel=1e-6)


def test_gamma_0_is_the_cross_entropy_and_confident_predictions_have_finite_gradients():
    logits = jnp.asarray(LOGITS["single_label"], jnp.float32)
    targets = jax.nn.one_hot(LABELS["single_label"], C)
    np.testing.assert_allclose(
        focal_cross_entropy(logits, targets, 0.0), soft_cross_entropy(logits, targets), rtol=1e-6
    )
    np.testing.assert_allclose(
        binary_focal_cross_entropy(logits, targets, 0.0), binary_cross_entropy(logits, targets), rtol=1e-5, atol=1e-7
    )
    for gamma in (0.5, 2.0):
        for loss in (focal_cross_entropy, binary_focal_cross_entropy):
            for sign in (1, -1):
                gradient = jax.grad(lambda x, f=loss, g=gamma: f(x, targets, g).sum())(sign * 200 * (2 * targets - 1))
                assert np.isfinite(np.asarray(gradient)).all()


def test_balanced_weights_of_independent_labels_give_both_values_of_a_label_the_same_weight():
    weights = class_weights(("balanced",), ("a", "b", "c"), Counter(a=2, b=8), examples=10)
    assert weights == (4.0, 0.25, 10.0)


def test_kinds_without_classes_and_other_numbers_are_refused():
    with pytest.raises(InputError, match="focal need a task with classes; this task is of kind regression"):
        objective_with_options(KINDS["regression"], focal=2.0)
    task = objective_with_options(KINDS["multi_label"], (1.0, 2.0))
    with pytest.raises(InputError, match="class_weights has 2 values for 3 labels"):
        task.sums(jnp.asarray(LOGITS["multi_label"], jnp.float32), batch_of("multi_label"))
    with pytest.raises(InputError, match="focal is -1"):
        Techniques(focal=-1.0)
