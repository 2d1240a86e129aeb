import jax
import numpy as np
import pytest
from inference_models import random_model

from deberta_jax.errors import InputError
from deberta_jax.inference.activations import activations


def test_activations_are_the_tokens_states_and_attentions_of_one_text(tokenizer):
    model, text = random_model("masked_lm"), "The quick fox"
    result = activations(model, tokenizer, text)
    batch = tokenizer(text)
    program = jax.jit(lambda model, ids: model(ids, output_hidden_states=True, output_attentions=True))
    output = program(model.deberta, batch.input_ids)
    T = batch.input_ids.shape[1]
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert result.tokens == ["[CLS]", *(tokenizer.token(index) for index in ids), "[SEP]"]
    assert (result.offsets[1:-1] == offsets).all()
    assert result.hidden_states.shape == (3, T, 16)
    assert result.attentions.shape == (2, 2, T, T)
    np.testing.assert_allclose(result.hidden_states, output.hidden_states[:, 0], atol=2e-5)
    np.testing.assert_allclose(result.attentions, output.attentions[:, 0], atol=2e-5)
    np.testing.assert_allclose(result.attentions.sum(-1), 1, rtol=1e-5)
    with pytest.raises(InputError, match="tokens"):
        activations(model, tokenizer, text * 9)
