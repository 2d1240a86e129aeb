import jax
import numpy as np
import pytest
from inference_models import MAX_LENGTH, random_model

from deberta_jax.errors import InputError
from deberta_jax.inference.embeddings import embed


def test_vectors_are_means_over_real_tokens_or_the_first_state(tokenizer):
    model, texts = random_model(None), ["A man eats.", "Over the dog", ""]
    batch = tokenizer(texts, buckets=(MAX_LENGTH,))
    program = jax.jit(lambda model, ids, mask: model(ids, mask).last_hidden_state)
    states = program(model, batch.input_ids, batch.attention_mask)
    real = [x[: mask.sum()] for x, mask in zip(np.asarray(states), batch.attention_mask, strict=True)]
    pooled = {"mean": [x.mean(0) for x in real], "cls": [x[0] for x in real], "max": [x.max(0) for x in real]}
    for pooling, expected in {None: pooled["mean"], **pooled}.items():
        vectors = embed(model, tokenizer, texts, pooling=pooling)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, expected, atol=2e-5)


def test_a_head_does_not_change_the_vectors(tokenizer):
    model = random_model("masked_lm")
    assert (embed(model, tokenizer, ["A fox"]) == embed(model.deberta, tokenizer, ["A fox"])).all()


def test_a_text_may_precede_each_input_of_a_model_without_prompts(tokenizer, unchecked_shapes):
    model = random_model(None)
    vectors = embed(model, tokenizer, ["fox", "dog"], ["eats", "finds"], prompt="A quick ")
    np.testing.assert_array_equal(vectors, embed(model, tokenizer, ["A quick fox", "A quick dog"], ["eats", "finds"]))
    with pytest.raises(InputError, match="no prompt named 'query' \\(it has no prompts\\)"):
        embed(model, tokenizer, ["fox"], prompt="query")
    with pytest.raises(InputError, match="unknown pooling 'median': use one of mean, cls, max"):
        embed(model, tokenizer, ["fox"], pooling="median")
    with pytest.raises(InputError, match="text 1: expected a string, not int"):
        embed(model, tokenizer, ["fox", 3], prompt="A ")
