"""What a masked language model puts in the place of [MASK]."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from deberta_jax.errors import InputError
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.rows import Row, Rows, encode, limit_of
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.ops.precision import upcast
from deberta_jax.tokenizers.tokenizer import Tokenizer


class Filled(NamedTuple):
    """A token for a mask, as a reader sees it, without the space before it; its id and its probability."""

    token: str
    id: int
    probability: float


def fill_mask(
    model: MaskedLM, tokenizer: Tokenizer, texts: Sequence[str], *, top: int = 5, batching: Batching = BATCHING
) -> list[list[list[Filled]]]:
    """For each text, for each [MASK] in it, the `top` likeliest tokens, the likeliest first.

    Through the enhanced mask decoder where the model has it. Probabilities are among all ids of the tokenizer; special
    tokens are not offered. Raises InputError with the text's number for one without [MASK], or so long that a mask
    would be cut off.
    """
    return complete(fill_mask_pipeline(model, tokenizer, top=top, batching=batching), texts)


def fill_mask_pipeline(
    model: MaskedLM, tokenizer: Tokenizer, *, top: int = 5, batching: Batching = BATCHING
) -> Pipeline[list[list[Filled]]]:
    """The task of `fill_mask`, for `stream`; an example is `(text,)` or `(text, pair)`."""
    limit = limit_of(model, batching)
    size = model.deberta.config.vocab_size
    # Above the tokenizer's vocabulary are rows that only pad the table.
    known = np.arange(size) < tokenizer.vocab_size
    offered = known & ~np.isin(np.arange(size), tokenizer.special_ids)
    if not 1 <= top <= offered.sum():
        raise InputError(f"top is {top}; the vocabulary has 1 to {offered.sum()} tokens to offer")
    program = functools.partial(fill, known=known, offered=offered, top=top)

    def masked(examples: Sequence[tuple]) -> Rows:
        return _with_masks(tokenizer, examples, encode(tokenizer, examples, max_length=limit))

    def read(example: tuple, rows: list[Row]) -> list[list[Filled]]:
        [row] = rows
        number = int((row.input_ids == tokenizer.mask_id).sum())
        probabilities, ids = (x[:number].tolist() for x in row.outputs)
        return [
            [Filled(_readable(tokenizer, index), index, p) for index, p in zip(some, its, strict=True)]
            for some, its in zip(ids, probabilities, strict=True)
        ]

    return Pipeline(model, program, masked, read, limit, tokenizer.pad_id, batching)


def _with_masks(tokenizer: Tokenizer, examples: Sequence[tuple], rows: Rows) -> Rows:
    """The rows with the places of their masks, and an error for each text that lacks one."""
    positions = [np.flatnonzero(ids == tokenizer.mask_id).astype(np.int32) for ids in rows.batch.input_ids]
    errors = dict(rows.errors)
    for source, its in zip(rows.batch.sources.tolist(), positions, strict=True):
        length = rows.batch.input_ids.shape[1]
        wanted = len(its)
        if source in rows.cut:
            texts = [text for text in examples[source] if text is not None]
            wanted = sum(int((tokenizer.encode(text) == tokenizer.mask_id).sum()) for text in texts)
        if wanted > len(its):
            errors[source] = InputError(
                f"{wanted - len(its)} of its {tokenizer.mask_token} stand beyond the {length} tokens that are read; "
                "shorten it"
            )
        elif not wanted:
            errors[source] = InputError(f"has no {tokenizer.mask_token}; write it where a token is wanted")
    return rows._replace(errors=errors, positions=positions)


@functools.partial(jax.jit, static_argnames="top")
def fill(
    model: MaskedLM,
    input_ids: Int[Array, "B T"],
    attention_mask: Int[Array, "B T"],
    token_type_ids: Int[Array, "B T"],
    positions: Int[Array, "B M"],
    *,
    known: Bool[Array, "V"],
    offered: Bool[Array, "V"],
    top: int,
) -> tuple[Float[Array, "B M K"], Int[Array, "B M K"]]:
    """Probabilities and ids of the likeliest tokens, mask by mask, so that [B, M, V] is never held."""
    states = model.states(input_ids, attention_mask, masked_positions=positions, token_type_ids=token_type_ids)
    words = model.deberta.embeddings.word.embedding[...]

    def one(x: Float[Array, "B D"]) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
        logits = upcast(model.head(x[:, None], words)[:, 0])
        total = jax.nn.logsumexp(jnp.where(known, logits, -jnp.inf), axis=-1, keepdims=True)
        best, ids = jax.lax.top_k(jnp.where(offered, logits, -jnp.inf), top)
        return jnp.exp(best - total), ids

    probabilities, ids = jax.lax.map(one, states.swapaxes(0, 1))
    return probabilities.swapaxes(0, 1), ids.swapaxes(0, 1)


def _readable(tokenizer: Tokenizer, index: int) -> str:
    """What the token stands for; white space alone, and part of a character, as the vocabulary writes it."""
    text = tokenizer.decode([index]).strip()
    return text if text and "\ufffd" not in text else tokenizer.token(index)
