"""Masked language modeling: the enhanced mask decoder and the tied head."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from deberta_jax.config import DebertaConfig, Precision
from deberta_jax.errors import InputError
from deberta_jax.model.activation import activation
from deberta_jax.model.attention import AttentionInputs, Queries
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.encoder import Encoder, EncoderOutput
from deberta_jax.model.inputs import (
    Key,
    Mask,
    ModelInputs,
    Tokens,
    as_arrays,
    as_ids,
    as_pair_mask,
    as_token_mask,
    split_key,
)
from deberta_jax.model.linear import Embedding, LayerNorm, Linear, over_rows
from deberta_jax.model.module import Configured, HeadModel, ModelOptions, cast_parameters, in_precision
from deberta_jax.model.outputs import HeadOutput, head_call, with_encoder_output
from deberta_jax.ops.arguments import check_range
from deberta_jax.ops.gathered import take_queries
from deberta_jax.ops.masks import token_segments
from deberta_jax.ops.precision import accumulation_dtype, einsum
from deberta_jax.sharding import constrain, on_explicit_meshes

DECODING_STEPS = 2


class EnhancedMaskDecoder(nnx.Module):
    """Absolute positions enter after the encoder: the last layer runs twice, on the masked positions only.

    The layer is the last one of the encoder, so the absolute positions are the only parameters (He et al. 2021, section
    3.2; docs/numerics.md, "Enhanced mask decoder").
    """

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray):
        if config.word_size != config.hidden_size:
            raise InputError(
                f"config: the enhanced mask decoder adds positions of embedding_size {config.word_size} to hidden "
                f"states of hidden_size {config.hidden_size}: they must be equal"
            )
        if config.num_hidden_layers < 2:
            raise InputError("config: the enhanced mask decoder needs num_hidden_layers of at least 2")
        shape = config.max_position_embeddings, config.hidden_size
        self.position = Embedding(*shape, (None, "embed"), stddev=config.initializer_range, key=key)

    def __call__(
        self,
        encoder: Encoder,
        x: Float[Array, "B T D"],
        masked_positions: Int[Array, "B M"] | None = None,
        *,
        attention_mask: Bool[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        position_ids: Int[Array, "B T"] | None = None,
        order: Int[Array, "B T"] | None = None,
        pair_mask: Bool[Array, "#B #N #T #T"] | None = None,
        bias: Float[Array, "#B #N #T #T"] | None = None,
        depth: int,
        key: Key = None,
    ) -> Float[Array, "B M D"]:
        """Decode the masked positions, by default all, from `x`, the output of the last of `depth` layers but one."""
        limit = self.position.embedding.shape[0]
        if position_ids is None and x.shape[1] > limit:
            raise InputError(
                f"sequence of {x.shape[1]} tokens, the enhanced mask decoder has {limit} absolute positions: shorten "
                "the sequence"
            )
        layer = encoder.layer(depth - 1)
        relative = encoder.relative_positions(x.shape[1], x.dtype)
        segments = token_segments(attention_mask, segment_ids)
        states, absolute = x, position_ids
        if absolute is None:
            absolute = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
        if masked_positions is not None:
            if pair_mask is not None and pair_mask.shape[2] > 1:
                pair_mask = take_queries(pair_mask, masked_positions)
            if bias is not None and bias.shape[2] > 1:
                bias = take_queries(jnp.broadcast_to(bias, (x.shape[0], *bias.shape[1:])), masked_positions)
            states = constrain(gather_positions(x, masked_positions), "batch", None, None)
            absolute = jnp.take_along_axis(absolute, masked_positions, axis=1)
        states += self.position(absolute).astype(x.dtype)
        for step_key in split_key(key, DECODING_STEPS):
            inputs = AttentionInputs(relative, segments, pair_mask, Queries(states, masked_positions), bias, order)
            states, _ = layer(x, inputs, key=step_key)
        return states


class MaskedLMHead(Configured):
    """Dense layer, activation, norm, then the product with the word embeddings and a bias.

    An `untied` head has a table of its own, `decoder` [V, E], in place of the word embeddings.
    """

    def __init__(
        self, config: DebertaConfig, *, untied: bool = False, precision: Precision = "float32", key: PRNGKeyArray
    ):
        self.config, self.precision = config, precision
        E = config.word_size
        self.dense = Linear((config.hidden_size, E), (None, "embed"), stddev=config.initializer_range, key=key)
        self.norm = LayerNorm(E, epsilon=config.layer_norm_eps)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size), axes=("vocab",))
        sizes, stddev, decoder_key = (config.vocab_size, E), config.initializer_range, jax.random.fold_in(key, 1)
        self.decoder = Embedding(*sizes, ("vocab", "embed"), stddev=stddev, key=decoder_key) if untied else None

    @in_precision
    def __call__(self, x: Float[Array, "B M D"], words: Float[Array, "V E"]) -> Float[Array, "B M V"]:
        """Logits over the vocabulary, in float32 or wider."""
        x = constrain(self.norm(activation(self.config.hidden_act)(self.dense(x))), "batch", None, None)
        words = words if self.decoder is None else self.decoder.embedding[...]
        dtype = accumulation_dtype(x.dtype)
        logits = einsum("BME,VE->BMV", x, words.astype(x.dtype), preferred_element_type=dtype)
        logits = constrain(logits, "batch", None, "vocab")
        return logits + over_rows(self.bias[...].astype(logits.dtype), logits)


class MaskedLM(HeadModel):
    """DeBERTa with a masked language model head: through the enhanced mask decoder, or from the last layer without it.

    A model whose input contains absolute positions has no decoder (He et al. 2021, section 3.2; docs/numerics.md,
    "Enhanced mask decoder").

    Args:
        config: the architecture.
        enhanced_mask_decoder: decode with absolute positions after the encoder.
        untied: the head has its own table of words instead of the embeddings.
        key: initializes the parameters.
        options: `dtype`, `param_dtype`, `remat`, `precision` and `attention`, as for `Deberta`.

    Raises:
        InputError: a decoder with fewer than 2 layers, or with an `embedding_size` other than `hidden_size`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import deberta_jax as dj
        >>> model = dj.MaskedLM(dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> ids, positions = jnp.array([[1, 7, 8, 2]]), jnp.array([[1, 2]])
        >>> jax.eval_shape(model, ids, masked_positions=positions).shape  # [B, M, V]
        (1, 2, 8192)
    """

    def __init__(
        self,
        config: DebertaConfig,
        *,
        enhanced_mask_decoder: bool = True,
        untied: bool = False,
        key: PRNGKeyArray,
        **options: Unpack[ModelOptions],
    ):
        keys = jax.random.split(key, 3)
        self.deberta = Deberta(config, key=keys[0], **options)
        has_decoder = enhanced_mask_decoder and not config.position_biased_input
        self.decoder = EnhancedMaskDecoder(config, key=keys[1]) if has_decoder else None
        self.head = MaskedLMHead(config, untied=untied, precision=self.precision, key=keys[2])
        cast_parameters(self, options.get("param_dtype"))

    @head_call
    @on_explicit_meshes
    def __call__(
        self,
        input_ids: Tokens | None = None,
        attention_mask: Mask = None,
        *,
        masked_positions: Int[ArrayLike, "B M"] | None = None,
        key: Key = None,
        **inputs: Unpack[ModelInputs],
    ) -> Float[Array, "B M V"] | HeadOutput[Array]:
        """Logits of the tokens at the masked positions, in float32 or wider.

        Args:
            input_ids: token ids [B, T].
            attention_mask: 1 for real tokens, 0 for padding [B, T].
            masked_positions: the positions to predict [B, M]; by default every position.
            key: applies dropout; without a key there is none.
            inputs: the other arguments of `Deberta`. The decoder reads the output of the last layer but one, so `each`
                does not change the logits through the last layer of a model with a decoder.

        Returns:
            Logits [B, M, V], or [B, T, V] without positions; a `HeadOutput` if states or attentions are requested.

        Raises:
            ValueError: as `Deberta`, and for positions that do not exist (traced ones are not checked).
            InputError: more tokens than the decoder has absolute positions.
        """
        states, output = self._run(input_ids, attention_mask, masked_positions, key, inputs)
        return with_encoder_output(self.head(states, self.deberta.embeddings.word.embedding[...]), output)

    @on_explicit_meshes
    def states(
        self,
        input_ids: Tokens | None = None,
        attention_mask: Mask = None,
        *,
        masked_positions: Int[ArrayLike, "B M"] | None = None,
        key: Key = None,
        **inputs: Unpack[ModelInputs],
    ) -> Float[Array, "B M D"]:
        """The input of the head [B, M, D]: decoded states, or those of the last layer; arguments as for a call."""
        return self._run(input_ids, attention_mask, masked_positions, key, inputs)[0]

    def _run(
        self, input_ids: Any, attention_mask: Mask, masked_positions: Any, key: Key, inputs: ModelInputs
    ) -> tuple[Float[Array, "B M D"], EncoderOutput]:
        """The input of the head, and the output of the encoder."""
        segment_ids, position_ids = as_arrays(inputs.get("segment_ids"), inputs.get("position_ids"))
        order, bias = as_arrays(inputs.get("order"), inputs.get("bias"))
        token_mask = as_token_mask(attention_mask, segment_ids)
        keys = split_key(key, 2)
        limit, requested = self.deberta.config.num_hidden_layers, inputs.get("depth")
        L = limit if requested is None else requested
        first = 0 if self.decoder is None else 1
        if not first <= L <= limit:
            raise ValueError(f"depth is {L}, expected {first} to {limit}, the number of layers of the model")
        tokens = inputs.get("inputs_embeds") if input_ids is None else input_ids
        if masked_positions is not None and tokens is not None and jnp.ndim(tokens) > 1:
            masked_positions = _as_positions(masked_positions, *jnp.shape(tokens)[:2])
        if self.decoder is not None and position_ids is not None:
            check_range("position_ids", position_ids, self.decoder.position.embedding.shape[0])
        wants_states = inputs.get("output_hidden_states", False)
        on_request = wants_states or inputs.get("output_attentions", False)
        # The decoder needs no output of the last layer: that layer runs only if its states are requested.
        depth = L if self.decoder is None or on_request else L - 1
        inputs = inputs | {"depth": depth}
        if depth == L and self.decoder is not None:
            inputs = inputs | {"output_hidden_states": True}
        output = self.deberta(input_ids, token_mask, key=keys[0], **inputs)
        x = output.last_hidden_state
        if self.decoder is None:
            return x if masked_positions is None else gather_positions(x, masked_positions), output
        if depth == L:
            assert output.hidden_states is not None
            x = output.hidden_states[L - 1]
            if not wants_states:
                output = output._replace(hidden_states=None)
        pair_mask = as_pair_mask(inputs.get("pair_mask"))
        states = self.decoder(
            self.deberta.encoder,
            x,
            masked_positions,
            attention_mask=token_mask if pair_mask is None else None,
            segment_ids=segment_ids,
            position_ids=position_ids,
            order=order,
            pair_mask=pair_mask,
            bias=bias,
            depth=L,
            key=keys[1],
        )
        return states, output


def _as_positions(masked_positions: ArrayLike, B: Any, T: Any) -> Int[Array, "B M"]:
    """Masked positions as an array; raises ValueError for positions that sequences of T tokens do not have."""
    positions = as_ids("masked_positions", masked_positions, T)
    if positions.ndim != 2 or positions.shape[0] != B:
        raise ValueError(f"masked_positions has shape {positions.shape}, expected [{B}, M]")
    return positions


def gather_positions(x: Float[Array, "B T D"], positions: Int[Array, "B M"]) -> Float[Array, "B M D"]:
    """The states at `positions`."""
    return jnp.take_along_axis(x, positions[..., None], axis=1)
