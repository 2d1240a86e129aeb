"""Texts as vectors."""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deberta_jax.config import Pooling
from deberta_jax.errors import InputError
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.encode import EncodedRow, EncodedRows, Texts, encode, text_or_pair
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.model.deberta import Deberta, encoder_of
from deberta_jax.model.module import HeadModel
from deberta_jax.model.sentence import SentenceConfig, SentenceEncoder, vector_size
from deberta_jax.ops.pooling import pool
from deberta_jax.tokenizers.tokenizer import Tokenizer

# How a model without layers of its folder prepares and pools texts.
_PLAIN = SentenceConfig()


def embed(
    model: Deberta | HeadModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    pooling: Pooling | None = None,
    prompt: str | None = None,
    batching: Batching = BATCHING,
) -> Float[np.ndarray, "B E"]:
    """A vector for each text, from the last layer of the encoder.

    A model of a sentence-transformers folder (`SentenceEncoder`) applies the pooling, the dense layers, the
    normalization and the default prompt of its folder; another model takes the mean over all tokens of the text,
    including [CLS] and [SEP], as sentence-transformers does (E = D).

    Args:
        model: a model with any head or none.
        tokenizer: its tokenizer.
        texts: the texts.
        pairs: second texts.
        pooling: pools the states in this way alone, without the dense layers and the normalization of the folder:
            "mean", "cls" (the state of [CLS]), "max", "mean_sqrt_len" (the sum over the square root of the number of
            tokens), "weighted_mean" (by position) or "last" (the last token).
        prompt: the name of a prompt of the folder, such as "query", or a text to write before each text, which ends
            with a space or a punctuation mark; "" for none. By default the folder's default prompt, if it has one.
        batching: sizes of batches. Texts longer than its `max_length`, by default that of the folder or the model's
            number of positions, are truncated, which is logged.

    Returns:
        Vectors [B, E], a float32 numpy array.

    Raises:
        InputError: an unknown pooling or prompt; an invalid text, with its index.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("microsoft/deberta-v3-base")
        >>> vectors = dj.embed(model, tokenizer, ["A man eats.", "Somebody has lunch."])
        >>> vectors.shape == (2, model.config.hidden_size)
        True
    """
    columns = [texts] if pairs is None else [texts, pairs]
    pipeline = embed_pipeline(model, tokenizer, pooling=pooling, prompt=prompt, batching=batching)
    vectors = complete(pipeline, *columns)
    encoder = encoder_of(model)
    size = encoder.config.hidden_size if pooling is not None else vector_size(encoder)
    return np.stack(vectors) if vectors else np.zeros((0, size), np.float32)


def embed_pipeline(
    model: Any,
    tokenizer: Tokenizer,
    *,
    pooling: Pooling | None = None,
    prompt: str | None = None,
    batching: Batching = BATCHING,
) -> Pipeline[Float[np.ndarray, "E"]]:
    """The pipeline of `embed`; an example is `(text,)` or `(text, pair)`."""
    if pooling is not None and pooling not in get_args(Pooling):
        raise InputError(f"unknown pooling {pooling!r}: use one of {', '.join(get_args(Pooling))}")
    encoder = encoder_of(model)
    sentence = encoder.sentence if isinstance(encoder, SentenceEncoder) else _PLAIN
    text = prompt_text(sentence, prompt)
    if pooling is None and isinstance(encoder, SentenceEncoder):
        program: Callable[[Any, ModelInputs], Any] = sentence_vectors
    else:
        program = functools.partial(pooled_states, pooling=pooling or "mean")
    return Pipeline(
        encoder,
        tokenizer,
        program,
        functools.partial(_encode, prompt=text, sentence=sentence),
        _read_vector,
        _with_max_length(encoder, sentence, batching),
    )


def prompt_text(sentence: SentenceConfig, prompt: str | None) -> str:
    """The text before each input: a prompt by its name, the default one for None, or `prompt` itself.

    Raises InputError for a single word that names no prompt.
    """
    prompts = dict(sentence.prompts)
    if prompt is None:
        return prompts.get(sentence.default_prompt or "", "")
    if prompt in prompts:
        return prompts[prompt]
    if re.fullmatch(r"\S*\w", prompt):
        names = f"it has {', '.join(prompts)}" if prompts else "it has no prompts"
        raise InputError(
            f"the model has no prompt named {prompt!r} ({names}); a text to write before each text ends with a space "
            "or a punctuation mark"
        )
    return prompt


def _with_max_length(encoder: Deberta, sentence: SentenceConfig, batching: Batching) -> Batching:
    """The batching with the maximum length of the folder, if none is given."""
    if batching.max_length is not None or sentence.max_length is None:
        return batching
    config = encoder.config
    limit = config.max_position_embeddings if config.position_biased_input else sentence.max_length
    return replace(batching, max_length=max(min(limit, sentence.max_length), 3))


def _encode(
    tokenizer: Tokenizer, examples: Sequence[tuple], max_length: int, *, prompt: str, sentence: SentenceConfig
) -> EncodedRows:
    """Rows of texts after the prompt; their positions are the number of tokens that are not pooled."""

    def texts_of(example: tuple) -> list[Texts]:
        [texts] = text_or_pair(example)
        if not all(isinstance(text, str) for text in texts):
            return [texts]
        prepared = (prompt + texts[0], *texts[1:])
        return [tuple(text.lower() for text in prepared) if sentence.lower_case else prepared]

    rows = encode(tokenizer, examples, max_length, texts_of=texts_of)
    excluded = 0
    if prompt and not sentence.include_prompt:
        # [CLS] belongs to the prompt, as in sentence-transformers.
        excluded = min(len(tokenizer.encode(prompt.lower() if sentence.lower_case else prompt)) + 1, max_length - 1)
    return rows._replace(positions=[np.asarray([excluded], np.int32)] * len(rows.batch.input_ids))


def _read_vector(example: tuple, rows: list[EncodedRow]) -> Float[np.ndarray, "E"]:
    [row] = rows
    return row.outputs


@functools.partial(jax.jit, static_argnames="pooling")
def pooled_states(encoder: Deberta, inputs: ModelInputs, *, pooling: Pooling = "mean") -> Float[Array, "B D"]:
    """The pooled states of the last layer; zero for a row of padding."""
    output = encoder(inputs.input_ids, inputs.attention_mask, token_type_ids=inputs.token_type_ids)
    mask = jnp.asarray(inputs.attention_mask).astype(bool)
    return pool(output.last_hidden_state, mask, pooling, _excluded(inputs)).astype(jnp.float32)


@jax.jit
def sentence_vectors(encoder: SentenceEncoder, inputs: ModelInputs) -> Float[Array, "B E"]:
    """The vectors of a sentence encoder, by the pooling and the layers of its folder."""
    output = encoder(inputs.input_ids, inputs.attention_mask, token_type_ids=inputs.token_type_ids)
    vectors = encoder.pool(output.last_hidden_state, inputs.attention_mask, excluded=_excluded(inputs))
    return vectors.astype(jnp.float32)


def _excluded(inputs: ModelInputs) -> Array | None:
    return None if inputs.positions is None else jnp.asarray(inputs.positions)[:, 0]
