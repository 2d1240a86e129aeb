"""What must hold of every task: its batches are invisible, its programs few, its errors told one by one."""

import dataclasses
import logging

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deberta_jax.errors import InputError
from deberta_jax.inference import stream as stream_module
from deberta_jax.inference.buckets import BATCHING, Batching, bucket_lengths, bucket_width, plan
from deberta_jax.inference.classification import classification_pipeline, classify
from deberta_jax.inference.embeddings import embed, embed_pipeline, pool_mean
from deberta_jax.inference.pipelines import pipeline, predict
from deberta_jax.inference.stream import complete, stream
from deberta_jax.model.shardings import shardings
from deberta_jax.sharding import make_mesh

# As many as three rows, and one where there are few texts.
SMALL = Batching(batch_tokens=48)
OTHER = Batching(batch_tokens=48, chunk=7)


def examples_for(head, texts):
    """Examples that a head's task takes."""
    return {
        "masked_lm": [(f"{text[:8]} [MASK] and [MASK]",) for text in texts],
        "question_answering": [("What is it?", text) for text in texts],
        "multiple_choice": [(text, ["A man eats.", text[:30], "fox"][: 1 + len(text) % 3]) for text in texts],
        "entity_scoring": [(text, "She is @placeholder.", [(0, 1)] if text.strip() else []) for text in texts],
    }.get(head, [(text,) for text in texts])


def same(one, other, tolerance=1e-5):
    """Whether results are equal: numbers nearly, all else exactly."""
    if isinstance(one, InputError):
        return isinstance(other, InputError) and str(one) == str(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key], tolerance) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b, tolerance) for a, b in zip(one, other, strict=True))
    if isinstance(one, float | np.ndarray):
        return np.allclose(one, other, atol=tolerance, rtol=tolerance)
    return one == other


NAMES = [
    None,
    "masked_lm",
    "sequence_classification",
    "token_classification",
    "question_answering",
    "multiple_choice",
    "replaced_token_detection",
    "entity_scoring",
]


@pytest.mark.parametrize("head", NAMES)
def test_results_are_those_of_one_example_at_a_time_whatever_the_batches_and_the_order(head, made, tokenizer, texts):
    model = made(head)
    examples = examples_for(head, texts)
    alone = pipeline(model, tokenizer, batching=SMALL)
    wanted = [result for example in examples for result in stream(alone, [example])]
    assert not any(isinstance(result, InputError) for result in wanted)
    for batching in (SMALL, OTHER):
        task = pipeline(model, tokenizer, batching=batching)
        assert same(list(stream(task, examples)), wanted)
        assert same(list(stream(task, examples[::-1])), wanted[::-1])


@pytest.mark.parametrize("head", NAMES)
def test_no_texts_have_no_results(head, made, tokenizer):
    results = predict(made(head), tokenizer, [])
    assert len(results) == 0
    if head is None:
        assert results.shape == (0, 16)


def test_a_stream_of_random_lengths_compiles_one_program_for_each_bucket(made, tokenizer):
    model = made(None, type_vocab_size=1)
    random = np.random.default_rng(0)
    texts = [" ".join(["fox"] * size) for size in random.integers(0, 80, 600)]
    before = pool_mean._cache_size()
    vectors = embed(model, tokenizer, texts, batching=Batching(batch_tokens=48, chunk=100))
    assert vectors.shape == (600, 16)
    assert pool_mean._cache_size() - before <= len(bucket_lengths(32)) == 3


def test_a_bad_example_is_told_and_the_others_are_done(made, tokenizer):
    model = made("sequence_classification")
    task = classification_pipeline(model, tokenizer, batching=SMALL)
    results = list(stream(task, [("fox",), (3,), ("dog \ud800",), ("dog", "fox"), ("dog", None), ("dog", 2.5)]))
    assert [isinstance(result, InputError) for result in results] == [False, True, True, False, False, True]
    assert str(results[1]) == "a text is wanted, found int: 3"
    assert "lone surrogate U+D800 at character 4" in str(results[2])
    assert same(results[4], classify(model, tokenizer, ["dog"], batching=SMALL)[0])
    assert same(results[3], classify(model, tokenizer, ["dog"], ["fox"], batching=SMALL)[0])
    with pytest.raises(InputError, match="text 2: text has a lone surrogate"):
        classify(model, tokenizer, ["fox", "dog", "\ud800"], batching=SMALL)
    with pytest.raises(InputError, match="text 1: a text is wanted, found int: 3"):
        complete(task, ["fox", 3])


def test_a_text_alone_is_no_list_of_texts(made, tokenizer):
    with pytest.raises(InputError, match="a list of texts is wanted, found one text: 'A man eats.'; put it in a list"):
        embed(made(None), tokenizer, "A man eats.")
    with pytest.raises(InputError, match="lists of 2 and 1; each text needs one of all"):
        classify(made("sequence_classification"), tokenizer, ["a", "b"], ["c"])


def test_results_come_before_the_stream_ends_and_no_more_is_read_than_needed(made, tokenizer):
    read = []

    def examples():
        for number in range(1000):
            read.append(number)
            yield ("fox",)

    results = stream(embed_pipeline(made(None), tokenizer, batching=Batching(batch_tokens=48, chunk=10)), examples())
    next(results)
    assert len(read) == 20


def test_what_is_cut_is_counted_and_said_once(made, tokenizer, texts, caplog):
    model = made("sequence_classification")
    with caplog.at_level(logging.WARNING):
        classify(model, tokenizer, texts, batching=Batching(batch_tokens=48, chunk=5))
        classify(model, tokenizer, [text[:30] for text in texts], batching=SMALL)
    long = sum(len(tokenizer.encode(text)) + 2 > 32 for text in texts)
    assert long > 1
    assert [record.message for record in caplog.records] == [
        f"{long} of {len(texts)} texts have more than 32 tokens and were cut at their ends"
    ]


def test_a_row_that_just_fits_is_not_called_cut(made, tokenizer, caplog):
    text = tokenizer.decode(tokenizer.encode("fox " * 60)[:30])
    assert len(tokenizer.encode(text)) == 30
    embed(made(None), tokenizer, [text])
    assert not caplog.records


def test_rows_longer_than_the_positions_are_for_models_without_absolute_ones(made, tokenizer, texts):
    longer = Batching(batch_tokens=48, max_length=300)
    assert embed(made(None), tokenizer, texts[24:25], batching=longer).shape == (1, 16)
    for model in (made("masked_lm"), made(None, position_biased_input=True)):
        with pytest.raises(InputError, match="max_length is 300, the model has 32 absolute positions; give 32 or less"):
            predict(model, tokenizer, texts, batching=longer)


@pytest.mark.parametrize("head", ["sequence_classification", "masked_lm"])
def test_a_model_on_a_mesh_gives_the_same_results(head, made, tokenizer, texts):
    model, examples = made(head), examples_for(head, texts)
    wanted = list(stream(pipeline(model, tokenizer, batching=SMALL), examples))
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    placed = jax.device_put(model, shardings(model, mesh))
    assert same(list(stream(pipeline(placed, tokenizer, batching=SMALL), examples)), wanted, 1e-4)
    # A program that was made for the mesh leaves none behind.
    assert jax.sharding.get_abstract_mesh().empty


@given(st.lists(st.integers(1, 100), max_size=80), st.integers(1, 2000), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_plan_holds_each_row_once_in_a_batch_that_is_long_enough(lengths, batch_tokens, multiple):
    planned = list(plan(lengths, 100, batch_tokens, multiple))
    places = [place for batch in planned for place in batch.places.tolist()]
    assert sorted(places) == list(range(len(lengths)))
    for batch in planned:
        assert len(batch.places) <= batch.rows
        assert batch.rows % multiple == 0
        assert max(lengths[place] for place in batch.places) <= batch.length
        assert batch.length in bucket_lengths(100)
    assert len({(batch.rows, batch.length) for batch in planned}) == len({batch.length for batch in planned})
    assert all(len(batch.places) == batch.rows for batch in planned[:-1])


def test_one_text_does_not_wait_for_hundreds_of_rows_of_padding():
    [batch] = plan([12], 512, BATCHING.batch_tokens)
    assert batch.rows * batch.length <= 256


def test_buckets_and_widths_are_few_and_hold_what_they_must():
    assert bucket_lengths(100) == [16, 24, 32, 48, 64, 96, 100]
    assert bucket_lengths(512)[-3:] == [256, 384, 512]
    assert bucket_lengths(10) == [10]
    assert [bucket_width(number) for number in (0, 1, 2, 4, 5, 17)] == [1, 1, 4, 4, 16, 64]
    for field, value in (("batch_tokens", 0), ("max_length", 2), ("chunk", 0)):
        with pytest.raises(InputError, match=f"{field} is {value}, at least"):
            Batching(**{field: value})


def test_long_texts_are_tokenised_few_at_a_time(monkeypatch, made, tokenizer):
    monkeypatch.setattr(stream_module, "CHARACTERS", 50)
    sizes = []
    task = embed_pipeline(made(None), tokenizer, batching=BATCHING)
    encode = task.encode
    task = dataclasses.replace(task, encode=lambda examples: sizes.append(len(examples)) or encode(examples))
    assert len(list(stream(task, [("A fox. " * 5,)] * 5))) == 5
    assert sizes == [2, 2, 1]
