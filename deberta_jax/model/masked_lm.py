"""Masked language modeling: the enhanced mask decoder and the tied head."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from deberta_jax.config import DebertaConfig, Remat
from deberta_jax.errors import InputError
from deberta_jax.model.activation import activation
from deberta_jax.model.attention import AttentionInputs, Queries
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.encoder import Encoder
from deberta_jax.model.inputs import DType, Key, Mask, Tokens, as_arrays, as_token_mask, split_key
from deberta_jax.model.linear import Embedding, LayerNorm, Linear
from deberta_jax.ops.masks import make_attention_mask
from deberta_jax.ops.precision import accumulation_dtype

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
        masked_positions: Int[Array, "B M"],
        *,
        attention_mask: Bool[Array, "B T"] | None,
        segment_ids: Int[Array, "B T"] | None,
        position_ids: Int[Array, "B T"] | None,
        key: Key = None,
    ) -> Float[Array, "B M D"]:
        """Decode the masked positions from `x`, the output of the last layer but one."""
        limit = self.position.embedding.shape[0]
        if position_ids is None and x.shape[1] > limit:
            raise InputError(
                f"sequence of {x.shape[1]} tokens, the enhanced mask decoder has {limit} absolute positions: shorten "
                "the sequence"
            )
        layer = encoder.last_layer()
        relative = encoder.relative_positions(x.shape[1], x.dtype)
        mask = make_attention_mask(attention_mask, segment_ids, query_positions=masked_positions)
        absolute = masked_positions
        if position_ids is not None:
            absolute = jnp.take_along_axis(position_ids, masked_positions, axis=1)
        states = gather_positions(x, masked_positions) + self.position(absolute).astype(x.dtype)
        for step_key in split_key(key, DECODING_STEPS):
            inputs = AttentionInputs(relative, mask, Queries(states, masked_positions))
            states = layer(x, inputs, key=step_key)
        return states


class MaskedLMHead(nnx.Module):
    """Dense layer, activation, norm, then the product with the word embeddings and a bias."""

    def __init__(self, config: DebertaConfig, *, key: PRNGKeyArray):
        self.config = config
        E = config.word_size
        self.dense = Linear((config.hidden_size, E), (None, "embed"), stddev=config.initializer_range, key=key)
        self.norm = LayerNorm(E, epsilon=config.layer_norm_eps)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size), axes=("vocab",))

    def __call__(self, x: Float[Array, "B M D"], words: Float[Array, "V E"]) -> Float[Array, "B M V"]:
        """Logits over the vocabulary, in float32 or wider."""
        x = self.norm(activation(self.config.hidden_act)(self.dense(x)))
        dtype = accumulation_dtype(x.dtype)
        logits = jnp.einsum("BME,VE->BMV", x, words.astype(x.dtype), preferred_element_type=dtype)
        return logits + self.bias[...].astype(logits.dtype)


class MaskedLM(nnx.Module):
    """DeBERTa with a masked language model head: through the enhanced mask decoder, or from the last layer without it.

    A model whose input contains absolute positions has no decoder.
    """

    def __init__(
        self,
        config: DebertaConfig,
        *,
        enhanced_mask_decoder: bool = True,
        dtype: DType = None,
        remat: Remat = "none",
        key: PRNGKeyArray,
    ):
        keys = jax.random.split(key, 3)
        self.deberta = Deberta(config, dtype=dtype, remat=remat, key=keys[0])
        has_decoder = enhanced_mask_decoder and not config.position_biased_input
        self.decoder = EnhancedMaskDecoder(config, key=keys[1]) if has_decoder else None
        self.head = MaskedLMHead(config, key=keys[2])

    def __call__(
        self,
        input_ids: Tokens,
        attention_mask: Mask = None,
        *,
        masked_positions: Int[ArrayLike, "B M"] | None = None,
        token_type_ids: Tokens | None = None,
        segment_ids: Tokens | None = None,
        position_ids: Tokens | None = None,
        key: Key = None,
    ) -> Float[Array, "B M V"]:
        """Logits at `masked_positions`, or at every position without them. Other arguments as `Deberta`."""
        states = self.states(
            input_ids,
            attention_mask,
            masked_positions=masked_positions,
            token_type_ids=token_type_ids,
            segment_ids=segment_ids,
            position_ids=position_ids,
            key=key,
        )
        return self.head(states, self.deberta.embeddings.word.embedding[...])

    def states(
        self,
        input_ids: Tokens,
        attention_mask: Mask = None,
        *,
        masked_positions: Int[ArrayLike, "B M"] | None = None,
        token_type_ids: Tokens | None = None,
        segment_ids: Tokens | None = None,
        position_ids: Tokens | None = None,
        key: Key = None,
    ) -> Float[Array, "B M D"]:
        """The input of the head: decoded states, or those of the last layer, at `masked_positions`."""
        masked_positions, segment_ids, position_ids = as_arrays(masked_positions, segment_ids, position_ids)
        token_mask = as_token_mask(attention_mask, segment_ids)
        keys = split_key(key, 2)
        L = self.deberta.config.num_hidden_layers
        x = self.deberta(
            input_ids,
            token_mask,
            token_type_ids=token_type_ids,
            segment_ids=segment_ids,
            position_ids=position_ids,
            depth=L if self.decoder is None else L - 1,
            key=keys[0],
        ).last_hidden_state
        if self.decoder is None:
            return x if masked_positions is None else gather_positions(x, masked_positions)
        if masked_positions is None:
            masked_positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
        packing = {"segment_ids": segment_ids, "position_ids": position_ids}
        encoder = self.deberta.encoder
        return self.decoder(encoder, x, masked_positions, attention_mask=token_mask, **packing, key=keys[1])


def gather_positions(x: Float[Array, "B T D"], positions: Int[Array, "B M"]) -> Float[Array, "B M D"]:
    """The states at `positions`."""
    return jnp.take_along_axis(x, positions[..., None], axis=1)
