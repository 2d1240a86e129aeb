import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inference_models import CONFIG, MAX_LENGTH, random_model

from deberta_jax.errors import InputError
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.fill_mask import fill_mask, fill_mask_pipeline, top_tokens
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.stream import complete

TEXT = "The [MASK] fox [MASK]."


def with_bias(ids):
    """A model that prefers some tokens over all others."""

    def value(path, leaf):
        is_bias = "bias" in str(path) and leaf.shape == (CONFIG["vocab_size"],)
        return leaf.at[jnp.asarray(ids)].add(1000) if is_bias else leaf

    return jax.tree.map_with_path(value, random_model("masked_lm"))


def test_tokens_and_probabilities_are_those_of_the_model_at_each_mask(tokenizer):
    model = random_model("masked_lm")
    [masks] = fill_mask(model, tokenizer, [TEXT])
    batch = tokenizer(TEXT)
    positions = np.flatnonzero(batch.input_ids[0] == tokenizer.mask_id)[None]
    program = jax.jit(lambda model, ids, positions: model(ids, masked_positions=positions))
    logits = program(model, batch.input_ids, positions)
    expected = np.array(jax.nn.softmax(logits[0, :, : tokenizer.vocab_size]))
    assert len(masks) == 2
    for tokens, row in zip(masks, expected, strict=True):
        row[list(tokenizer.special_ids)] = 0
        assert [token.id for token in tokens] == np.argsort(-row)[:5].tolist()
        np.testing.assert_allclose([token.probability for token in tokens], np.sort(row)[::-1][:5], rtol=1e-4)


def test_tokens_are_readable_text(tokenizer):
    expected = {"▁the": "the", "s": "s", "▁": "▁", "<0xE2>": "<0xE2>", "▁of": "of"}
    names = {index: tokenizer.token(index) for index in range(tokenizer.vocab_size)}
    preferred = [index for index, name in names.items() if name in expected]
    assert len(preferred) == 5
    [[tokens, _]] = fill_mask(with_bias(preferred), tokenizer, [TEXT])
    assert {names[token.id]: token.token for token in tokens} == expected


def test_special_tokens_and_ids_beyond_the_vocabulary_are_not_returned(tokenizer):
    excluded = [*tokenizer.special_ids, *range(tokenizer.vocab_size, CONFIG["vocab_size"])]
    [masks] = fill_mask(with_bias(excluded), tokenizer, [TEXT])
    assert not {token.id for tokens in masks for token in tokens} & set(excluded)


def test_the_enhanced_mask_decoder_is_used_if_the_model_has_one(tokenizer):
    model = random_model("masked_lm")
    [[before, _]] = fill_mask(model, tokenizer, [TEXT])
    changed = jax.tree.map_with_path(lambda path, x: x * 2 if "decoder" in str(path) else x, model)
    [[after, _]] = fill_mask(changed, tokenizer, [TEXT])
    assert before[0].probability != after[0].probability


def test_a_missing_or_truncated_mask_is_reported_with_the_index_of_its_text(tokenizer):
    model = random_model("masked_lm")
    with pytest.raises(InputError, match=r"text 1: no \[MASK\] in the text: put it"):
        fill_mask(model, tokenizer, [TEXT, "A fox"])
    with pytest.raises(InputError, match=r"text 0: 1 of 2 \[MASK\] are beyond the maximum of 16 tokens: shorten"):
        fill_mask(model, tokenizer, ["[MASK] " + "fox " * 40 + "[MASK]", TEXT])
    with pytest.raises(InputError, match="top_k is 0, but must be between 1 and"):
        fill_mask(model, tokenizer, [TEXT], top_k=0)


def test_logits_of_all_masks_are_never_in_memory_together():
    ids, positions, known = np.zeros((4, MAX_LENGTH), np.int32), np.zeros((4, 4), np.int32), np.ones(370, bool)
    inputs = ModelInputs(ids, ids, ids, positions)
    program = jax.make_jaxpr(lambda model: top_tokens(model, inputs, known=known, allowed=known, top_k=3))
    jaxpr = str(program(random_model("masked_lm")))
    assert "f32[4,370]" in jaxpr
    assert "f32[4,4,370]" not in jaxpr.replace("f32[4,1,370]", "")


def test_the_number_of_masks_is_padded_to_a_bucket(tokenizer):
    shapes = set()

    def record(model, inputs):
        shapes.add(inputs.positions.shape)
        probabilities = np.zeros((*inputs.positions.shape, 1), np.float32)
        return probabilities, probabilities.astype(np.int32)

    pipeline = fill_mask_pipeline(random_model("masked_lm"), tokenizer, batching=Batching(batch_tokens=16))
    texts = ["[MASK]" * number for number in range(1, 14)]
    results = complete(dataclasses.replace(pipeline, program=record), texts)
    assert [len(masks) for masks in results] == list(range(1, 14))
    assert shapes == {(1, 1), (1, 4), (1, 16)}
