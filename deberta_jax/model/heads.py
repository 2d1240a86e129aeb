"""Heads for tasks: classification of texts and tokens, spans, choices and entities."""

import math
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.model.activation import activation, gelu
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.encoder import EncoderOutput
from deberta_jax.model.inputs import Key, Mask, ModelInputs, Tokens, as_ids, split_key
from deberta_jax.model.linear import Linear
from deberta_jax.model.module import Configured, HeadModel, ModelOptions, cast_parameters, in_precision
from deberta_jax.ops.dropout import dropout
from deberta_jax.ops.precision import accumulation_dtype, einsum, upcast
from deberta_jax.sharding import on_explicit_meshes

# The score of an entity without tokens (golden d46).
ABSENT = -10000.0


# The inputs of `MultipleChoice` with an axis of choices, and their number of axes.
_CHOICE_AXES = {
    **dict.fromkeys(("input_ids", "attention_mask", "token_type_ids", "segment_ids", "position_ids"), 3),
    "inputs_embeds": 4,
    "pair_mask": 5,
    "bias": 5,
}


class HeadOutput(NamedTuple):
    """What a model with a head returns if hidden states or attentions are requested; without, only the logits."""

    logits: Any
    hidden_states: Float[Array, "L B T D"] | None
    attentions: Float[Array, "L B N T S"] | None


def with_encoder_output(logits: Any, output: EncoderOutput) -> Any:
    """The logits, with what the encoder returned on request."""
    if output.hidden_states is None and output.attentions is None:
        return logits
    return HeadOutput(logits, output.hidden_states, output.attentions)


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

    def __call__(self, states: Float[Array, "B T D"], *, key: Key = None) -> Float[Array, "B D"]:
        first = dropout(states[:, 0], self.config.pooler_dropout, key=key)
        return activation(self.config.pooler_hidden_act)(self.dense(first))


class SequenceClassification(HeadModel):
    """Classification or regression of a text: pooler and linear map (docs/numerics.md, "Heads and losses").

    Logits are [B, C] for the C `labels` of the config; with one label they are the predicted number.
    """

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray, **options: Unpack[ModelOptions]):
        keys = jax.random.split(key, 3)
        self.deberta = Deberta(config, key=keys[0], **options)
        self.pooler = Pooler(config, key=keys[1])
        self.classifier = project(config, len(config.labels), keys[2])
        cast_parameters(self, options.get("param_dtype"))

    @on_explicit_meshes
    def __call__(
        self,
        input_ids: Tokens | None = None,
        attention_mask: Mask = None,
        *,
        key: Key = None,
        **inputs: Unpack[ModelInputs],
    ) -> Any:
        """Logits [B, C], in float32 or wider, or a `HeadOutput`. Arguments as `Deberta`."""
        keys = split_key(key, 2)
        output = self.deberta(input_ids, attention_mask, key=keys[0], **inputs)
        return with_encoder_output(self.head(output.last_hidden_state, key=keys[1]), output)

    @in_precision
    def head(self, states: Float[Array, "B T D"], *, key: Key = None) -> Float[Array, "B C"]:
        """Logits from the states of the last layer."""
        return pooled_logits(self.deberta.config, self.pooler, self.classifier, states, key)


class MultipleChoice(HeadModel):
    """One of several choices: each choice is a text of its own, pooled and scored."""

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray, **options: Unpack[ModelOptions]):
        keys = jax.random.split(key, 3)
        self.deberta = Deberta(config, key=keys[0], **options)
        self.pooler = Pooler(config, key=keys[1])
        self.classifier = project(config, 1, keys[2])
        cast_parameters(self, options.get("param_dtype"))

    @on_explicit_meshes
    def __call__(
        self,
        input_ids: Int[ArrayLike, "B M T"] | None = None,
        attention_mask: Mask = None,
        *,
        key: Key = None,
        **inputs: Unpack[ModelInputs],
    ) -> Any:
        """Logits [B, M] of the choices, in float32 or wider, or a `HeadOutput`.

        Arguments and errors as `Deberta`, but arrays start with the axes B and M, which `pair_mask` and `bias`
        [B, M, N, T, S] may have with size 1.
        """
        keys = split_key(key, 2)
        arrays: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask, **inputs}
        tokens = arrays.get("inputs_embeds") if input_ids is None else input_ids
        if tokens is None:
            raise ValueError("expected either input_ids or inputs_embeds")
        B, M, *_ = (*jnp.shape(tokens), 0, 0)
        for name, rank in _CHOICE_AXES.items():
            if (values := arrays.get(name)) is None:
                continue
            array = jnp.asarray(values)
            if name in ("pair_mask", "bias") and array.ndim == rank:
                array = jnp.broadcast_to(array, (B, M, *array.shape[2:]))
            if array.ndim != rank or array.shape[:2] != (B, M):
                raise ValueError(f"{name} has shape {array.shape}, expected {rank} axes that start with [B, M]")
            arrays[name] = array.reshape(B * M, *array.shape[2:])
        output = self.deberta(**arrays, key=keys[0])
        return with_encoder_output(self.head(output.last_hidden_state, key=keys[1]).reshape(B, M), output)

    @in_precision
    def head(self, states: Float[Array, "B T D"], *, key: Key = None) -> Float[Array, "B"]:
        """The score of each text from the states of the last layer."""
        return pooled_logits(self.deberta.config, self.pooler, self.classifier, states, key)[:, 0]


class TokenClassification(HeadModel):
    """A label for each token: a linear map, after a dense layer in Microsoft's form (`projected`)."""

    def __init__(
        self,
        config: DebertaConfig,
        *,
        projected: bool = False,
        key: PRNGKeyArray,
        **options: Unpack[ModelOptions],
    ):
        keys = jax.random.split(key, 3)
        self.deberta = Deberta(config, key=keys[0], **options)
        self.projection = square(config, keys[1]) if projected else None
        self.classifier = project(config, len(config.labels), keys[2])
        cast_parameters(self, options.get("param_dtype"))

    @on_explicit_meshes
    def __call__(
        self,
        input_ids: Tokens | None = None,
        attention_mask: Mask = None,
        *,
        key: Key = None,
        **inputs: Unpack[ModelInputs],
    ) -> Any:
        """Logits [B, T, C], in float32 or wider, or a `HeadOutput`. Arguments as `Deberta`."""
        keys = split_key(key, 2)
        output = self.deberta(input_ids, attention_mask, key=keys[0], **inputs)
        return with_encoder_output(self.head(output.last_hidden_state, key=keys[1]), output)

    @in_precision
    def head(self, states: Float[Array, "B T D"], *, key: Key = None) -> Float[Array, "B T C"]:
        """Logits from the states of the last layer."""
        if self.projection is not None:
            states = gelu(self.projection(states))
        return upcast(self.classifier(dropout(states, classifier_dropout(self.deberta.config), key=key)))


class SpanLogits(NamedTuple):
    """How well an answer starts, and ends, at each token."""

    start: Float[Array, "B T"]
    end: Float[Array, "B T"]


class QuestionAnswering(HeadModel):
    """Start and end of an answer in a text (Hugging Face's head: one linear map)."""

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray, **options: Unpack[ModelOptions]):
        keys = jax.random.split(key)
        self.deberta = Deberta(config, key=keys[0], **options)
        self.span = project(config, 2, keys[1])
        cast_parameters(self, options.get("param_dtype"))

    @on_explicit_meshes
    def __call__(
        self,
        input_ids: Tokens | None = None,
        attention_mask: Mask = None,
        *,
        key: Key = None,
        **inputs: Unpack[ModelInputs],
    ) -> Any:
        """Logits of start and end, [B, T] each, in float32 or wider, or a `HeadOutput`. Arguments as `Deberta`."""
        output = self.deberta(input_ids, attention_mask, key=key, **inputs)
        return with_encoder_output(self.head(output.last_hidden_state), output)

    @in_precision
    def head(self, states: Float[Array, "B T D"]) -> SpanLogits:
        """Logits from the states of the last layer."""
        logits = upcast(self.span(states))
        return SpanLogits(logits[..., 0], logits[..., 1])


class EntityScoring(HeadModel):
    """Which entities of a passage answer a query: Microsoft's head for ReCoRD.

    An entity is the sum of its tokens' states, weighted by their attention from the first token.
    """

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray, **options: Unpack[ModelOptions]):
        keys = jax.random.split(key, 3)
        self.deberta = Deberta(config, key=keys[0], **options)
        self.projection = square(config, keys[1])
        self.classifier = project(config, 1, keys[2])
        cast_parameters(self, options.get("param_dtype"))

    @on_explicit_meshes
    def __call__(
        self,
        input_ids: Tokens | None = None,
        attention_mask: Mask = None,
        *,
        entity_positions: Int[ArrayLike, "B E P"],
        key: Key = None,
        **inputs: Unpack[ModelInputs],
    ) -> Any:
        """Logits [B, E] of entities, whose tokens are at `entity_positions` (0: no token), or a `HeadOutput`.

        An entity without tokens has -10000. Other arguments and errors as `Deberta`; positions that do not exist are a
        ValueError (traced ones are not checked).
        """
        keys = split_key(key, 2)
        output = self.deberta(input_ids, attention_mask, key=keys[0], **inputs)
        positions = as_ids("entity_positions", entity_positions, output.last_hidden_state.shape[1])
        logits = self.head(output.last_hidden_state, positions, key=keys[1])
        return with_encoder_output(logits, output)

    @in_precision
    def head(
        self, states: Float[Array, "B T D"], entity_positions: Int[Array, "B E P"], *, key: Key = None
    ) -> Float[Array, "B E"]:
        """Logits from the states of the last layer."""
        B, E, P = entity_positions.shape
        exists = entity_positions > 0
        scores = einsum("BTD,BD->BT", states, states[:, 0], preferred_element_type=accumulation_dtype(states.dtype))
        scores = scores * (1 / math.sqrt(states.shape[-1]))
        scores = jnp.take_along_axis(scores, entity_positions.reshape(B, E * P), axis=1).reshape(B, E, P)
        lowest = float(jnp.finfo(scores.dtype).min)
        weights = jnp.where(exists, jax.nn.softmax(jnp.where(exists, scores, lowest), axis=-1), 0)
        tokens = jnp.take_along_axis(states, entity_positions.reshape(B, E * P, 1), axis=1).reshape(B, E, P, -1)
        entities = einsum("BEP,BEPD->BED", weights.astype(states.dtype), tokens)
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
