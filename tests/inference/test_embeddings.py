import jax
import numpy as np
from inference_models import MAX_LENGTH, random_model

from deberta_jax.inference.embeddings import embed


def test_vectors_are_means_over_real_tokens_or_the_first_state(tokenizer):
    model, texts = random_model(None), ["A man eats.", "Over the dog", ""]
    batch = tokenizer(texts, buckets=(MAX_LENGTH,))
    program = jax.jit(lambda model, ids, mask: model(ids, mask).last_hidden_state)
    states = program(model, batch.input_ids, batch.attention_mask)
    real = [x[: mask.sum()] for x, mask in zip(np.asarray(states), batch.attention_mask, strict=True)]
    for pooling, expected in (("mean", [x.mean(0) for x in real]), ("cls", [x[0] for x in real])):
        vectors = embed(model, tokenizer, texts, pooling=pooling)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, expected, atol=2e-5)


def test_a_head_does_not_change_the_vectors(tokenizer):
    model = random_model("masked_lm")
    assert (embed(model, tokenizer, ["A fox"]) == embed(model.deberta, tokenizer, ["A fox"])).all()
