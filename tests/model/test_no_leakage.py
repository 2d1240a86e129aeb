"""A language model does not see what it predicts: logits and gradients do not depend on hidden tokens, bit for bit."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import BIASED, SMALL, V1, V2, V3, masked_lm

from deberta_jax.data.language_modeling import DIRECTIONS, order_tokens
from deberta_jax.data.packing import PackedSequence, pack
from deberta_jax.ops.attention import IMPLEMENTATIONS, PLATFORMS
from deberta_jax.ops.attention_gpu import pallas_gpu
from deberta_jax.ops.attention_tpu import pallas_tpu

# One sequence in each direction.
B, T = len(DIRECTIONS), 20
TWO = {"num_hidden_layers": 2}
VARIANTS = {
    "v1": (dataclasses.replace(V1, **TWO), {}),
    "v2": (dataclasses.replace(V2, **TWO), {}),
    "v3": (dataclasses.replace(V3, **TWO), {}),
    "input": (dataclasses.replace(BIASED, **TWO), {}),
    "none": (dataclasses.replace(V3, **TWO), {"enhanced_mask_decoder": False}),
    "shared": (dataclasses.replace(V2, **TWO, num_hidden_groups=1), {}),
    # Interpreted kernels take long to compile.
    "one layer": (dataclasses.replace(V3, num_hidden_layers=1), {"enhanced_mask_decoder": False}),
}
CASES = [
    *((name, "float32", "xla") for name in VARIANTS if name != "one layer"),
    *((name, "bfloat16", "xla") for name in ("v1", "v2", "input")),
    ("v2", "float32", "xla_per_head"),
    ("v1", "bfloat16", "xla_per_head"),
    *(("one layer", "float32", kernel) for kernel in ("pallas_gpu", "pallas_tpu")),
    # A CPU has no products of bfloat16 as the TPU kernels need them.
    ("one layer", "bfloat16", "pallas_gpu"),
]


@pytest.fixture(autouse=True)
def interpreted_kernels(monkeypatch):
    """The kernels run on this machine, with more than one tile where they can be that small."""
    kernels = {
        "pallas_gpu": functools.partial(pallas_gpu, tile=16),
        "pallas_tpu": functools.partial(pallas_tpu, tile=128),
    }
    for name, kernel in kernels.items():
        monkeypatch.setitem(IMPLEMENTATIONS, name, functools.partial(kernel, interpret=True))
        monkeypatch.delitem(PLATFORMS, name)
    monkeypatch.setattr("deberta_jax.ops.attention_tpu.is_supported", lambda: True)


@jax.jit
def logits_and_gradients(model, ids, cotangent, **inputs):
    """Logits, and the gradients of their product with `cotangent` to all parameters and to the embedded words."""
    E = model.deberta.config.word_size

    def loss(model, change):
        words = model.deberta.embeddings.word.embedding[...][ids] + change
        logits = model(inputs_embeds=words, **inputs)
        return jnp.sum(logits * cotangent), logits

    gradients, logits = jax.grad(loss, argnums=(0, 1), has_aux=True)(model, jnp.zeros((*ids.shape, E)))
    return logits, *gradients


def packed(lengths, rng):
    """A packed sequence of documents of these lengths, with padding at the end."""
    documents = [rng.integers(4, SMALL["vocab_size"], length) for length in lengths]
    return next(pack(documents, T, cls_id=1, sep_id=2, pad_id=0))


def batch_of(sequences, rng):
    """Ids and inputs of a model: one sequence in each direction."""
    rows = [order_tokens(*sequence, direction, rng) for sequence, direction in zip(sequences, DIRECTIONS, strict=True)]
    inputs = {"segment_ids": [x.segment_ids for x in sequences], "position_ids": [x.position_ids for x in sequences]}
    inputs["order"] = [order for order, _, _ in rows]
    return np.stack([x.input_ids for x in sequences]), {name: np.stack(x) for name, x in inputs.items()}


def visible_tokens(inputs, at):
    """Which tokens of each sequence the token at `at` sees, by hand."""
    row = np.arange(B)
    segments, order = inputs["segment_ids"], inputs["order"]
    same = (segments == segments[row, at][:, None]) & (segments > 0)
    return same & (order <= order[row, at][:, None])


def change(ids, hidden, rng):
    """Other ids for all hidden tokens."""
    others = (ids - 4 + rng.integers(1, SMALL["vocab_size"] - 4, ids.shape)) % (SMALL["vocab_size"] - 4) + 4
    return np.where(hidden, others, ids).astype(np.int32)


LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=3)
PLACES = st.lists(st.integers(0, T - 1), min_size=B, max_size=B)


@pytest.mark.parametrize(("name", "dtype", "attention"), CASES)
@given(lengths=st.lists(LENGTHS, min_size=B, max_size=B), at=PLACES, seed=st.integers(0, 1000))
@settings(max_examples=6)
def test_hidden_tokens_change_no_bit_of_logits_and_gradients(name, dtype, attention, lengths, at, seed):
    config, fields = VARIANTS[name]
    model = masked_lm(config, attention=attention, dtype=jnp.dtype(dtype), **fields)
    rng = np.random.default_rng(seed)
    ids, inputs = batch_of([packed(row, rng) for row in lengths], rng)
    visible = visible_tokens(inputs, np.asarray(at))
    # The logits of every token that `at` sees depend only on what it sees too.
    cotangent = rng.normal(size=(B, T, config.vocab_size)).astype(np.float32) * visible[..., None]
    logits, parameters, words = logits_and_gradients(model, ids, cotangent, **inputs)
    others = change(ids, ~visible, rng)
    assert ((others == ids) == visible).all()
    changed, changed_parameters, changed_words = logits_and_gradients(model, others, cotangent, **inputs)
    np.testing.assert_array_equal(np.asarray(logits)[visible], np.asarray(changed)[visible])
    assert not np.asarray(words)[~visible].any()
    assert np.asarray(words).any(-1)[visible].all()
    np.testing.assert_array_equal(words, changed_words)
    for ours, expected in zip(jax.tree.leaves(changed_parameters), jax.tree.leaves(parameters), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_visible_tokens_change_logits():
    rng = np.random.default_rng(0)
    ids, inputs = batch_of([packed([8, 6], rng)] * B, rng)
    model = masked_lm(VARIANTS["v2"][0], attention="xla", dtype=jnp.dtype("float32"))
    run = jax.jit(lambda ids: model(ids, **inputs))
    before = np.asarray(run(ids))
    for at in range(T - 4):
        alone = np.zeros((B, T), bool)
        alone[:, at] = True
        changed = (np.asarray(run(change(ids, alone, rng))) != before).any(-1)
        for row in range(B):
            sees = [visible_tokens(inputs, np.full(B, query))[row, at] for query in range(T)]
            np.testing.assert_array_equal(changed[row], sees)


@pytest.mark.parametrize("name", ["v2", "input"])
def test_logits_at_gathered_positions_are_those_of_all_positions(name):
    config, fields = VARIANTS[name]
    model = masked_lm(config, attention="xla", dtype=jnp.dtype("float32"), **fields)
    rng = np.random.default_rng(0)
    ids, inputs = batch_of([packed([5, 7], rng)] * B, rng)
    at = np.tile(np.asarray([3, 11, 0, 7], np.int32), (B, 1))
    whole, gathered = (
        np.asarray(jax.jit(lambda ids, more: model(ids, **inputs, **more))(ids, more))
        for more in ({}, {"masked_positions": at})
    )
    np.testing.assert_allclose(gathered, np.take_along_axis(whole, at[..., None], 1), atol=2e-6)
    hidden = ~visible_tokens(inputs, at[:, 1])
    run = jax.jit(lambda ids: model(ids, masked_positions=at, **inputs))
    np.testing.assert_array_equal(run(ids)[:, 1], run(change(ids, hidden, rng))[:, 1])


def test_padding_of_an_attention_mask_is_hidden_too():
    config, fields = VARIANTS["v2"]
    model = masked_lm(config, attention="xla", dtype=jnp.dtype("float32"), **fields)
    rng, row = np.random.default_rng(0), np.arange(T, dtype=np.int32)
    ids, at = rng.integers(4, config.vocab_size, (B, T), dtype=np.int32), np.asarray([3, 9, 14])
    mask = (row < np.asarray([[8], [12], [20]])).astype(np.int32)
    order = np.stack([row, row, row[::-1]])
    visible = (mask > 0) & (order <= order[np.arange(B), at][:, None])
    run = jax.jit(lambda ids: model(ids, mask, order=order))
    np.testing.assert_array_equal(np.asarray(run(ids))[visible], np.asarray(run(change(ids, ~visible, rng)))[visible])


def test_an_order_of_padding_alone_is_finite():
    sequence = PackedSequence(np.zeros(T, np.int32), np.zeros(T, np.int32))
    ids, inputs = batch_of([sequence] * B, np.random.default_rng(0))
    model = masked_lm(VARIANTS["v2"][0], attention="xla", dtype=jnp.dtype("float32"))
    assert np.isfinite(jax.jit(lambda ids: model(ids, **inputs))(ids)).all()
