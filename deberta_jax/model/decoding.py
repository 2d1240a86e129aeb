"""Token by token through a language model: keys and values of earlier tokens are stored, not computed again."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from deberta_jax.model.encoder import Layer
from deberta_jax.model.masked_lm import DECODING_STEPS, MaskedLM
from deberta_jax.model.module import in_precision
from deberta_jax.ops.decoding import attend_to_cache


class Cache(NamedTuple):
    """What later tokens read of earlier ones; S is the number of tokens that fit.

    `keys` and `values` [L, B, S, N, H] are those of each layer that runs, `decoder` those of the last layer in the
    enhanced mask decoder. `mask` [B, S] is True for tokens that are there. `rel_k` and `rel_q` [G, R, N, H] are the
    projected relative tables of each group of layers, `rows` [2 S - 1] the row of each distance, largest first.
    `embeddings` [B, K, D] are those of the last tokens, which the convolution of v2 reads.
    """

    keys: Float[Array, "L B S N H"]
    values: Float[Array, "L B S N H"]
    decoder: tuple[Float[Array, "B S N H"], Float[Array, "B S N H"]] | None
    mask: Bool[Array, "B S"]
    rel_k: Float[Array, "G R N H"] | None
    rel_q: Float[Array, "G R N H"] | None
    rows: Int[Array, "W"] | None
    embeddings: Float[Array, "B K D"] | None


class _Step(NamedTuple):
    """What all layers read in one step: the position of the token, its distances, and which keys it attends to."""

    slot: Int[Array, ""]
    rows: Int[Array, "S"] | None
    mask: Bool[Array, "B S"]


@in_precision
def read_prompts(
    model: MaskedLM,
    input_ids: Int[Array, "B P"],
    attention_mask: Bool[Array, "B P"],
    *,
    capacity: int,
    is_bidirectional: bool = False,
) -> tuple[Cache, Float[Array, "B V"]]:
    """The cache of prompts, with room for `capacity` tokens, and the logits of the token after each prompt.

    Prompts are padded on the left, so that they end at the same position. Their tokens attend to those before them, or
    to the whole prompt if `is_bidirectional`.
    """
    encoder, (B, P) = model.deberta.encoder, input_ids.shape
    L = encoder.config.num_hidden_layers
    positions = jnp.broadcast_to(jnp.arange(P), (B, P))
    output = model.deberta(
        input_ids,
        attention_mask,
        position_ids=absolute_positions(attention_mask),
        order=jnp.zeros_like(positions) if is_bidirectional else positions,
        depth=L if model.decoder is None else L - 1,
        output_hidden_states=True,
    )
    states = output.hidden_states
    assert states is not None
    groups = jnp.asarray([encoder.config.group_of(number) for number in range(L)])

    def project(_: None, scanned: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
        group, x = scanned
        attention = _layer(model, group).attention
        return None, (attention.key(x), attention.value(x))

    _, (keys, values) = jax.lax.scan(project, None, (groups, states[:L]))
    room = (0, 0), (0, 0), (0, capacity - P), (0, 0), (0, 0)
    keys, values = jnp.pad(keys, room), jnp.pad(values, room)
    depth = L if model.decoder is None else L - 1
    reach = encoder.config.conv_kernel_size // 2
    embeddings = jnp.pad(states[0], ((0, 0), (reach, 0), (0, 0)))[:, P:] if reach else None
    cache = Cache(
        keys[:depth],
        values[:depth],
        None if depth == L else (keys[depth], values[depth]),
        jnp.pad(attention_mask, ((0, 0), (0, capacity - P))),
        *_relative_terms(model, capacity, states.dtype),
        embeddings,
    )
    last = output.last_hidden_state[:, -1:]
    return cache, _logits(model, cache, last, jnp.asarray(P - 1))


@in_precision
def read_token(
    model: MaskedLM, cache: Cache, token: Int[Array, "B"], slot: Int[Array, ""]
) -> tuple[Cache, Float[Array, "B V"]]:
    """The cache with one more token of each sequence, at position `slot`, and the logits of the token after it."""
    encoder, depth = model.deberta.encoder, cache.keys.shape[0]
    cache = cache._replace(mask=cache.mask.at[:, slot].set(True))
    position = cache.mask.sum(1, keepdims=True) - 1
    tables = model.deberta.embeddings
    x = tables.finish(tables.lookup(token[:, None], None, position))
    convolved, embeddings = None, cache.embeddings
    if embeddings is not None and encoder.convolution is not None:
        window = jnp.concatenate([embeddings, x], axis=1)
        order = jnp.broadcast_to(jnp.arange(window.shape[1]), window.shape[:2])
        convolved, embeddings = encoder.convolution(window, None, None, order)[:, -1:], window[:, 1:]
    step = _step(cache, slot)

    def run_layer(x: Array, scanned: tuple) -> tuple[Array, tuple[Array, Array]]:
        number, keys, values = scanned
        group = _group(model, number)
        keys, values = _store(_layer(model, group), x, keys, values, slot)
        y = _attend(model, cache, group, x, keys, values, step)
        if convolved is not None and encoder.convolution is not None:
            merge = encoder.convolution.merge
            y = jax.lax.cond(number == 0, lambda y: merge(y, convolved, None), lambda y: y, y)
        return y, (keys, values)

    x, (keys, values) = jax.lax.scan(run_layer, x, (jnp.arange(depth), cache.keys, cache.values))
    cache = cache._replace(keys=keys, values=values, embeddings=embeddings)
    if cache.decoder is not None:
        cache = cache._replace(decoder=_store(encoder.layer(depth), x, *cache.decoder, slot))
    return cache, _logits(model, cache, x, slot)


@in_precision
def logits_at(
    model: MaskedLM,
    input_ids: Int[Array, "B S"],
    attention_mask: Bool[Array, "B S"],
    slot: Int[Array, ""],
    *,
    prompt_length: int,
    is_bidirectional: bool = False,
) -> Float[Array, "B V"]:
    """What `read_token` returns, computed for all tokens again; tokens after `slot` are not read."""
    B, S = input_ids.shape
    order = jnp.arange(S)
    if is_bidirectional:
        order = jnp.where(order < prompt_length, 0, order)
    logits = model(
        input_ids,
        attention_mask,
        position_ids=absolute_positions(attention_mask),
        order=jnp.broadcast_to(order, (B, S)),
        masked_positions=jnp.broadcast_to(slot, (B, 1)),
    )
    return logits[:, 0]


def absolute_positions(attention_mask: Bool[Array, "B S"]) -> Int[Array, "B S"]:
    """Positions from 0 at the first token of each sequence; 0 for padding before it."""
    return jnp.maximum(jnp.cumsum(attention_mask, axis=1) - 1, 0)


def _logits(model: MaskedLM, cache: Cache, x: Float[Array, "B 1 D"], slot: Int[Array, ""]) -> Float[Array, "B V"]:
    """The logits from the last state of each sequence, or through the mask decoder from that of the layer before."""
    if model.decoder is not None and cache.decoder is not None:
        step, group = _step(cache, slot), model.deberta.config.num_groups - 1
        x = x + model.decoder.position(cache.mask.sum(1, keepdims=True) - 1).astype(x.dtype)
        for _ in range(DECODING_STEPS):
            x = _attend(model, cache, group, x, *cache.decoder, step)
    return model.head(x, model.deberta.embeddings.word.embedding[...])[:, 0]


def _step(cache: Cache, slot: Int[Array, ""]) -> _Step:
    S, rows = cache.mask.shape[1], None
    if cache.rows is not None:
        rows = jax.lax.dynamic_slice_in_dim(cache.rows, S - 1 - slot, S)
    return _Step(slot, rows, cache.mask)


def _attend(
    model: MaskedLM, cache: Cache, group: Any, x: Float[Array, "B 1 D"], keys: Array, values: Array, step: _Step
) -> Float[Array, "B 1 D"]:
    """The output of a layer for one token of each sequence."""
    layer = _layer(model, group)
    rel_k, rel_q = (None if table is None else table[group] for table in (cache.rel_k, cache.rel_q))
    query, scale = layer.attention.query(x), layer.attention.scale
    context = attend_to_cache(query, keys, values, rel_k, rel_q, rows=step.rows, mask=step.mask, scale=scale)
    return layer.feed_forward(layer.attention.finish(context, x))


def _store(layer: Layer, x: Array, keys: Array, values: Array, slot: Int[Array, ""]) -> tuple[Array, Array]:
    """Keys and values of a layer with those of one more token."""
    added = layer.attention.key(x), layer.attention.value(x)
    start = 0, slot, 0, 0
    return jax.lax.dynamic_update_slice(keys, added[0], start), jax.lax.dynamic_update_slice(values, added[1], start)


def _layer(model: MaskedLM, group: Any) -> Layer:
    return jax.tree.map(lambda parameter: parameter[group], model.deberta.encoder.layers)


def _group(model: MaskedLM, number: Int[Array, ""]) -> Int[Array, ""]:
    config = model.deberta.config
    return number * config.num_groups // config.num_hidden_layers


def _relative_terms(model: MaskedLM, capacity: int, dtype: Any) -> tuple[Array | None, Array | None, Array | None]:
    """The projected tables of each group, and the rows of all distances."""
    encoder = model.deberta.encoder
    relative = encoder.relative_positions(capacity, dtype)
    if relative is None:
        return None, None, None
    rel_k, rel_q = jax.lax.map(
        lambda group: _layer(model, group).attention.relative_terms(relative.table),
        jnp.arange(encoder.config.num_groups),
    )
    return rel_k, rel_q, jnp.asarray(np.asarray(relative.rows))
