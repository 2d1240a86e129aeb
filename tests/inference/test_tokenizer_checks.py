"""A tokenizer that does not fit the model, or none, is an error of one line."""

import pytest
from inference_models import random_model

from deberta_jax.errors import InputError
from deberta_jax.hub.heads import HEADS
from deberta_jax.inference.activations import activations
from deberta_jax.inference.classification import classification_pipeline, classify, zero_shot
from deberta_jax.inference.fill_mask import fill_mask
from deberta_jax.inference.pipelines import pipeline, predict
from deberta_jax.inference.ranking import rank
from deberta_jax.inference.stream import stream

HEAD = "sequence_classification"
BEYOND = (
    r"the tokenizer's id \d+ \('<t\d+>'\) is beyond the \d+ words of the model: .* or resized\(model, \d+, key=...\)"
)


@pytest.fixture(scope="module")
def extended(tokenizer):
    """The tokenizer with more tokens than the model has words."""
    words = random_model(HEAD).config.vocab_size
    return tokenizer.with_tokens([f"<t{number}>" for number in range(words)])


def test_an_id_beyond_the_words_of_the_model_is_an_error_of_its_text(extended):
    model, last = random_model(HEAD), f"<t{random_model(HEAD).config.vocab_size - 1}>"
    with pytest.raises(InputError, match=f"^text 1: {BEYOND}$"):
        classify(model, extended, ["a", f"a {last}"])
    results = list(stream(classification_pipeline(model, extended), [("a",), (f"a {last}",), ("sea",)]))
    assert [isinstance(result, InputError) for result in results] == [False, True, False]
    with pytest.raises(InputError, match=f"^{BEYOND}$"):
        activations(model, extended, f"a {last}")


@pytest.mark.parametrize("head", HEADS)
def test_a_model_without_a_tokenizer_is_an_error(head, unchecked_shapes):
    with pytest.raises(InputError, match="^the model has no tokenizer: load one with"):
        pipeline(random_model(head), None)


def test_functions_without_a_tokenizer_say_what_to_do(unchecked_shapes):
    model = random_model(HEAD, labels=("entailment", "contradiction"))
    calls = [
        lambda: classify(model, None, ["a"]),
        lambda: predict(random_model(None), None, ["a"]),
        lambda: rank(model, None, "a", ["b"], relevant="entailment"),
        lambda: zero_shot(model, None, ["a"], ["b"]),
        lambda: fill_mask(random_model("masked_lm"), None, ["a"]),
        lambda: activations(model, None, "a"),
    ]
    for call in calls:
        with pytest.raises(InputError, match="^the model has no tokenizer"):
            call()
