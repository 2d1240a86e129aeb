"""The head that ranks the entities of a passage."""

import math
from typing import Unpack

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.model.activation import gelu
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.heads import classifier_dropout
from deberta_jax.model.inputs import Key, Mask, ModelInputs, Tokens, as_ids, split_key
from deberta_jax.model.module import HeadModel, ModelOptions, cast_parameters, in_precision
from deberta_jax.model.outputs import HeadOutput, head_call, with_encoder_output
from deberta_jax.model.pooler import project, square
from deberta_jax.ops.dropout import dropout
from deberta_jax.ops.precision import accumulation_dtype, einsum, upcast
from deberta_jax.sharding import on_explicit_meshes

# The score of an entity without tokens (golden d46).
ABSENT = -10000.0


class EntityScoring(HeadModel):
    """Which entities of a passage answer a query: Microsoft's head for ReCoRD.

    An entity is the sum of its tokens' states, weighted by their attention from the first token.

    Args:
        config: the architecture.
        key: initializes the parameters.
        options: `dtype`, `param_dtype`, `remat`, `precision` and `attention`, as for `Deberta`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> model = dj.EntityScoring(dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> positions = jnp.array([[[1, 0], [1, 2]]])  # [B, E, P]: the tokens of 2 entities, padded with 0
        >>> jax.eval_shape(model, jnp.array([[1, 7, 8, 2]]), entity_positions=positions).shape  # [B, E]
        (1, 2)
    """

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray, **options: Unpack[ModelOptions]):
        keys = jax.random.split(key, 3)
        self.deberta = Deberta(config, key=keys[0], **options)
        self.projection = square(config, keys[1])
        self.classifier = project(config, 1, keys[2])
        cast_parameters(self, options.get("param_dtype"))

    @head_call
    @on_explicit_meshes
    def __call__(
        self,
        input_ids: Tokens | None = None,
        attention_mask: Mask = None,
        *,
        entity_positions: Int[ArrayLike, "B E P"],
        key: Key = None,
        **inputs: Unpack[ModelInputs],
    ) -> Float[Array, "B E"] | HeadOutput[Array]:
        """Logits [B, E] of E entities, in float32 or wider, or a `HeadOutput`.

        Args:
            input_ids: token ids [B, T].
            attention_mask: 1 for real tokens, 0 for padding [B, T].
            entity_positions: the positions of the tokens of each entity [B, E, P], padded with 0. An entity without
                tokens has the logit -10000.
            key: applies dropout; without a key there is none.
            inputs: the other arguments of `Deberta`.

        Raises:
            ValueError: as `Deberta`, and for positions that do not exist (traced ones are not checked).
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
