"""Perplexity against a loop over all tokens with full prefixes, and its words."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_models import CONFIG, MAX_LENGTH, random_model, random_texts

from deberta_jax.config import OBJECTIVE_KEY
from deberta_jax.errors import InputError
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.perplexity import count_words, perplexity, split_windows, window_nats
from deberta_jax.model.surgery import with_config

LENGTH = 12


@jax.jit
def next_token_logits(model, ids, length):
    """The logits at the last real token of a prefix, which is padded to `MAX_LENGTH`."""
    T = jnp.arange(MAX_LENGTH)
    logits = model(ids[None], (length > T).astype(jnp.int32)[None], order=T.astype(jnp.int32)[None])
    return jax.nn.log_softmax(logits[0, length - 1])


def by_hand(model, tokenizer, documents, capacity, stride):
    """The nats of every token, each from the longest context that its window has."""
    total = []
    for text in documents:
        ids = tokenizer.encode_many([text])[0].tolist()
        for number, token in enumerate(ids):
            # The first window that contains the token.
            start = 0 if number < capacity else stride * math.ceil((number - capacity + 1) / stride)
            context = [tokenizer.cls_id, *ids[start:number]]
            row = np.pad(np.asarray(context, np.int32), (0, MAX_LENGTH - len(context)))
            total.append(-float(next_token_logits(model, row, len(context))[token]))
    return total


@pytest.mark.parametrize(
    "fields",
    [{}, {"position_biased_input": True}, {"conv_kernel_size": 3, "conv_act": "gelu"}],
    ids=["decoder", "input", "convolution"],
)
def test_every_token_is_predicted_once_with_the_context_of_its_window(tokenizer, fields):
    model, documents = random_model("masked_lm", **fields), random_texts()[4:]
    nats = by_hand(model, tokenizer, documents, LENGTH - 1, 4)
    result = perplexity(model, tokenizer, documents, max_length=LENGTH, stride=4)
    assert result.tokens == len(nats) == sum(len(tokenizer.encode_many([text])[0]) for text in documents)
    assert max(len(tokenizer.encode_many([text])[0]) for text in documents) > 3 * LENGTH
    np.testing.assert_allclose(result.nats, sum(nats), rtol=1e-6)
    np.testing.assert_allclose(result.per_token, math.exp(np.mean(nats)), rtol=1e-5)
    np.testing.assert_allclose(result.per_word, math.exp(sum(nats) / result.words), rtol=1e-5)
    assert result.words == sum(map(count_words, documents))


@pytest.mark.parametrize("stride", [1, MAX_LENGTH - 1, None])
def test_any_stride_predicts_each_token_once(tokenizer, stride):
    model, documents = random_model("masked_lm"), [random_texts()[10]]
    result = perplexity(model, tokenizer, documents, stride=stride)
    nats = by_hand(model, tokenizer, documents, MAX_LENGTH - 1, stride or MAX_LENGTH // 2)
    np.testing.assert_allclose(result.nats, sum(nats), rtol=1e-6)


def test_the_size_of_batches_and_the_order_of_documents_do_not_matter(tokenizer):
    model, documents = random_model("masked_lm"), random_texts()
    expected = perplexity(model, tokenizer, documents)
    for tokens, texts in ((16, documents), (100, documents[::-1]), (4096, iter(documents[5:] + documents[:5]))):
        result = perplexity(model, tokenizer, texts, batch_tokens=tokens)
        assert (result.tokens, result.words) == (expected.tokens, expected.words)
        np.testing.assert_allclose(result.nats, expected.nats, rtol=1e-6)
    parts = [perplexity(model, tokenizer, [text]).nats for text in documents if text.strip()]
    np.testing.assert_allclose(sum(parts), expected.nats, rtol=1e-6)


def test_a_uniform_model_has_the_size_of_its_vocabulary_as_perplexity(tokenizer):
    model = jax.tree.map(jnp.zeros_like, random_model("masked_lm"))
    result = perplexity(model, tokenizer, random_texts())
    np.testing.assert_allclose(result.per_token, CONFIG["vocab_size"], rtol=1e-5)
    np.testing.assert_allclose(math.log(result.per_word) * result.words, result.nats, rtol=1e-9)


@given(tokens=st.integers(0, 60), capacity=st.integers(1, 20), data=st.data())
def test_windows_predict_each_token_once_after_the_stated_context(tokens, capacity, data):
    stride = data.draw(st.integers(1, capacity))
    predicted = []
    for number, window in enumerate(split_windows("", np.arange(tokens), capacity, stride)):
        assert len(window.ids) <= capacity and window.ids[0] == number * stride
        context = len(window.ids) - window.predicted
        assert context == (0 if number == 0 else capacity - stride)
        predicted += window.ids[context:].tolist()
    assert predicted == list(range(tokens))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("one", 2),
        ("one two\n", 3),
        (" \n = Title = \n \n one <unk> \n", 9),
        ("\n", 1),
        (" ", 1),
        ("a\u2028b", 3),
    ],
)
def test_words_are_separated_by_white_space_and_each_line_end_is_one(text, words):
    assert count_words(text) == words


@given(st.lists(st.text("a \n", max_size=8), max_size=5))
@settings(max_examples=50)
def test_the_words_of_whole_lines_add_up(parts):
    lines = [part.replace("\n", "") + "\n" for part in parts]
    assert count_words("".join(lines)) == sum(map(count_words, lines))


@pytest.mark.shared
def test_the_test_set_of_wikitext_has_the_published_number_of_words(shared):
    assert count_words((shared / "data/wikitext-2/test.txt").read_text(encoding="utf-8")) == 245_569


def test_logits_of_all_positions_are_never_in_memory_together():
    ids = np.zeros((64, MAX_LENGTH), np.int32)
    inputs = ModelInputs(ids, ids, ids, np.zeros((64, 1), np.int32))
    jaxpr = str(jax.make_jaxpr(window_nats)(random_model("masked_lm"), inputs))
    assert "f32[64,8,370]" in jaxpr
    assert "f32[64,16,370]" not in jaxpr


def test_documents_without_tokens_and_wrong_options_are_reported_in_one_line(tokenizer):
    model = random_model("masked_lm")
    with pytest.raises(InputError, match="the documents have no tokens: expected text"):
        perplexity(model, tokenizer, ["", " "])
    with pytest.raises(InputError, match="not a single text: 'A fox'; put it in a list"):
        perplexity(model, tokenizer, "A fox")
    with pytest.raises(InputError, match="text 1: expected a string, not int: 3"):
        perplexity(model, tokenizer, iter(["A fox", 3]))
    with pytest.raises(InputError, match="text 1: text has a lone surrogate"):
        perplexity(model, tokenizer, ["A fox", "\ud800"])
    for stride in (0, 16):
        with pytest.raises(InputError, match=f"stride is {stride}, but windows of 16 tokens have 15 beside .*: use 1"):
            perplexity(model, tokenizer, ["A fox"], stride=stride)
    with pytest.raises(InputError, match="max_length is 17, but the model has 16 absolute positions"):
        perplexity(model, tokenizer, ["A fox"], max_length=17)
    with pytest.raises(InputError, match='perplexity needs a model with the head "masked_lm"'):
        perplexity(random_model(None), tokenizer, ["A fox"])


def test_a_model_that_was_not_trained_from_left_to_right_is_logged(tokenizer, caplog):
    model = random_model("masked_lm")
    for objective, is_logged in (("mt", False), ("seq2seq", True)):
        caplog.clear()
        perplexity(with_config(model, extra={OBJECTIVE_KEY: objective}), tokenizer, ["A man eats."])
        assert ("does not say that it was trained from left to right" in caplog.text) == is_logged
