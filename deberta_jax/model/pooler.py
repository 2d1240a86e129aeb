"""The input of a text classifier: the states of the tokens of a text as one vector, and the weight of a window."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.model.activation import activation
from deberta_jax.model.inputs import Key
from deberta_jax.model.linear import Linear
from deberta_jax.model.module import Configured
from deberta_jax.ops.dropout import dropout
from deberta_jax.ops.pooling import masked_softmax, pool
from deberta_jax.ops.precision import einsum, upcast

TokenMask = Bool[Array, "B T"] | None
LayerStates = Float[Array, "L B T D"] | None


class WindowLogits(NamedTuple):
    """The logits of texts, or of windows of long texts, and the score of each, whose softmax is its weight."""

    logits: Float[Array, "B C"]
    scores: Float[Array, "B"]


class Pooler(Configured):
    """The state of the first token through a dense layer and an activation."""

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray):
        activation(config.pooler_hidden_act)
        if config.pooler_hidden_size is not None:
            raise InputError(
                f"config: pooler_hidden_size is {config.pooler_hidden_size}, but the pooler reads states of "
                f"hidden_size {config.hidden_size}, as in transformers; set both to the same number"
            )
        self.config = config
        self.dense = square(config, key)

    def __call__(
        self, states: Float[Array, "B T D"], mask: TokenMask = None, layers: LayerStates = None, *, key: Key = None
    ) -> Float[Array, "B D"]:
        """One vector per text; every pooler takes these arguments, this one reads the first token alone."""
        first = dropout(states[:, 0], self.config.pooler_dropout, key=key)
        return activation(self.config.pooler_hidden_act)(self.dense(first))


class StatePooler(nnx.Module):
    """The first token ("cls"), or the mean or the maximum over the real tokens; no parameters."""

    def __init__(self, pooling: str):
        self.pooling = pooling

    def __call__(
        self, states: Float[Array, "B T D"], mask: TokenMask = None, layers: LayerStates = None, *, key: Key = None
    ) -> Float[Array, "B D"]:
        """One vector per text, in the dtype of the states."""
        return pool(states, token_mask(states, mask), self.pooling).astype(states.dtype)


class AttentionPooler(nnx.Module):
    """The mean over the real tokens, weighted by trained scores."""

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray):
        self.scorer = Scorer(config, key=key)

    def __call__(
        self, states: Float[Array, "B T D"], mask: TokenMask = None, layers: LayerStates = None, *, key: Key = None
    ) -> Float[Array, "B D"]:
        """One vector per text, in the dtype of the states."""
        weights = masked_softmax(self.scorer(states), token_mask(states, mask))
        return einsum("BTD,BT->BD", upcast(states), weights).astype(states.dtype)


class LayerPooler(nnx.Module):
    """The mean over the real tokens and over the layers, which have trained weights, equal at the start.

    The weights are a softmax, as in Peters et al. 2018, equation 1, without its scale.
    """

    def __init__(self, config: DebertaConfig):
        self.layer_scores = nnx.Param(jnp.zeros(config.num_hidden_layers), axes=(None,))

    def __call__(
        self, states: Float[Array, "B T D"], mask: TokenMask = None, layers: LayerStates = None, *, key: Key = None
    ) -> Float[Array, "B D"]:
        """One vector per text, in the dtype of the states; `layers` are the states of each layer."""
        assert layers is not None
        weights = jax.nn.softmax(upcast(self.layer_scores[...])[: layers.shape[0]])
        means = jax.vmap(lambda layer: pool(layer, token_mask(states, mask), "mean"))(layers)
        return einsum("LBD,L->BD", means, weights.astype(means.dtype)).astype(states.dtype)


class Scorer(nnx.Module):
    """The score of a vector, v tanh(W x + b), whose softmax is its weight (Yang et al. 2016, equations 5 and 6)."""

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray):
        keys = jax.random.split(key)
        self.dense = square(config, keys[0])
        self.score = Linear(
            (config.hidden_size, 1), ("embed", None), stddev=config.initializer_range, key=keys[1], bias=False
        )

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch"]:
        """The scores, in float32 or wider."""
        return upcast(self.score(jnp.tanh(self.dense(x))))[..., 0]


AnyPooler = Pooler | StatePooler | AttentionPooler | LayerPooler


def classifier_pooler(config: DebertaConfig, *, key: PRNGKeyArray) -> AnyPooler:
    """The pooler that `classifier_pooling` of the config names; by default the context pooler."""
    if config.classifier_pooling is None:
        return Pooler(config, key=key)
    if config.classifier_pooling == "attention":
        return AttentionPooler(config, key=key)
    if config.classifier_pooling == "weighted-layers":
        return LayerPooler(config)
    return StatePooler(config.classifier_pooling)


def token_mask(states: Float[Array, "B T D"], mask: TokenMask) -> Bool[Array, "B T"]:
    """The mask of the real tokens; without one, all are real."""
    return jnp.ones(states.shape[:2], bool) if mask is None else mask


def square(config: DebertaConfig, key: PRNGKeyArray) -> Linear:
    """A map from hidden width to hidden width."""
    D = config.hidden_size
    return Linear((D, D), (None, "embed"), stddev=config.initializer_range, key=key)


def project(config: DebertaConfig, outputs: int, key: PRNGKeyArray) -> Linear:
    """A map from hidden width to a few outputs, which are never split over a mesh."""
    return Linear((config.hidden_size, outputs), ("embed", None), stddev=config.initializer_range, key=key)
