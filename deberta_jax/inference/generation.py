"""Text from a language model, token by token."""

import dataclasses
import functools
import logging
import math
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from deberta_jax.config import LEFT_TO_RIGHT
from deberta_jax.errors import InputError
from deberta_jax.hub.heads import Model
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.encode import EncodedRow, EncodedRows, encode
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.models import (
    has_absolute_positions,
    max_row_length,
    ordinary_tokens,
    require_head,
    require_tokenizer,
)
from deberta_jax.inference.sampling import NEW_TOKENS, Sampling
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.model.deberta import encoder_of
from deberta_jax.model.decoding import logits_at, read_prompts, read_token
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.ops.precision import upcast
from deberta_jax.ops.sampling import next_token
from deberta_jax.tokenizers.tokenizer import Tokenizer

# Steps between two checks whether all texts have ended.
BLOCK = 16
# What a model was trained for (`DebertaConfig.objective`) that generates text.
GENERATIVE = *LEFT_TO_RIGHT, "seq2seq"
_log = logging.getLogger(__name__)


class Generated(NamedTuple):
    """What `generate` returns for each prompt.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("runs/clm/model", "masked_lm")
        >>> generated = dj.generate(model, tokenizer, ["A man"], max_new_tokens=4)[0]
        >>> 0 < generated.tokens <= 4, generated.log_probability < 0
        (True, True)
    """

    text: str
    """The text after the prompt, without the stop token."""
    is_complete: bool
    """Whether the text ended with a stop token."""
    log_probability: float
    """Natural logarithm of the probability of the tokens, the stop token included, before `temperature`, `top_k` and
    `top_p`. Special tokens have probability 0.
    """
    tokens: int
    """The number of generated tokens, the stop token included."""


def generate(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    seed: int = 0,
    use_cache: bool = True,
    batching: Batching = BATCHING,
) -> list[Generated]:
    """Continue each prompt with a language model, or answer it with a sequence-to-sequence model.

    The model was trained with the objective clm or mt, or fine-tuned on (source, target) pairs (He et al. 2021,
    appendix A.4; docs/pretraining.md, "Language models"); a warning is logged for others.

    Args:
        model: a model with the head "masked_lm".
        tokenizer: its tokenizer.
        prompts: texts; a sequence-to-sequence model reads them as sources, with attention in both directions.
        max_new_tokens: the largest number of tokens after a prompt; by default 64, or what a sequence-to-sequence model
            was trained to write, but not more than half of the model's absolute positions.
        temperature: 0 for the most likely token, otherwise the logits are divided by it and a token is sampled.
        top_k: sample among this many of the most likely tokens; None for all.
        top_p: sample among the most likely tokens whose probabilities add up to this (nucleus sampling).
        stop: texts of single tokens that end a text, such as ".", beside [SEP].
        seed: of the samples; the same prompt and seed give the same text, whatever the other prompts are.
        use_cache: store keys and values of earlier tokens; without it everything is computed again for each token.
        batching: sizes of batches; `max_length` is that of the prompts.

    Returns:
        A `Generated` for each prompt.

    Raises:
        InputError: a model without the head; invalid options; with its index, a prompt that is too long.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("runs/clm/model", "masked_lm")
        >>> text = dj.generate(model, tokenizer, ["A man"], max_new_tokens=4)[0].text
    """
    sampling = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    options: dict[str, Any] = {**sampling, "stop": stop, "seed": seed, "use_cache": use_cache}
    return complete(generate_pipeline(model, tokenizer, batching=batching, **options), prompts)


def generate_pipeline(
    model: Model,
    tokenizer: Tokenizer,
    *,
    max_new_tokens: int | None = None,
    stop: Sequence[str] = (),
    seed: int = 0,
    batching: Batching = BATCHING,
    **sampling: Any,
) -> Pipeline[Generated]:
    """The pipeline of `generate`; an example is `(prompt,)`."""
    require_head(model, "masked_lm", "generate")
    require_tokenizer(tokenizer)
    config = encoder_of(model).config
    if config.objective not in GENERATIVE:
        _log.warning("the model does not say that it was trained to generate text (objective clm, mt or seq2seq)")
    if max_new_tokens is None:
        # One long target in a training set must not truncate all sources.
        limit = config.max_position_embeddings // 2 if has_absolute_positions(model) else math.inf
        max_new_tokens = int(min(config.max_new_tokens or NEW_TOKENS, limit))
    settings = Sampling(max_new_tokens, **sampling, is_bidirectional=config.objective == "seq2seq")
    batching = dataclasses.replace(batching, max_length=_prompt_length(model, settings, batching))
    stops, allowed = stop_ids(tokenizer, stop), ordinary_tokens(model, tokenizer)
    allowed[tokenizer.sep_id] = True
    program = functools.partial(
        generate_tokens,
        allowed=allowed,
        stops=stops,
        key=jax.random.key(seed),
        settings=settings,
    )

    def read(example: tuple, rows: list[EncodedRow]) -> Generated:
        [row] = rows
        ids, log_probability = row.outputs
        ids = ids[: settings.max_new_tokens]
        ends = np.flatnonzero(np.isin(ids, stops))
        new = ids[: ends[0]] if len(ends) else ids
        text = _new_text(tokenizer, row.input_ids, new, settings.is_bidirectional)
        return Generated(text, bool(len(ends)), float(log_probability), len(new) + bool(len(ends)))

    encode_rows = functools.partial(_encode_prompts, is_bidirectional=settings.is_bidirectional)
    return Pipeline(model, tokenizer, program, encode_rows, read, batching, new_tokens=settings.max_new_tokens)


def stop_ids(tokenizer: Tokenizer, stop: Sequence[str]) -> np.ndarray:
    """The ids of [SEP] and of the stop tokens; raises InputError for a text that is not one token."""
    if isinstance(stop, str):
        raise InputError(f"stop is {stop!r}, expected a list of tokens such as [{stop!r}]")
    ids = {tokenizer.sep_id}
    for text in stop:
        encoded = tokenizer.encode(text)
        # A token at the start of a word, and the same one inside of a word.
        written = [id_ for id_ in range(tokenizer.vocab_size) if text.strip() and text.strip() in tokenizer.token(id_)]
        alike = {id_ for id_ in written if tokenizer.decode([id_]).strip() == text.strip()}
        alike |= {int(encoded[0])} if len(encoded) == 1 else set()
        if not alike:
            raise InputError(f"stop: {text!r} is {len(encoded)} tokens of this vocabulary, expected one")
        ids |= alike
    return np.asarray(sorted(ids), np.int32)


def _prompt_length(model: Any, settings: Sampling, batching: Batching) -> int:
    """The largest number of tokens of a prompt."""
    longest = max_row_length(model, batching)
    if not has_absolute_positions(model):
        return longest
    positions = encoder_of(model).config.max_position_embeddings
    room = positions - settings.max_new_tokens
    if room < 3:
        raise InputError(
            f"max_new_tokens is {settings.max_new_tokens}, but the model has {positions} absolute positions for prompt "
            f"and text together: use at most {positions - 3}"
        )
    return min(longest, room)


def _encode_prompts(
    tokenizer: Tokenizer, examples: Sequence[tuple], max_length: int, *, is_bidirectional: bool
) -> EncodedRows:
    """Rows of [CLS] prompt, or [CLS] source [SEP], with a number of each row as the seed of its samples."""
    rows = encode(tokenizer, examples, max_length, truncation="longest_first" if is_bidirectional else None)
    batch = rows.batch
    if not is_bidirectional and batch.input_ids.size:
        # Without [SEP], which would end the text.
        attention_mask = batch.attention_mask.copy()
        attention_mask[np.arange(len(attention_mask)), attention_mask.sum(1) - 1] = 0
        batch = batch._replace(attention_mask=attention_mask)
    pairs = zip(batch.input_ids, batch.attention_mask, strict=True)
    seeds = [np.asarray([zlib.crc32(ids[mask > 0].astype(np.int32).tobytes()) & 0x7FFFFFFF]) for ids, mask in pairs]
    return rows._replace(batch=batch, positions=[seed.astype(np.int32) for seed in seeds])


def _new_text(tokenizer: Tokenizer, prompt: np.ndarray, new: np.ndarray, is_bidirectional: bool) -> str:
    """The text of the new tokens, so that prompt + text reads as the model wrote it."""
    if is_bidirectional:
        return tokenizer.decode(new).strip()
    before = tokenizer.decode(prompt[1:])
    whole = tokenizer.decode([*prompt[1:], *new])
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(new)


class _State(NamedTuple):
    """Generation after some steps.

    `tokens` are prompts and texts, the logits are those of the next token. `memory` is the `Cache`, or without one the
    attention mask [B, S].
    """

    tokens: Int[Array, "B S"]
    memory: Any
    logits: Float[Array, "B V"]
    is_complete: Bool[Array, "B"]
    log_probability: Float[Array, "B"]
    slot: Int[Array, ""]


@functools.partial(jax.jit, static_argnames="settings")
def generate_tokens(
    model: MaskedLM,
    inputs: ModelInputs,
    *,
    allowed: Bool[Array, "V"],
    stops: Int[Array, "K"],
    key: PRNGKeyArray,
    settings: Sampling,
) -> tuple[Int[Array, "B M"], Float[Array, "B"]]:
    """The ids after each prompt, and the log probability of the texts; ids after a stop token mean nothing."""
    ids, mask = _right_aligned(jnp.asarray(inputs.input_ids), jnp.asarray(inputs.attention_mask) != 0)
    (B, P), blocks = ids.shape, -(-settings.max_new_tokens // BLOCK)
    capacity = P + blocks * BLOCK
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.asarray(inputs.positions)[:, 0])
    tokens = jnp.pad(ids, ((0, 0), (0, capacity - P)))
    is_bidirectional = settings.is_bidirectional

    def compute_again(tokens: Array, mask: Array, slot: Array) -> tuple[Array, Array]:
        return mask, logits_at(model, tokens, mask, slot, prompt_length=P, is_bidirectional=is_bidirectional)

    def step(state: _State, _: None) -> tuple[_State, None]:
        logits = jnp.where(allowed, upcast(state.logits), -jnp.inf)
        token = next_token(logits, jax.vmap(jax.random.fold_in, (0, None))(keys, state.slot), **settings.choice)
        gain = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=1)[:, 0]
        counts = ~state.is_complete & (state.slot < P + settings.max_new_tokens)
        tokens = state.tokens.at[:, state.slot].set(token)
        memory: Any
        if settings.use_cache:
            memory, logits = read_token(model, state.memory, token, state.slot)
        else:
            memory, logits = compute_again(tokens, state.memory, state.slot)
        is_complete = state.is_complete | (token[:, None] == stops).any(1)
        log_probability = state.log_probability + jnp.where(counts, gain, 0)
        return _State(tokens, memory, logits, is_complete, log_probability, state.slot + 1), None

    memory: Any
    if settings.use_cache:
        memory, logits = read_prompts(model, ids, mask, capacity=capacity, is_bidirectional=is_bidirectional)
    else:
        everything = jnp.pad(mask, ((0, 0), (0, capacity - P)), constant_values=True)
        memory, logits = compute_again(tokens, everything, jnp.asarray(P - 1))
    # A row of padding has nothing to generate.
    first = _State(tokens, memory, logits, ~mask.any(1), jnp.zeros(B, jnp.float32), jnp.asarray(P))
    last = jax.lax.while_loop(
        lambda state: (state.slot < capacity) & ~state.is_complete.all(),
        lambda state: jax.lax.scan(step, state, length=BLOCK)[0],
        first,
    )
    return last.tokens[:, P : P + settings.max_new_tokens], last.log_probability


def _right_aligned(ids: Int[Array, "B P"], mask: Bool[Array, "B P"]) -> tuple[Int[Array, "B P"], Bool[Array, "B P"]]:
    """Rows with the padding before the tokens instead of after them."""
    shift = ids.shape[1] - mask.sum(1)
    rolled = jax.vmap(jnp.roll)(ids, shift), jax.vmap(jnp.roll)(mask, shift)
    return jnp.where(rolled[1], rolled[0], 0), rolled[1]
