"""Numbers of models with one label, such as reward models."""

import numpy as np
import pytest
from inference_models import random_model
from scipy.special import expit

from deberta_jax.errors import InputError
from deberta_jax.inference.classification import classify
from deberta_jax.inference.scoring import score
from deberta_jax.model.surgery import with_config

PROMPTS, RESPONSES = ["A man eats.", "Over the dog"], ["The fox", "It is."]


def test_a_score_is_the_logit_or_its_sigmoid(tokenizer):
    model = random_model("sequence_classification", labels=("LABEL_0",))
    scores = score(model, tokenizer, PROMPTS, RESPONSES)
    assert scores.dtype == np.float32
    assert scores.tolist() == [result.value for result in classify(model, tokenizer, PROMPTS, RESPONSES)]
    assert score(model, tokenizer, PROMPTS, RESPONSES, function="none").tolist() == scores.tolist()
    np.testing.assert_allclose(
        score(model, tokenizer, PROMPTS, RESPONSES, function="sigmoid"), expit(scores), rtol=1e-5
    )
    assert score(model, tokenizer, PROMPTS).shape == (2,)
    assert score(model, tokenizer, []).shape == (0,)


def test_the_activation_of_a_reranker_does_not_change_a_score(tokenizer):
    model = random_model("sequence_classification", labels=("LABEL_0",))
    extra = {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}
    reranker = with_config(model, extra=extra)
    assert score(reranker, tokenizer, PROMPTS).tolist() == score(model, tokenizer, PROMPTS).tolist()


def test_models_with_several_labels_and_useless_functions_are_rejected(tokenizer):
    model = random_model("sequence_classification", labels=tuple(f"L{index}" for index in range(30)))
    with pytest.raises(InputError, match=r"with one label, this one has L0, .*, L19, … and 10 more: use classify"):
        score(model, tokenizer, PROMPTS)
    single = random_model("sequence_classification", labels=("LABEL_0",))
    with pytest.raises(InputError, match="the softmax of a single label is always 1: use the function sigmoid or none"):
        score(single, tokenizer, PROMPTS, function="softmax")
