"""A byte-pair tokenizer for the models of `inference_models`, and predictions that several tests read."""

import functools

import pytest
from inference_models import examples_for, random_model, random_texts
from toy_tokenizers import write_byte_pair

from deberta_jax.inference.pipelines import pipeline
from deberta_jax.inference.stream import stream
from deberta_jax.tokenizers.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def byte_pair_tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("byte_pair")
    write_byte_pair(folder)
    return Tokenizer(folder)


@pytest.fixture(scope="session")
def texts():
    return random_texts()


@pytest.fixture(scope="session")
def predictions(tokenizer, texts):
    """A function of a head: the results for all texts, one example at a time."""

    @functools.cache
    def predict_one_by_one(head):
        head_pipeline = pipeline(random_model(head), tokenizer)
        return [result for example in examples_for(head, texts) for result in stream(head_pipeline, [example])]

    return predict_one_by_one
