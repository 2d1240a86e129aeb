"""The engine of all pipelines: batches do not change results, and errors are reported per example."""

import dataclasses
import logging

import jax
import numpy as np
import pytest
from inference_models import MAX_LENGTH, examples_for, random_model

from deberta_jax.errors import InputError
from deberta_jax.hub.heads import HEADS
from deberta_jax.inference import stream as stream_module
from deberta_jax.inference.buckets import Batching, bucket_lengths
from deberta_jax.inference.classification import classification_pipeline, classify
from deberta_jax.inference.embeddings import embed, embed_pipeline
from deberta_jax.inference.encode import encode
from deberta_jax.inference.pipelines import pipeline
from deberta_jax.inference.stream import Pipeline, complete, stream
from deberta_jax.model.shardings import shardings
from deberta_jax.sharding import make_mesh


def equal(left, right, tolerance=1e-5):
    """Whether results are equal: numbers within the tolerance, everything else exactly."""
    if isinstance(left, InputError):
        return isinstance(right, InputError) and str(left) == str(right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key], tolerance) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(equal(a, b, tolerance) for a, b in zip(left, right, strict=True))
    if isinstance(left, float | np.ndarray):
        return np.allclose(left, right, atol=tolerance, rtol=tolerance)
    return left == right


class CountTokens:
    """A program without a model: the number of tokens of each row. It records the shapes of its batches."""

    def __init__(self):
        self.shapes = []

    def __call__(self, model, inputs):
        self.shapes.append(inputs.input_ids.shape)
        return inputs.attention_mask.sum(1)


@pytest.fixture
def counting(tokenizer):
    """A pipeline that counts tokens."""

    def build(batching, program=None):
        program = program or CountTokens()
        return Pipeline(random_model(None), tokenizer, program, encode, lambda _, rows: int(rows[0].outputs), batching)

    return build


@pytest.mark.parametrize("head", HEADS)
def test_results_do_not_depend_on_batches_and_order(head, tokenizer, texts, predictions):
    expected = predictions(head)
    assert not any(isinstance(result, InputError) for result in expected)
    examples = examples_for(head, texts)
    assert equal(list(stream(pipeline(random_model(head), tokenizer), examples)), expected)
    chunks = pipeline(random_model(head), tokenizer, batching=Batching(chunk=7))
    assert equal(list(stream(chunks, examples[::-1])), expected[::-1])


def test_results_do_not_depend_on_the_shape_of_batches(tokenizer, texts):
    model = random_model(None)
    assert bucket_lengths(24) == [16, 24]
    batches = embed(model, tokenizer, texts, batching=Batching(batch_tokens=48, max_length=24))
    alone = [embed(model, tokenizer, [text], batching=Batching(max_length=24))[0] for text in texts]
    assert equal(list(batches), alone)


def test_a_stream_of_random_lengths_has_one_shape_per_bucket(counting, tokenizer):
    draw, program = np.random.default_rng(0), CountTokens()
    texts = [" ".join(["fox"] * size) for size in draw.integers(0, 30, 200)]
    counts = list(stream(counting(Batching(batch_tokens=48, max_length=32, chunk=100), program), zip(texts)))
    assert counts == [min(len(tokenizer.encode(text)) + 2, 32) for text in texts]
    assert set(program.shapes) == {(3, 16), (2, 24), (1, 32)}


def test_a_bad_example_is_reported_and_the_others_are_processed(tokenizer):
    model = random_model("sequence_classification")
    classification = classification_pipeline(model, tokenizer)
    examples = [("fox",), (3,), ("dog \ud800",), ("dog", "fox"), ("dog", None), ("dog", 2.5)]
    results = list(stream(classification, examples))
    assert [isinstance(result, InputError) for result in results] == [False, True, True, False, False, True]
    assert str(results[1]) == "expected a string, not int: 3"
    assert "lone surrogate U+D800 at character 4" in str(results[2])
    assert equal(results[4], classify(model, tokenizer, ["dog"])[0])
    assert equal(results[3], classify(model, tokenizer, ["dog"], ["fox"])[0])
    with pytest.raises(InputError, match="text 2: text has a lone surrogate"):
        classify(model, tokenizer, ["fox", "dog", "\ud800"])
    with pytest.raises(InputError, match="text 1: expected a string, not int: 3"):
        complete(classification, ["fox", 3])


def test_a_single_text_is_not_accepted_as_a_list(tokenizer):
    with pytest.raises(InputError, match="expected a list of texts, not a single text: 'A man eats.'; put it in"):
        embed(random_model(None), tokenizer, "A man eats.")
    with pytest.raises(InputError, match="the lists have different lengths: 2 and 1; each needs one element per text"):
        classify(random_model("sequence_classification"), tokenizer, ["a", "b"], ["c"])


def test_results_come_before_the_stream_ends(counting):
    read = []

    def examples():
        for number in range(1000):
            read.append(number)
            yield ("fox",)

    results = stream(counting(Batching(batch_tokens=48, chunk=10)), examples())
    next(results)
    assert len(read) == 20


def test_truncated_texts_are_counted_and_logged_once(counting, tokenizer, texts, caplog):
    with caplog.at_level(logging.WARNING):
        list(stream(counting(Batching(chunk=5)), zip(texts)))
        list(stream(counting(Batching(chunk=5)), [(text[:5],) for text in texts]))
    truncated = sum(len(tokenizer.encode(text)) + 2 > MAX_LENGTH for text in texts)
    assert truncated > 1
    message = f"{truncated} of {len(texts)} texts were truncated to {MAX_LENGTH} tokens"
    assert [record.message for record in caplog.records] == [message]


def test_a_text_that_fills_its_row_does_not_count_as_truncated(counting, tokenizer, caplog):
    text = tokenizer.decode(tokenizer.encode("fox " * 60)[: MAX_LENGTH - 2])
    assert len(tokenizer.encode(text)) == MAX_LENGTH - 2
    assert complete(counting(Batching()), [text]) == [MAX_LENGTH]
    assert not caplog.records


def test_rows_longer_than_the_positions_are_for_models_without_absolute_positions(tokenizer):
    longer = Batching(max_length=300)
    assert pipeline(random_model(None), tokenizer, batching=longer).max_length == 300
    for model in (random_model("masked_lm"), random_model(None, position_biased_input=True)):
        with pytest.raises(InputError, match="max_length is 300, but the model has 16 absolute positions: use 16 or"):
            pipeline(model, tokenizer, batching=longer)


@pytest.mark.parametrize("head", ["sequence_classification", "masked_lm"])
@pytest.mark.parametrize("kind", ["auto", "explicit", "one device"])
def test_a_model_on_a_mesh_gives_the_same_results(head, kind, tokenizer, texts, predictions):
    """The axes of `jax.make_mesh` are Explicit by default."""
    if kind == "auto":
        mesh = make_mesh(data=2, fsdp=2, tensor=2)
    else:
        mesh = jax.make_mesh((4, 2) if kind == "explicit" else (1, 1), ("data", "fsdp"))
    model = random_model(head)
    sharded = pipeline(jax.device_put(model, shardings(model, mesh)), tokenizer)
    assert equal(list(stream(sharded, examples_for(head, texts))), predictions(head), 1e-4)
    assert jax.sharding.get_abstract_mesh().empty


def test_long_texts_are_tokenized_in_small_chunks(monkeypatch, tokenizer):
    monkeypatch.setattr(stream_module, "MAX_CHUNK_CHARACTERS", 50)
    sizes = []

    def recording(tokenizer, examples, max_length):
        sizes.append(len(examples))
        return encode(tokenizer, examples, max_length)

    recorded = dataclasses.replace(embed_pipeline(random_model(None), tokenizer), encode=recording)
    assert len(list(stream(recorded, [("A fox. " * 5,)] * 5))) == 5
    assert sizes == [2, 2, 1]
