"""Heads for tasks: classification of texts and tokens, spans, choices and entities."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deberta_jax.config import DebertaConfig, Remat
from deberta_jax.model.activation import activation, gelu
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.inputs import DType, Key, Mask, Tokens, as_arrays, split_key
from deberta_jax.model.linear import Linear
from deberta_jax.ops.dropout import dropout
from deberta_jax.ops.precision import accumulation_dtype, upcast

# The score of an entity without tokens (golden d46).
ABSENT = -10000.0


class Pooler(nnx.Module):
    """The state of the first token through a dense layer and an activation."""

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray):
        self.config = config
        self.dense = square(config, key)

    def __call__(self, states: Float[Array, "B T D"], *, key: Key = None) -> Float[Array, "B D"]:
        first = dropout(states[:, 0], self.config.pooler_dropout, key=key)
        return activation(self.config.pooler_hidden_act)(self.dense(first))


class SequenceClassification(nnx.Module):
    """Classification or regression of a text: pooler and linear map (docs/numerics.md, "Heads and losses").

    Logits are [B, C] for the C `labels` of the config; with one label they are the predicted number.
    """

    def __init__(self, config: DebertaConfig, *, dtype: DType = None, remat: Remat = "none", key: PRNGKeyArray):
        keys = jax.random.split(key, 3)
        self.deberta = Deberta(config, dtype=dtype, remat=remat, key=keys[0])
        self.pooler = Pooler(config, key=keys[1])
        self.classifier = project(config, len(config.labels), keys[2])

    def __call__(
        self,
        input_ids: Tokens,
        attention_mask: Mask = None,
        *,
        token_type_ids: Tokens | None = None,
        position_ids: Tokens | None = None,
        key: Key = None,
    ) -> Float[Array, "B C"]:
        """Logits, in float32 or wider. Arguments as `Deberta`."""
        keys = split_key(key, 2)
        states = self.deberta(
            input_ids, attention_mask, token_type_ids=token_type_ids, position_ids=position_ids, key=keys[0]
        ).last_hidden_state
        return self.head(states, key=keys[1])

    def head(self, states: Float[Array, "B T D"], *, key: Key = None) -> Float[Array, "B C"]:
        """Logits from the states of the last layer."""
        return pooled_logits(self.deberta.config, self.pooler, self.classifier, states, key)


class MultipleChoice(nnx.Module):
    """One of several choices: each choice is a text of its own, pooled and scored."""

    def __init__(self, config: DebertaConfig, *, dtype: DType = None, remat: Remat = "none", key: PRNGKeyArray):
        keys = jax.random.split(key, 3)
        self.deberta = Deberta(config, dtype=dtype, remat=remat, key=keys[0])
        self.pooler = Pooler(config, key=keys[1])
        self.classifier = project(config, 1, keys[2])

    def __call__(
        self,
        input_ids: Int[ArrayLike, "B M T"],
        attention_mask: Mask = None,
        *,
        token_type_ids: Int[ArrayLike, "B M T"] | None = None,
        position_ids: Int[ArrayLike, "B M T"] | None = None,
        key: Key = None,
    ) -> Float[Array, "B M"]:
        """Logits of the M choices of each example, in float32 or wider; the mask is [B, M, T]."""
        keys = split_key(key, 2)
        ids = jnp.asarray(input_ids)
        B, M, T = ids.shape
        inputs = attention_mask, token_type_ids, position_ids
        mask, types, positions = (None if x is None else x.reshape(B * M, T) for x in as_arrays(*inputs))
        ids = ids.reshape(B * M, T)
        output = self.deberta(ids, mask, token_type_ids=types, position_ids=positions, key=keys[0])
        return self.head(output.last_hidden_state, key=keys[1]).reshape(B, M)

    def head(self, states: Float[Array, "B T D"], *, key: Key = None) -> Float[Array, "B"]:
        """The score of each text from the states of the last layer."""
        return pooled_logits(self.deberta.config, self.pooler, self.classifier, states, key)[:, 0]


class TokenClassification(nnx.Module):
    """A label for each token: a linear map, after a dense layer in Microsoft's form (`projected`)."""

    def __init__(
        self,
        config: DebertaConfig,
        *,
        projected: bool = False,
        dtype: DType = None,
        remat: Remat = "none",
        key: PRNGKeyArray,
    ):
        keys = jax.random.split(key, 3)
        self.deberta = Deberta(config, dtype=dtype, remat=remat, key=keys[0])
        self.projection = square(config, keys[1]) if projected else None
        self.classifier = project(config, len(config.labels), keys[2])

    def __call__(
        self,
        input_ids: Tokens,
        attention_mask: Mask = None,
        *,
        token_type_ids: Tokens | None = None,
        position_ids: Tokens | None = None,
        key: Key = None,
    ) -> Float[Array, "B T C"]:
        """Logits, in float32 or wider. Arguments as `Deberta`."""
        keys = split_key(key, 2)
        states = self.deberta(
            input_ids, attention_mask, token_type_ids=token_type_ids, position_ids=position_ids, key=keys[0]
        ).last_hidden_state
        return self.head(states, key=keys[1])

    def head(self, states: Float[Array, "B T D"], *, key: Key = None) -> Float[Array, "B T C"]:
        """Logits from the states of the last layer."""
        if self.projection is not None:
            states = gelu(self.projection(states))
        return upcast(self.classifier(dropout(states, classifier_dropout(self.deberta.config), key=key)))


class SpanLogits(NamedTuple):
    """How well an answer starts, and ends, at each token."""

    start: Float[Array, "B T"]
    end: Float[Array, "B T"]


class QuestionAnswering(nnx.Module):
    """Start and end of an answer in a text (Hugging Face's head: one linear map)."""

    def __init__(self, config: DebertaConfig, *, dtype: DType = None, remat: Remat = "none", key: PRNGKeyArray):
        keys = jax.random.split(key)
        self.deberta = Deberta(config, dtype=dtype, remat=remat, key=keys[0])
        self.span = project(config, 2, keys[1])

    def __call__(
        self,
        input_ids: Tokens,
        attention_mask: Mask = None,
        *,
        token_type_ids: Tokens | None = None,
        position_ids: Tokens | None = None,
        key: Key = None,
    ) -> SpanLogits:
        """Logits of start and end, in float32 or wider. Arguments as `Deberta`."""
        output = self.deberta(
            input_ids, attention_mask, token_type_ids=token_type_ids, position_ids=position_ids, key=key
        )
        return self.head(output.last_hidden_state)

    def head(self, states: Float[Array, "B T D"]) -> SpanLogits:
        """Logits from the states of the last layer."""
        logits = upcast(self.span(states))
        return SpanLogits(logits[..., 0], logits[..., 1])


class EntityScoring(nnx.Module):
    """Which entities of a passage answer a query: Microsoft's head for ReCoRD.

    An entity is the sum of its tokens' states, weighted by their attention from the first token.
    """

    def __init__(self, config: DebertaConfig, *, dtype: DType = None, remat: Remat = "none", key: PRNGKeyArray):
        keys = jax.random.split(key, 3)
        self.deberta = Deberta(config, dtype=dtype, remat=remat, key=keys[0])
        self.projection = square(config, keys[1])
        self.classifier = project(config, 1, keys[2])

    def __call__(
        self,
        input_ids: Tokens,
        attention_mask: Mask = None,
        *,
        entity_positions: Int[ArrayLike, "B E P"],
        token_type_ids: Tokens | None = None,
        position_ids: Tokens | None = None,
        key: Key = None,
    ) -> Float[Array, "B E"]:
        """A logit for each entity, whose tokens are at `entity_positions` (0: no token); -10000 without tokens."""
        keys = split_key(key, 2)
        states = self.deberta(
            input_ids, attention_mask, token_type_ids=token_type_ids, position_ids=position_ids, key=keys[0]
        ).last_hidden_state
        return self.head(states, jnp.asarray(entity_positions), key=keys[1])

    def head(
        self, states: Float[Array, "B T D"], entity_positions: Int[Array, "B E P"], *, key: Key = None
    ) -> Float[Array, "B E"]:
        """Logits from the states of the last layer."""
        B, E, P = entity_positions.shape
        exists = entity_positions > 0
        scores = jnp.einsum("BTD,BD->BT", states, states[:, 0], preferred_element_type=accumulation_dtype(states.dtype))
        scores = scores * (1 / math.sqrt(states.shape[-1]))
        scores = jnp.take_along_axis(scores, entity_positions.reshape(B, E * P), axis=1).reshape(B, E, P)
        lowest = float(jnp.finfo(scores.dtype).min)
        weights = jnp.where(exists, jax.nn.softmax(jnp.where(exists, scores, lowest), axis=-1), 0)
        tokens = jnp.take_along_axis(states, entity_positions.reshape(B, E * P, 1), axis=1).reshape(B, E, P, -1)
        entities = jnp.einsum("BEP,BEPD->BED", weights.astype(states.dtype), tokens)
        hidden = gelu(self.projection(entities))
        hidden = dropout(hidden, classifier_dropout(self.deberta.config), key=key)
        return jnp.where(exists.any(-1), upcast(self.classifier(hidden))[..., 0], ABSENT)


def pooled_logits(
    config: DebertaConfig, pooler: Pooler, classifier: Linear, states: Float[Array, "B T D"], key: Key
) -> Float[Array, "B C"]:
    """Pooler, dropout, linear map."""
    keys = split_key(key, 2)
    return upcast(classifier(dropout(pooler(states, key=keys[0]), classifier_dropout(config), key=keys[1])))


def square(config: DebertaConfig, key: PRNGKeyArray) -> Linear:
    """A map from hidden width to hidden width."""
    D = config.hidden_size
    return Linear((D, D), (None, "embed"), stddev=config.initializer_range, key=key)


def project(config: DebertaConfig, outputs: int, key: PRNGKeyArray) -> Linear:
    """A map from hidden width to a few outputs, which are never split over a mesh."""
    return Linear((config.hidden_size, outputs), ("embed", None), stddev=config.initializer_range, key=key)


def classifier_dropout(config: DebertaConfig) -> float:
    """The rate of dropout before a classifier."""
    return config.hidden_dropout_prob if config.cls_dropout is None else config.cls_dropout
