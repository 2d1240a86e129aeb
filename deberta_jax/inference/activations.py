"""Hidden states and attention probabilities of one text, for attention maps and probing."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from deberta_jax.inference.buckets import BATCHING, Batching, bucket_lengths
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.models import max_row_length, require_tokenizer, unknown_id
from deberta_jax.model.deberta import Deberta, encoder_of
from deberta_jax.model.module import HeadModel
from deberta_jax.tokenizers.tokenizer import Tokenizer


class Activations(NamedTuple):
    """The tokens of a text, including [CLS] and [SEP], as the vocabulary writes them, and the outputs of each layer.

    `hidden_states` start with the embeddings (L1 = layers + 1); `attentions` are probabilities from token T to token S.
    """

    tokens: list[str]
    offsets: Int[np.ndarray, "T 2"]
    hidden_states: Float[np.ndarray, "L1 T D"]
    attentions: Float[np.ndarray, "L N T S"]


def activations(
    model: Deberta | HeadModel,
    tokenizer: Tokenizer,
    text: str,
    pair: str | None = None,
    *,
    batching: Batching = BATCHING,
) -> Activations:
    """The tokens of one text, the hidden states of each layer, and the attention of each head.

    Args:
        model: a model with any head or none.
        tokenizer: its tokenizer.
        text: the text.
        pair: a second text.
        batching: the maximum number of tokens.

    Returns:
        `tokens` as the vocabulary writes them, [CLS] and [SEP] included, their `offsets` [T, 2] in characters,
        `hidden_states` [L + 1, T, D], the embeddings first, and the probabilities `attentions` [L, N, T, S], as numpy
        arrays.

    Raises:
        InputError: a text that is longer than a row.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("microsoft/deberta-v3-base")
        >>> result = dj.activations(model, tokenizer, "A man eats.")
        >>> result.hidden_states.shape[0] == model.config.num_hidden_layers + 1
        True
    """
    require_tokenizer(tokenizer)
    max_length = max_row_length(encoder_of(model), batching)
    batch = tokenizer(text, pair, max_length=max_length, truncation=None, buckets=bucket_lengths(max_length))
    if error := unknown_id(model, tokenizer, batch.input_ids[batch.attention_mask > 0]):
        raise error
    inputs = ModelInputs(batch.input_ids, batch.attention_mask, batch.token_type_ids)
    states, attentions = states_and_attentions(encoder_of(model), inputs)
    T = int(batch.attention_mask.sum())
    return Activations(
        [tokenizer.token(index) for index in batch.input_ids[0, :T]],
        batch.offsets[0, :T],
        np.asarray(states[:, 0, :T]),
        np.asarray(attentions[:, 0, :, :T, :T]),
    )


@jax.jit
def states_and_attentions(
    encoder: Deberta, inputs: ModelInputs
) -> tuple[Float[Array, "L1 B T D"], Float[Array, "L B N T S"]]:
    """Hidden states of the embeddings and all layers, and attention probabilities of all layers."""
    output = encoder(
        inputs.input_ids,
        inputs.attention_mask,
        token_type_ids=inputs.token_type_ids,
        output_hidden_states=True,
        output_attentions=True,
    )
    assert output.hidden_states is not None and output.attentions is not None
    return output.hidden_states, output.attentions
