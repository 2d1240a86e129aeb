"""Texts of any length in windows: what the windows contain, and one result from the logits of all."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_models import MAX_LENGTH, random_model
from toy_tokenizers import TEXT

from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.classification import classify
from deberta_jax.inference.documents import combine_windows, encode_documents, window_logits
from deberta_jax.inference.encode import encode
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.scoring import score
from deberta_jax.inference.windows import window_stride
from deberta_jax.ops.pooling import WINDOW_POOLING

WORDS = TEXT.split()[:20]
WINDOWS = {"max_windows": 3, "sequence_length": MAX_LENGTH}


def rows_of(rows, source):
    batch = rows.batch
    return [
        (ids[mask == 1], types[mask == 1])
        for ids, mask, types, index in zip(
            batch.input_ids, batch.attention_mask, batch.token_type_ids, batch.sources, strict=True
        )
        if index == source
    ]


def text_of(*numbers):
    return " ".join(WORDS[number % len(WORDS)] for number in numbers)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=5), max_windows=st.integers(1, 5))
def test_the_windows_of_a_text_are_its_tokens_up_to_the_limit(tokenizer, sizes, max_windows):
    texts = [text_of(*range(size)) for size in sizes]
    rows = encode_documents(tokenizer, [(text,) for text in texts], MAX_LENGTH, max_windows=max_windows)
    stride = window_stride(MAX_LENGTH)
    for source, text in enumerate(texts):
        ids = tokenizer.encode(text).tolist()
        joined = []
        windows = rows_of(rows, source)
        assert 1 <= len(windows) <= max_windows
        for number, (window, _) in enumerate(windows):
            assert len(window) <= MAX_LENGTH
            joined += window[1:-1].tolist()[stride if number else 0 :]
        assert joined == ids[: len(joined)]
        assert (joined != ids) == (source in rows.truncated)
    assert not rows.errors


def test_the_longer_text_of_a_pair_is_split_and_the_other_one_is_in_each_window(tokenizer):
    long, short = text_of(*range(30)), "a man"
    rows = encode_documents(tokenizer, [(long, short), (short, long), (short, None)], MAX_LENGTH, max_windows=99)
    expected = tokenizer.encode(short).tolist()
    for source, side in ((0, 1), (1, 0)):
        windows = rows_of(rows, source)
        assert len(windows) > 2
        for ids, types in windows:
            special = [tokenizer.cls_id, tokenizer.sep_id]
            assert [index for index in ids[types == side].tolist() if index not in special] == expected
    assert len(rows_of(rows, 2)) == 1
    assert not rows.truncated


def test_a_pair_of_two_long_texts_is_truncated_and_counted(tokenizer):
    pair = text_of(*range(30)), text_of(*range(5, 40))
    rows = encode_documents(tokenizer, [pair], MAX_LENGTH, max_windows=9)
    usual = encode(tokenizer, [pair], MAX_LENGTH)
    assert rows.batch.input_ids.tolist() == usual.batch.input_ids.tolist()
    assert rows.truncated == usual.truncated == {0: 1}


def test_an_invalid_text_is_an_error_and_no_texts_are_no_rows(tokenizer):
    rows = encode_documents(tokenizer, [("a man",), (7,), ("a man", 3)], MAX_LENGTH, max_windows=2)
    assert sorted(rows.errors) == [1, 2]
    assert len(encode_documents(tokenizer, [], MAX_LENGTH, max_windows=2).batch.sources) == 0


@pytest.mark.parametrize("pooling", WINDOW_POOLING)
def test_predictions_combine_logits_as_training_does(pooling):
    random = np.random.default_rng(0)
    logits, scores = random.normal(size=(1, 5, 3)), random.normal(size=(1, 5))
    mask = np.asarray([[True, True, True, False, False]])
    logits[:, 3:] = 1e6
    with jax.enable_x64(True):
        trained = WINDOW_POOLING[pooling](*map(jax.numpy.asarray, (logits, scores, mask)))
    np.testing.assert_allclose(combine_windows(logits[0, :3], scores[0, :3], pooling), trained[0], rtol=1e-12)


@pytest.mark.parametrize("pooling", WINDOW_POOLING)
def test_the_result_of_a_long_text_is_that_of_its_windows_whatever_the_batching(tokenizer, pooling):
    model = random_model("sequence_classification", window_pooling=pooling, **WINDOWS)
    texts = ["A man eats.", text_of(*range(25)), text_of(*range(80))]
    results = classify(model, tokenizer, texts)
    for text, result in zip(texts, results, strict=True):
        rows = encode_documents(tokenizer, [(text,)], MAX_LENGTH, max_windows=3).batch
        assert len(rows.sources) == (1 if text == texts[0] else 3)
        count = len(rows.sources)
        # The shape of a small batch.
        ids, mask, types = (
            np.pad(column, ((0, 16 - count), (0, MAX_LENGTH - column.shape[1])))
            for column in (rows.input_ids, rows.attention_mask, rows.token_type_ids)
        )
        outputs = window_logits(model, ModelInputs(ids, mask, types))
        logits = combine_windows(*(np.asarray(x, np.float64)[:count] for x in outputs), pooling)
        np.testing.assert_allclose(list(result.scores.values()), jax.nn.softmax(np.float32(logits)), rtol=1e-4)
    # The length of the windows is that of the training.
    assert classify(model, tokenizer, texts, batching=Batching(max_length=8)) == results


def test_texts_with_more_windows_are_cut_and_reported(tokenizer, caplog):
    model = random_model("sequence_classification", window_pooling="mean", **WINDOWS)
    first, second = classify(model, tokenizer, [text_of(*range(80)), text_of(*range(34), *range(60, 90))])
    assert first == second
    assert "2 of 2 texts were truncated to 3 windows of 16 tokens" in caplog.text


def test_scores_of_long_texts_read_all_windows(tokenizer):
    model = random_model("sequence_classification", labels=("score",), window_pooling="max", **WINDOWS)
    text = text_of(*range(25))
    [value] = score(model, tokenizer, [text])
    [result] = classify(model, tokenizer, [text])
    assert value == np.float32(result.value)
    [start] = score(random_model("sequence_classification", labels=("score",)), tokenizer, [text])
    assert value >= start
