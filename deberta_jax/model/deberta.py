"""The bare model: embeddings and encoder."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from deberta_jax.config import DebertaConfig, Precision, Remat
from deberta_jax.errors import InputError
from deberta_jax.model.attention import AttentionChoice
from deberta_jax.model.embeddings import Embeddings
from deberta_jax.model.encoder import Encoder, EncoderOutput
from deberta_jax.model.inputs import (
    DType,
    Each,
    Key,
    Mask,
    Tokens,
    as_arrays,
    as_ids,
    as_token_mask,
    as_words,
    check_tokens,
    split_key,
)
from deberta_jax.model.linear import Embedding
from deberta_jax.model.module import Configured, Model, cast_parameters, check_attention, check_precision, in_precision
from deberta_jax.sharding import on_explicit_meshes


class Deberta(Configured, Model):
    """DeBERTa v1, v2 or v3 without a head (He et al. 2021; He, Gao and Chen 2023).

    A model is a pytree: `jax.jit`, `jax.grad`, `jax.vmap` and optax work on it. It runs on meshes with Auto or Explicit
    axes, and inside `jax.shard_map` (docs/scaling.md).

    Args:
        config: the architecture.
        dtype: the compute dtype, by default that of the parameters.
        param_dtype: the dtype of the parameters, by default float32.
        remat: what the backward pass recomputes: operations that are cheap beside matrix products ("none"), attention
            scores too ("dots"), or everything but the inputs of the layers ("full").
        precision: "float32", or "tf32", which computes float32 matrix products faster and less exactly
            (docs/numerics.md, "Precision of matrix products").
        attention: the implementation of attention in every layer, as `disentangled_attention` takes it, or a function
            with the arguments and results of `attention_with_probabilities`. On a mesh with Explicit axes it runs with
            Auto axes, and may not read sharded arrays.
        key: initializes the parameters.

    Attributes:
        config: the architecture, which is fixed; `with_config` returns a changed copy.
        embeddings, encoder: the modules.
        precision: the precision of float32 matrix products.

    Raises:
        InputError: an unknown option, or a `param_dtype` of other than floating-point numbers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> model = dj.Deberta(dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> model(jnp.array([[1, 7, 8, 2]])).last_hidden_state.shape  # [B, T, D]
        (1, 4, 128)
    """

    def __init__(
        self,
        config: DebertaConfig,
        *,
        dtype: DType = None,
        param_dtype: DType = None,
        remat: Remat = "none",
        precision: Precision = "float32",
        attention: AttentionChoice = "auto",
        key: PRNGKeyArray,
    ):
        check_precision(precision)
        check_attention(attention)
        keys = jax.random.split(key)
        self.config = config
        self.embeddings = Embeddings(config, dtype=dtype, key=keys[0])
        self.encoder = Encoder(config, remat=remat, precision=precision, attention=attention, key=keys[1])
        cast_parameters(self, param_dtype)

    @property
    def precision(self) -> Precision:
        """The precision of float32 matrix products."""
        return self.encoder.precision

    @on_explicit_meshes
    @in_precision
    def __call__(
        self,
        input_ids: Tokens | None = None,
        attention_mask: Mask = None,
        *,
        token_type_ids: Tokens | None = None,
        segment_ids: Tokens | None = None,
        position_ids: Tokens | None = None,
        order: Tokens | None = None,
        pair_mask: Mask = None,
        bias: Float[ArrayLike, "#B #N #T #T"] | None = None,
        inputs_embeds: Float[ArrayLike, "B T E"] | None = None,
        depth: int | None = None,
        each: Each | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        key: Key = None,
    ) -> EncoderOutput:
        """Encode token ids [B, T], as numpy or JAX arrays.

        Args:
            input_ids: token ids [B, T].
            attention_mask: 1 for real tokens, 0 for padding [B, T], as in transformers.
            token_type_ids: 0 for the first text, 1 for the second [B, T].
            segment_ids: numbers the packed documents, which do not attend to each other, from 1; 0 is padding [B, T].
            position_ids: absolute positions, from 0 in each document [B, T].
            order: a token attends to those with the same or a smaller number [B, T] (docs/attention.md).
            pair_mask: 1 where a query may attend to a key [B, 1 or N, T, S]; replaces what `attention_mask` implies.
            bias: added to the scaled attention scores [B, N, T, S]; each axis may be 1, and -inf hides a key.
            inputs_embeds: embeddings of words [B, T, E] in place of ids.
            depth: run only this number of layers from the first.
            each: `each(state, layer)` replaces the output [B, T, D] of each layer, numbered from 0.
            output_hidden_states, output_attentions: return them too.
            key: applies dropout; without a key there is none.

        Returns:
            `last_hidden_state` [B, T, D]; on request `hidden_states` [L + 1, B, T, D], `attentions` [L, B, N, T, S].

        Raises:
            ValueError: other shapes; a mask of floats; unknown ids (NaN if traced); ids and embeddings, or neither.
            InputError: more tokens than the model has absolute positions.
        """
        embedded = self._embed(input_ids, inputs_embeds, token_type_ids, position_ids)
        segment_ids, order, bias = as_arrays(segment_ids, order, bias)
        token_mask = as_token_mask(attention_mask, segment_ids)
        check_tokens(embedded.shape[:2], attention_mask=attention_mask, segment_ids=segment_ids, order=order)
        keys = split_key(key, 2)
        return self.encoder(
            self.embeddings.finish(embedded, token_mask, key=keys[0]),
            token_mask,
            segment_ids=segment_ids,
            order=order,
            pair_mask=pair_mask,
            bias=bias,
            depth=depth,
            each=each,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            key=keys[1],
        )

    def _embed(
        self, input_ids: Any, inputs_embeds: Any, token_type_ids: Any, position_ids: Any
    ) -> Float[Array, "B T D"]:
        """The sum of the embeddings, with the checks that `__call__` describes."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("expected either input_ids or inputs_embeds")
        tables, limit = self.embeddings, self.config.max_position_embeddings
        ids = None if input_ids is None else as_ids("input_ids", input_ids, tables.word.embedding.shape[0])
        embeds = None if inputs_embeds is None else as_words(inputs_embeds, self.config.word_size)
        tokens = embeds if ids is None else ids
        assert tokens is not None
        if ids is not None and ids.ndim != 2:
            raise ValueError(f"input_ids has shape {ids.shape}, expected [B, T]")
        B, T = tokens.shape[:2]
        check_tokens((B, T), token_type_ids=token_type_ids, position_ids=position_ids)
        if self.config.position_biased_input and limit < T and position_ids is None:
            raise InputError(f"sequence of {T} tokens, the model has {limit} absolute positions: shorten the sequence")
        token_type_ids = _rows("token_type_ids", token_type_ids, tables.token_type)
        return tables.lookup(ids, token_type_ids, _rows("position_ids", position_ids, tables.position), embeds)


def encoder_of(model: Any) -> Deberta:
    """The encoder of a model with a head, or the model itself if it has none. Raises InputError for other models."""
    if isinstance(model, Deberta):
        return model
    if not hasattr(model, "deberta"):
        parts = f": pass {model.parts}" if isinstance(model, Model) and model.parts else ""
        raise InputError(f"{type(model).__name__} is not a single model{parts}")
    return model.deberta


def _rows(name: str, ids: Any, table: Embedding | None) -> Array | None:
    """Ids of a table as an array, checked if the model has the table."""
    if ids is None:
        return None
    return jnp.asarray(ids) if table is None else as_ids(name, ids, table.embedding.shape[0])
