import jax
import numpy as np
import pytest
from inference_models import MAX_LENGTH, random_model

from deberta_jax.errors import InputError
from deberta_jax.inference.multiple_choice import choose

TEXT = "A man"


def test_the_choice_with_the_highest_logit_is_chosen(tokenizer):
    model = random_model("multiple_choice")
    choices = ["It is.", "fox", "sea"]
    batch = tokenizer([TEXT] * 3, choices)
    assert batch.input_ids.shape[1] <= MAX_LENGTH
    program = jax.jit(lambda model, ids, mask: model(ids[None], mask[None])[0])
    logits = program(model, batch.input_ids, batch.attention_mask)
    [result, single] = choose(model, tokenizer, [TEXT, TEXT], [choices, ["fox"]])
    np.testing.assert_allclose(result.probabilities, jax.nn.softmax(logits), rtol=1e-4)
    assert result.choice == choices[result.choice_index] == choices[int(logits.argmax())]
    assert single == ("fox", 0, 1.0, [1.0])
    for bad in ([], "fox"):
        with pytest.raises(InputError, match="text 1: expected a text and a list of choices"):
            choose(model, tokenizer, [TEXT, TEXT], [choices, bad])
