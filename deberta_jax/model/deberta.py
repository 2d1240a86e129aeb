"""The bare model: embeddings and encoder."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, DTypeLike, Int, PRNGKeyArray

from deberta_jax.config import DebertaConfig, Remat
from deberta_jax.errors import InputError
from deberta_jax.model.embeddings import Embeddings
from deberta_jax.model.encoder import Encoder, EncoderOutput


class Deberta(nnx.Module):
    """DeBERTa v1, v2 or v3 without a head (He et al. 2021; He, Gao and Chen 2023).

    Parameters are float32; `dtype` is what the model computes in, the parameters' own by default.
    """

    def __init__(
        self, config: DebertaConfig, *, dtype: DTypeLike | None = None, remat: Remat = "none", key: PRNGKeyArray
    ):
        keys = jax.random.split(key)
        self.config = config
        self.embeddings = Embeddings(config, dtype=dtype, key=keys[0])
        self.encoder = Encoder(config, remat=remat, key=keys[1])

    def __call__(
        self,
        input_ids: Int[ArrayLike, "B T"],
        attention_mask: Bool[ArrayLike, "B T"] | Int[ArrayLike, "B T"] | None = None,
        *,
        token_type_ids: Int[ArrayLike, "B T"] | None = None,
        segment_ids: Int[ArrayLike, "B T"] | None = None,
        position_ids: Int[ArrayLike, "B T"] | None = None,
        pair_mask: Bool[ArrayLike, "B #N #T T"] | None = None,
        depth: int | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> EncoderOutput:
        """Encode token ids.

        `attention_mask` says which tokens are real; `segment_ids` numbers the documents packed in a row, 0 is padding, and
        no document sees another; `pair_mask` says which key each query may see, in place of what `attention_mask`
        implies. `position_ids` count absolute positions (from 0 in every document). Dropout needs a `key`.
        """
        input_ids = jnp.asarray(input_ids)
        attention_mask, segment_ids, pair_mask = as_arrays(attention_mask, segment_ids, pair_mask)
        token_type_ids, position_ids = as_arrays(token_type_ids, position_ids)
        config = self.config
        if (
            config.position_biased_input
            and input_ids.shape[1] > config.max_position_embeddings
            and position_ids is None
        ):
            raise InputError(
                f"sequence of {input_ids.shape[1]} tokens, the model has {config.max_position_embeddings} absolute "
                "positions: shorten the sequence"
            )
        if attention_mask is not None:
            attention_mask = attention_mask.astype(bool)
        elif segment_ids is not None:
            attention_mask = segment_ids > 0
        keys = (None, None) if key is None else jax.random.split(key)
        x = self.embeddings(
            input_ids, attention_mask, token_type_ids=token_type_ids, position_ids=position_ids, key=keys[0]
        )
        return self.encoder(
            x,
            attention_mask,
            segment_ids=segment_ids,
            pair_mask=pair_mask,
            depth=depth,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            key=keys[1],
        )


def as_arrays(*inputs: ArrayLike | None) -> tuple[Array | None, ...]:
    """What comes from a tokenizer or a pipeline, numpy, as arrays of JAX; None stays."""
    return tuple(None if x is None else jnp.asarray(x) for x in inputs)
