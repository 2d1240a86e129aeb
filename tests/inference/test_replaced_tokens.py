import jax
import numpy as np
from inference_models import random_model

from deberta_jax.inference.replaced_tokens import detect_replaced


def test_each_token_has_its_span_and_the_probability_of_the_head(tokenizer):
    model, text = random_model("replaced_token_detection"), "A man eats."
    [tokens] = detect_replaced(model, tokenizer, [text])
    batch = tokenizer(text)
    expected = jax.nn.sigmoid(jax.jit(lambda model, ids: model(ids))(model, batch.input_ids))[0, 1:-1]
    np.testing.assert_allclose([token.probability for token in tokens], expected, rtol=1e-4)
    assert [(token.start, token.end) for token in tokens] == [tuple(pair) for pair in batch.offsets[0, 1:-1].tolist()]
    assert "".join(token.text for token in tokens) == "Amaneats."
