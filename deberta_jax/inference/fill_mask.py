"""Masked language modeling: the most likely tokens for each [MASK]."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from deberta_jax.errors import InputError
from deberta_jax.hub.heads import Model
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.encode import EncodedRow, EncodedRows, encode
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.models import require_head, require_tokenizer
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.model.deberta import encoder_of
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.ops.precision import upcast
from deberta_jax.tokenizers.tokenizer import Tokenizer


class PredictedToken(NamedTuple):
    """A token for a mask, as readable text without the space before it; its id and its probability."""

    token: str
    id: int
    probability: float


def fill_mask(
    model: Model, tokenizer: Tokenizer, texts: Sequence[str], *, top_k: int = 5, batching: Batching = BATCHING
) -> list[list[list[PredictedToken]]]:
    """For each text and each [MASK] in it, the `top_k` most likely tokens, in descending order.

    Uses the enhanced mask decoder if the model has one. Probabilities are over all ids of the tokenizer; special
    tokens are not returned. Raises InputError for a model without the head "masked_lm", and with the index of a text
    that has no [MASK] or so many tokens that a [MASK] would be truncated.
    """
    return complete(fill_mask_pipeline(model, tokenizer, top_k=top_k, batching=batching), texts)


def fill_mask_pipeline(
    model: Model, tokenizer: Tokenizer, *, top_k: int = 5, batching: Batching = BATCHING
) -> Pipeline[list[list[PredictedToken]]]:
    """The pipeline of `fill_mask`; an example is `(text,)` or `(text, pair)`."""
    require_head(model, "masked_lm", "fill_mask")
    require_tokenizer(tokenizer)
    ids = np.arange(encoder_of(model).config.vocab_size)
    # The word table may have more rows than the tokenizer has ids.
    known = ids < tokenizer.vocab_size
    allowed = known & ~np.isin(ids, tokenizer.special_ids)
    if not 1 <= top_k <= allowed.sum():
        raise InputError(f"top_k is {top_k}, but must be between 1 and {allowed.sum()}, the size of the vocabulary")
    program = functools.partial(top_tokens, known=known, allowed=allowed, top_k=top_k)

    def read(example: tuple, rows: list[EncodedRow]) -> list[list[PredictedToken]]:
        [row] = rows
        masks = int((row.input_ids == tokenizer.mask_id).sum())
        probabilities, ids = (x[:masks].tolist() for x in row.outputs)
        return [
            [PredictedToken(_readable(tokenizer, id_), id_, p) for id_, p in zip(mask_ids, mask_probs, strict=True)]
            for mask_ids, mask_probs in zip(ids, probabilities, strict=True)
        ]

    return Pipeline(model, tokenizer, program, encode_masked, read, batching)


def encode_masked(tokenizer: Tokenizer, examples: Sequence[tuple], max_length: int) -> EncodedRows:
    """Rows with the positions of their masks; a text without a mask, or with a truncated one, is an error."""
    rows = encode(tokenizer, examples, max_length)
    positions = [np.flatnonzero(ids == tokenizer.mask_id).astype(np.int32) for ids in rows.batch.input_ids]
    errors = dict(rows.errors)
    for source, row_positions in zip(rows.batch.sources.tolist(), positions, strict=True):
        masks = len(row_positions)
        if source in rows.truncated:
            texts = [text for text in examples[source] if text is not None]
            masks = sum(int((tokenizer.encode(text) == tokenizer.mask_id).sum()) for text in texts)
        if masks > len(row_positions):
            errors[source] = InputError(
                f"{masks - len(row_positions)} of {masks} {tokenizer.mask_token} are beyond the maximum of "
                f"{max_length} tokens: shorten the text"
            )
        elif not masks:
            errors[source] = InputError(f"no {tokenizer.mask_token} in the text: put it where a token is missing")
    return rows._replace(errors=errors, positions=positions)


@functools.partial(jax.jit, static_argnames="top_k")
def top_tokens(
    model: MaskedLM, inputs: ModelInputs, *, known: Bool[Array, "V"], allowed: Bool[Array, "V"], top_k: int
) -> tuple[Float[Array, "B M K"], Int[Array, "B M K"]]:
    """Probabilities and ids of the most likely tokens, mask by mask, so that [B, M, V] is never in memory."""
    input_ids, attention_mask, token_type_ids, positions = inputs
    states = model.states(input_ids, attention_mask, masked_positions=positions, token_type_ids=token_type_ids)
    words = model.deberta.embeddings.word.embedding[...]

    def top_of_mask(x: Float[Array, "B D"]) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
        logits = upcast(model.head(x[:, None], words)[:, 0])
        total = jax.nn.logsumexp(jnp.where(known, logits, -jnp.inf), axis=-1, keepdims=True)
        best, ids = jax.lax.top_k(jnp.where(allowed, logits, -jnp.inf), top_k)
        return jnp.exp(best - total), ids

    probabilities, ids = jax.lax.map(top_of_mask, states.swapaxes(0, 1))
    return probabilities.swapaxes(0, 1), ids.swapaxes(0, 1)


def _readable(tokenizer: Tokenizer, index: int) -> str:
    """The text of a token; for white space and for part of a character, the token as the vocabulary writes it."""
    text = tokenizer.decode([index]).strip()
    return text if text and "\ufffd" not in text else tokenizer.token(index)
