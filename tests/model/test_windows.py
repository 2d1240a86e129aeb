"""Texts as several windows in one call of a model: windows do not see each other, and padding does not count."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import V3, call, ids_of
from small_models import _random as random_parameters

from deberta_jax.errors import InputError
from deberta_jax.model.heads import SequenceClassification
from deberta_jax.ops.pooling import WINDOW_POOLING

LABELS = ("a", "b", "c")
B, M, T = 4, 3, 12
IDS3 = ids_of(B * M, T, seed=3).reshape(B, M, T)
# Texts of one to three windows, and a row of padding; the last windows are shorter.
LENGTHS = np.asarray([[12, 12, 5], [12, 7, 0], [4, 0, 0], [0, 0, 0]])
MASK3 = (np.arange(T) < LENGTHS[..., None]).astype(np.int32)


@functools.cache
def classifier(pooling):
    windows = {"window_pooling": pooling, "max_windows": 4, "sequence_length": T} if pooling else {}
    return random_parameters(SequenceClassification, dataclasses.replace(V3, labels=LABELS, **windows), ())


@pytest.mark.parametrize("pooling", WINDOW_POOLING)
def test_the_logits_of_a_text_are_those_of_its_windows_combined(pooling):
    model = classifier(pooling)
    logits = call(model, IDS3, MASK3)
    assert logits.shape == (B, len(LABELS))
    rows = jax.jit(lambda model, *inputs: model.window_logits(*inputs))(
        model, IDS3.reshape(B * M, T), MASK3.reshape(B * M, T)
    )
    for number, count in enumerate((3, 2, 1)):
        each = np.asarray(rows.logits).reshape(B, M, -1)[number, :count]
        scores = np.asarray(rows.scores).reshape(B, M)[number, :count]
        weights = np.exp(scores) / np.exp(scores).sum()
        expected = each.max(0) if pooling == "max" else weights @ each
        np.testing.assert_allclose(logits[number], expected, rtol=1e-4, atol=1e-6)
    assert not np.asarray(logits[3]).any()
    # A text of one window has the logits of a plain classifier.
    plain = call(model, IDS3[:, 0], MASK3[:, 0])
    np.testing.assert_allclose(logits[2], plain[2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", WINDOW_POOLING)
def test_padding_does_not_reach_the_logits_of_a_text(pooling):
    model = classifier(pooling)
    other = jnp.where(MASK3 == 1, IDS3, 7)
    assert np.array_equal(call(model, IDS3, MASK3), call(model, other, MASK3))


def test_gradients_are_finite_with_absent_windows_and_reach_the_scores():
    model = classifier("attention")
    gradients = jax.jit(jax.grad(lambda model: jnp.sum(jnp.square(model(IDS3, MASK3)))))(model)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))
    assert np.asarray(gradients.window_scorer.score.kernel[...]).any()


def test_windows_need_a_model_that_combines_them():
    with pytest.raises(ValueError, match="attention_mask has shape"):
        classifier("mean")(IDS3, MASK3[:, 0])
    with pytest.raises(InputError, match="window_pooling is 'sum', expected one of mean, max, attention"):
        dataclasses.replace(V3, window_pooling="sum", max_windows=2, sequence_length=8)
    with pytest.raises(InputError, match="window_pooling needs max_windows and sequence_length"):
        dataclasses.replace(V3, window_pooling="mean")
