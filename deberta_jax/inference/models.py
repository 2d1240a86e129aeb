"""What a pipeline reads from a model: its encoder, its head, and the longest row it accepts."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from deberta_jax.errors import InputError
from deberta_jax.hub.heads import HEADS, Head
from deberta_jax.inference.buckets import Batching
from deberta_jax.model.deberta import encoder_of
from deberta_jax.tokenizers.tokenizer import Tokenizer


def require_head(model: Any, head: Head, function: str) -> None:
    """Raise InputError if the model does not have the head that a function needs; the message says how to load it."""
    if isinstance(model, HEADS[head].model):
        return
    names = [f'"{name}"' if name else "none" for name, spec in HEADS.items() if isinstance(model, spec.model)]
    actual = f"has {names[0]}" if names else f"is a {type(model).__name__}"
    raise InputError(
        f'{function} needs a model with the head "{head}", this one {actual}: '
        f'load it with from_pretrained(..., head="{head}")'
    )


def max_row_length(model: Any, batching: Batching) -> int:
    """The maximum number of tokens per row: `batching.max_length`, or by default that of the model's config.

    That is the length of the sequences it was fine-tuned on, or the number of its positions. Raises InputError if
    `batching.max_length` exceeds the number of absolute positions of a model that uses them.
    """
    config, requested = encoder_of(model).config, batching.max_length
    positions = config.max_position_embeddings
    if has_absolute_positions(model) and requested is not None and requested > positions:
        raise InputError(
            f"max_length is {requested}, but the model has {positions} absolute positions: use {positions} or less"
        )
    return (config.sequence_length or positions) if requested is None else requested


def has_absolute_positions(model: Any) -> bool:
    """Whether a model adds absolute positions, at the input or in a mask decoder, which limits the length of rows."""
    return encoder_of(model).config.position_biased_input or getattr(model, "decoder", None) is not None


def ordinary_tokens(model: Any, tokenizer: Tokenizer) -> Bool[np.ndarray, "V"]:
    """True for each row of the word table that is a token other than a special one; the table may have more rows."""
    ids = np.arange(encoder_of(model).config.vocab_size)
    return (ids < tokenizer.vocab_size) & ~np.isin(ids, tokenizer.special_ids)


def require_tokenizer(tokenizer: Tokenizer | None) -> None:
    """Raise InputError for the None that `from_pretrained` returns for a model without a tokenizer."""
    if tokenizer is None:
        raise InputError(
            "the model has no tokenizer: load one with Tokenizer.from_pretrained(FOLDER), or call the model itself "
            "with ids of tokens"
        )


def unknown_id(model: Any, tokenizer: Tokenizer, ids: Int[np.ndarray, "..."]) -> InputError | None:
    """The error for the first id that the model's table of words does not have; None without one."""
    words = encoder_of(model).embeddings.word.embedding.shape[-2]
    index = next(iter(ids[ids >= words].tolist()), None)
    if index is None:
        return None
    return InputError(
        f"the tokenizer's id {index} ({tokenizer.token(index)!r}) is beyond the {words} words of the model: use the "
        f"model's tokenizer, or resized(model, {tokenizer.vocab_size}, key=...)"
    )
