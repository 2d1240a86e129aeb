"""All that a model computes of one text, for maps of attention and for probing."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from deberta_jax.inference.buckets import BATCHING, Batching, bucket_lengths
from deberta_jax.inference.rows import encoder_of, limit_of
from deberta_jax.model.deberta import Deberta
from deberta_jax.tokenizers.tokenizer import Tokenizer


class Activations(NamedTuple):
    """Tokens as the vocabulary writes them, [CLS] and [SEP] included, and what each layer makes of them.

    Hidden states start with the embeddings; attentions are probabilities, from each token (T) to each (S).
    """

    tokens: list[str]
    offsets: Int[np.ndarray, "T 2"]
    hidden_states: Float[np.ndarray, "L1 T D"]
    attentions: Float[np.ndarray, "L N T S"]


def activations(
    model: Any, tokenizer: Tokenizer, text: str, pair: str | None = None, *, batching: Batching = BATCHING
) -> Activations:
    """The tokens of one text, their states after the embeddings and each layer, and each head's attention.

    `model` may have any head or none. Raises InputError for a text longer than the model's rows.
    """
    limit = limit_of(encoder_of(model), batching)
    batch = tokenizer(text, pair, max_length=limit, truncation=None, buckets=bucket_lengths(limit))
    states, attentions = traced(encoder_of(model), batch.input_ids, batch.attention_mask, batch.token_type_ids)
    T = int(batch.attention_mask.sum())
    return Activations(
        [tokenizer.token(index) for index in batch.input_ids[0, :T]],
        batch.offsets[0, :T],
        np.asarray(states[:, 0, :T]),
        np.asarray(attentions[:, 0, :, :T, :T]),
    )


@jax.jit
def traced(
    encoder: Deberta, input_ids: Int[Array, "B T"], attention_mask: Int[Array, "B T"], token_type_ids: Int[Array, "B T"]
) -> tuple[Float[Array, "L1 B T D"], Float[Array, "L B N T S"]]:
    output = encoder(
        input_ids, attention_mask, token_type_ids=token_type_ids, output_hidden_states=True, output_attentions=True
    )
    assert output.hidden_states is not None and output.attentions is not None
    return output.hidden_states, output.attentions
