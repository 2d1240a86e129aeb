"""The bare model: embeddings and encoder."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PRNGKeyArray

from deberta_jax.config import DebertaConfig, Remat
from deberta_jax.errors import InputError
from deberta_jax.model.embeddings import Embeddings
from deberta_jax.model.encoder import Encoder, EncoderOutput
from deberta_jax.model.inputs import (
    DType,
    Key,
    Mask,
    Tokens,
    as_arrays,
    as_pair_mask,
    as_token_mask,
    split_key,
)


class Deberta(nnx.Module):
    """DeBERTa v1, v2 or v3 without a head (He et al. 2021; He, Gao and Chen 2023).

    Parameters are float32; `dtype` is the compute dtype, by default that of the parameters.
    """

    def __init__(self, config: DebertaConfig, *, dtype: DType = None, remat: Remat = "none", key: PRNGKeyArray):
        keys = jax.random.split(key)
        self.config = config
        self.embeddings = Embeddings(config, dtype=dtype, key=keys[0])
        self.encoder = Encoder(config, remat=remat, key=keys[1])

    def __call__(
        self,
        input_ids: Tokens,
        attention_mask: Mask = None,
        *,
        token_type_ids: Tokens | None = None,
        segment_ids: Tokens | None = None,
        position_ids: Tokens | None = None,
        pair_mask: Mask = None,
        depth: int | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        key: Key = None,
    ) -> EncoderOutput:
        """Encode token ids [B, T].

        `attention_mask` [B, T] is 1 for real tokens and 0 for padding, as in transformers. `segment_ids` [B, T] numbers
        the documents packed into a sequence from 1, 0 is padding; documents do not attend to each other. `pair_mask`
        [B, 1 or N, T, S] is 1 where a query may attend to a key, and replaces what `attention_mask` implies.
        `position_ids` [B, T] are absolute positions, from 0 in each document. `depth` runs only the first layers.
        Dropout is applied if `key` is given. Raises ValueError for a mask of another rank, InputError for more tokens
        than the model has absolute positions.
        """
        input_ids = jnp.asarray(input_ids)
        token_type_ids, segment_ids, position_ids = as_arrays(token_type_ids, segment_ids, position_ids)
        token_mask = as_token_mask(attention_mask, segment_ids)
        length, limit = input_ids.shape[1], self.config.max_position_embeddings
        if self.config.position_biased_input and length > limit and position_ids is None:
            raise InputError(
                f"sequence of {length} tokens, the model has {limit} absolute positions: shorten the sequence"
            )
        keys = split_key(key, 2)
        embedded = self.embeddings.lookup(input_ids, token_type_ids, position_ids)
        return self.encoder(
            self.embeddings.finish(embedded, token_mask, key=keys[0]),
            token_mask,
            segment_ids=segment_ids,
            pair_mask=as_pair_mask(pair_mask),
            depth=depth,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            key=keys[1],
        )
