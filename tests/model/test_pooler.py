"""Poolers of text classifiers: each vector is what a short loop computes, from real tokens alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import IDS, MASK, V3, call
from small_models import _random as random_parameters

from deberta_jax.errors import InputError
from deberta_jax.model.heads import SequenceClassification
from deberta_jax.model.surgery import first_layers

POOLING = "cls", "mean", "max", "attention", "weighted-layers"


@functools.cache
def classifier(pooling):
    return random_parameters(SequenceClassification, dataclasses.replace(V3, classifier_pooling=pooling), ())


@functools.cache
def encoder_states():
    """The states of all layers; the encoders of all models are the same."""
    states = call(classifier("weighted-layers").deberta, IDS, MASK, output_hidden_states=True)
    return np.asarray(states.hidden_states, np.float64)


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def pooled(model, pooling, layers):
    """The vector of a text from the states of its real tokens, [L + 1, T, D]."""
    states = layers[-1]
    if pooling == "cls":
        return states[0]
    if pooling == "max":
        return states.max(0)
    if pooling == "mean":
        return states.mean(0)
    if pooling == "weighted-layers":
        weights = softmax(np.asarray(model.pooler.layer_scores[...], np.float64))
        return sum(weight * layer.mean(0) for weight, layer in zip(weights, layers[1:], strict=True))
    scorer = model.pooler.scorer
    hidden = np.tanh(states @ np.asarray(scorer.dense.kernel[...]) + np.asarray(scorer.dense.bias[...]))
    return softmax(hidden @ np.asarray(scorer.score.kernel[...])[:, 0]) @ states


@pytest.mark.parametrize("pooling", POOLING)
def test_the_classifier_reads_the_pooled_states_of_real_tokens(pooling):
    model = classifier(pooling)
    encoder = model.deberta if pooling == "weighted-layers" else classifier("weighted-layers").deberta
    for leaf, other in zip(jax.tree.leaves(model.deberta), jax.tree.leaves(encoder), strict=True):
        np.testing.assert_array_equal(leaf, other)
    logits = call(model, IDS, MASK)
    kernel, bias = (np.asarray(x[...]) for x in (model.text_classifier.kernel, model.text_classifier.bias))
    for number in range(2):
        layers = encoder_states()[:, number][:, np.asarray(MASK[number]) == 1]
        expected = pooled(model, pooling, layers) @ kernel + bias
        np.testing.assert_allclose(logits[number], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pooling", POOLING)
def test_padding_does_not_reach_the_logits(pooling):
    model, other = classifier(pooling), jnp.where(MASK == 1, IDS, 7)
    assert np.array_equal(call(model, IDS, MASK), call(model, other, MASK))


def test_fewer_layers_keep_their_weights():
    model = first_layers(classifier("weighted-layers"), 2)
    assert model.pooler.layer_scores.shape == (2,)


def test_an_unknown_pooling_is_one_line():
    with pytest.raises(InputError, match="classifier_pooling is 'sum', expected one of cls, mean, max, attention"):
        dataclasses.replace(V3, classifier_pooling="sum")
