"""Masked language modeling: the most likely tokens for each [MASK], independently or one after the other."""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from deberta_jax.errors import InputError
from deberta_jax.hub.heads import Model
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.encode import EncodedRow, EncodedRows, encode
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.models import ordinary_tokens, require_head, require_tokenizer
from deberta_jax.inference.names import FillOrder
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.ops.precision import upcast
from deberta_jax.tokenizers.tokenizer import Tokenizer

# Tokens before a mask that decide whether its token is written after a space.
CONTEXT = 4


class PredictedToken(NamedTuple):
    """A token for a mask, as readable text without the space before it; its id and its probability."""

    token: str
    id: int
    probability: float


class FilledText(NamedTuple):
    """A text whose masks were filled one after the other.

    `masks` are the predictions for each mask at the time when it was filled, the chosen token first. `text` and `pair`
    contain the chosen tokens; `pair` is None without a second text.
    """

    text: str
    pair: str | None
    masks: list[list[PredictedToken]]


@overload
def fill_mask(
    model: Model,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    top_k: int = 5,
    fill_order: Literal["independent"] = "independent",
    batching: Batching = BATCHING,
) -> list[list[list[PredictedToken]]]: ...
@overload
def fill_mask(
    model: Model,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    top_k: int = 5,
    fill_order: Literal["left_to_right", "most_confident"],
    batching: Batching = BATCHING,
) -> list[FilledText]: ...
def fill_mask(
    model: Model,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    top_k: int = 5,
    fill_order: FillOrder = "independent",
    batching: Batching = BATCHING,
) -> list[list[list[PredictedToken]]] | list[FilledText]:
    """For each text and each [MASK] in it, the `top_k` most likely tokens, in descending order.

    Uses the enhanced mask decoder if the model has one. Probabilities are over all ids of the tokenizer; special
    tokens are not returned.

    Args:
        model: a model with the head "masked_lm".
        tokenizer: its tokenizer.
        texts: the texts, each with one or more [MASK].
        top_k: the number of tokens for each mask.
        fill_order: "independent" predicts each mask while all others are masked. "left_to_right" and
            "most_confident" fill one mask after the other, and the model reads the tokens that were filled before, as
            for the pieces of a word; the latter fills the mask with the most likely token next.
        batching: sizes of batches and the maximum number of tokens.

    Returns:
        For each text, a list for each mask of predictions with `token`, `id` and `probability`; for another
        `fill_order`, the `text` with the chosen tokens and `masks`, the predictions when each mask was filled.

    Raises:
        InputError: a model without the head "masked_lm"; an unknown option; with the index of the text, a text without
            [MASK], or with so many tokens that a [MASK] would be truncated.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("microsoft/deberta-v3-base", "masked_lm")
        >>> [predictions] = dj.fill_mask(model, tokenizer, ["A [MASK] eats."], top_k=2)[0]
        >>> best, second = [prediction.token for prediction in predictions]
        >>> predictions[0].probability >= predictions[1].probability
        True
    """
    return complete(fill_mask_pipeline(model, tokenizer, top_k=top_k, fill_order=fill_order, batching=batching), texts)


def fill_mask_pipeline(
    model: Model,
    tokenizer: Tokenizer,
    *,
    top_k: int = 5,
    fill_order: FillOrder = "independent",
    batching: Batching = BATCHING,
) -> Pipeline[Any]:
    """The pipeline of `fill_mask`; an example is `(text,)` or `(text, pair)`."""
    require_head(model, "masked_lm", "fill_mask")
    require_tokenizer(tokenizer)
    if fill_order not in get_args(FillOrder):
        raise InputError(f"unknown fill_order {fill_order!r}: use one of {', '.join(get_args(FillOrder))}")
    allowed = ordinary_tokens(model, tokenizer)
    known = np.arange(len(allowed)) < tokenizer.vocab_size
    if not 1 <= top_k <= allowed.sum():
        raise InputError(f"top_k is {top_k}, but must be between 1 and {allowed.sum()}, the size of the vocabulary")
    options: dict[str, Any] = {"known": known, "allowed": allowed, "top_k": top_k}

    def read(example: tuple, rows: list[EncodedRow]) -> list[list[PredictedToken]]:
        [row] = rows
        masks = int((row.input_ids == tokenizer.mask_id).sum())
        probabilities, ids = (x[:masks].tolist() for x in row.outputs)
        return [
            [PredictedToken(_readable(tokenizer, id_), id_, p) for id_, p in zip(mask_ids, mask_probs, strict=True)]
            for mask_ids, mask_probs in zip(ids, probabilities, strict=True)
        ]

    def read_filled(example: tuple, rows: list[EncodedRow]) -> FilledText:
        masks, chosen = read(example, rows), rows[0].input_ids.copy()
        chosen[chosen == tokenizer.mask_id] = [tokens[0].id for tokens in masks]
        texts = [
            None if text is None else replace_masks(tokenizer, text, rows[0], chosen, side)
            for side, text in enumerate(example)
        ]
        return FilledText(str(texts[0]), texts[1] if len(texts) > 1 else None, masks)

    if fill_order == "independent":
        return Pipeline(model, tokenizer, functools.partial(top_tokens, **options), encode_masked, read, batching)
    program = functools.partial(fill_in_order, **options, fill_order=fill_order)
    return Pipeline(model, tokenizer, program, encode_masked, read_filled, batching)


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


@functools.partial(jax.jit, static_argnames=("top_k", "fill_order"))
def fill_in_order(
    model: MaskedLM,
    inputs: ModelInputs,
    *,
    known: Bool[Array, "V"],
    allowed: Bool[Array, "V"],
    top_k: int,
    fill_order: Literal["left_to_right", "most_confident"],
) -> tuple[Float[Array, "B M K"], Int[Array, "B M K"]]:
    """As `top_tokens`, but the most likely token of a mask is written into the text before the next mask is predicted.

    One step fills a mask of every text; the loop ends when all masks of the batch are filled.
    """
    positions = jnp.asarray(inputs.positions)
    B, M = positions.shape
    rows, slots = jnp.arange(B), jnp.arange(M)
    options: dict[str, Any] = {"known": known, "allowed": allowed, "top_k": top_k}

    def step(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        ids, remaining, probabilities, tokens = carry
        slot = jnp.argmax(remaining, axis=1)
        # From left to right, one position of each text is read.
        read = positions if fill_order == "most_confident" else positions[rows, slot][:, None]
        p, top = top_tokens(model, inputs._replace(input_ids=ids, positions=read), **options)
        if fill_order == "most_confident":
            slot = jnp.argmax(jnp.where(remaining, p[..., 0], -1), axis=1)
        here = ((slots == slot[:, None]) & remaining)[..., None]
        probabilities, tokens = jnp.where(here, p, probabilities), jnp.where(here, top, tokens)
        at, chosen = positions[rows, slot], tokens[rows, slot, 0]
        ids = ids.at[rows, at].set(jnp.where(remaining[rows, slot], chosen, ids[rows, at]))
        return ids, remaining & ~here[..., 0], probabilities, tokens

    # Positions ascend, and are padded with 0.
    remaining = (positions > 0) | (slots == 0)
    empty = jax.eval_shape(lambda: top_tokens(model, inputs, **options))
    start = jnp.asarray(inputs.input_ids), remaining, *(jnp.zeros(x.shape, x.dtype) for x in empty)
    _, _, probabilities, tokens = jax.lax.while_loop(lambda carry: carry[1].any(), step, start)
    return probabilities, tokens


def replace_masks(tokenizer: Tokenizer, text: str, row: EncodedRow, ids: Int[np.ndarray, "T"], side: int) -> str:
    """A text with its masks replaced by the tokens `ids` of its row; `side` is 0 for the first text, 1 for the second.

    A token that continues a word is written without the space before the mask.
    """
    on_side = row.sequence_ids == side
    at = np.flatnonzero((row.input_ids == tokenizer.mask_id) & on_side)
    parts, end = [], 0
    # Adjacent masks are decoded together: several tokens may be the bytes of one character.
    for run in np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if len(at) else ():
        first, last = int(run[0]), int(run[-1])
        before = text[end : int(row.offsets[first, 0])]
        context = np.arange(max(first - CONTEXT, 0), first)
        context = context[on_side[context]]
        # The space before a mask belongs to the token that replaces the mask, unless it is a token of its own.
        if len(context) and row.offsets[first - 1, 0] < row.offsets[first - 1, 1]:
            before = before.rstrip()
        parts += [before, _continuation(tokenizer, ids[context].tolist(), ids[run].tolist())]
        end = int(row.offsets[last, 1])
    return "".join([*parts, text[end:]])


def _continuation(tokenizer: Tokenizer, context: list[int], ids: list[int]) -> str:
    """The text of tokens after a context, with the space between them if there is one; none without a context."""
    if not context:
        return tokenizer.decode(ids).lstrip()
    before, whole = tokenizer.decode(context), tokenizer.decode([*context, *ids])
    return whole.removeprefix(before) if whole.startswith(before) else f" {tokenizer.decode(ids)}"


def _readable(tokenizer: Tokenizer, index: int) -> str:
    """The text of a token; for white space and for part of a character, the token as the vocabulary writes it."""
    text = tokenizer.decode([index]).strip()
    return text if text and "\ufffd" not in text else tokenizer.token(index)
