import dataclasses

import jax
import numpy as np
import pytest
from inference_models import MAX_LENGTH, NLI_LABELS, random_model

from deberta_jax.errors import InputError
from deberta_jax.inference.classification import (
    class_logits,
    classification_pipeline,
    classify,
    read_multi_label,
    zero_shot,
)
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.stream import complete

TEXTS = ["A man eats.", "Over the dog"]


def logits_of(model, tokenizer, *texts):
    # 16 rows of 16 tokens, as a small batch has by default.
    batch = tokenizer(*(column * 8 for column in texts), buckets=(MAX_LENGTH,))
    inputs = ModelInputs(batch.input_ids, batch.attention_mask, batch.token_type_ids)
    return np.asarray(class_logits(model, inputs))[: len(texts[0])]


def classify_logits(tokenizer, logits, **fields):
    """The results of a model with these logits for each text."""
    model = random_model("sequence_classification", **fields)
    pipeline = classification_pipeline(model, tokenizer)
    rows = np.resize(np.float32(logits), (16, len(logits)))
    return complete(dataclasses.replace(pipeline, program=lambda model, inputs: rows), TEXTS)


def test_single_label_scores_are_the_softmax_of_the_logits(tokenizer):
    model = random_model("sequence_classification")
    expected = np.asarray(jax.nn.softmax(logits_of(model, tokenizer, TEXTS)))
    for result, scores in zip(classify(model, tokenizer, TEXTS), expected, strict=True):
        np.testing.assert_allclose(list(result.scores.values()), scores, rtol=1e-4)
        assert tuple(result.scores) == NLI_LABELS
        assert result.label == NLI_LABELS[scores.argmax()]
        assert result.labels == [result.label]
        assert result.probability == max(result.scores.values())


def test_multi_label_scores_are_the_sigmoids_of_the_logits(tokenizer):
    fields = {"labels": tuple("abcd"), "problem_type": "multi_label_classification"}
    logits = [0.5, -2.0, 900.0, -0.1]
    for result in classify_logits(tokenizer, logits, **fields):
        np.testing.assert_allclose(list(result.scores.values()), jax.nn.sigmoid(np.float32(logits)), rtol=1e-4)
        assert list(result.scores) == list("abcd")
        assert (result.label, result.labels) == ("c", ["c", "a"])
    assert read_multi_label("ab", np.asarray([-2.0, -1.0])).labels == []


def test_a_model_with_one_label_is_a_regression(tokenizer):
    for result in classify_logits(tokenizer, [1.5], labels=("score",)):
        assert (result.value, result.values) == (1.5, {"score": 1.5})
    fields = {"labels": ("x", "y"), "problem_type": "regression"}
    for result in classify_logits(tokenizer, [1.5, -2.0], **fields):
        assert (result.value, result.values) == (1.5, {"x": 1.5, "y": -2.0})


def test_zero_shot_scores_are_entailment_among_labels_or_against_contradiction(tokenizer):
    model = random_model("sequence_classification")
    labels, template = ["food", "songs", "foxes"], "It is {}."
    logits = np.stack(
        [logits_of(model, tokenizer, TEXTS, [template.replace("{}", label)] * 2) for label in labels], axis=1
    )
    for multi_label, expected in (
        (False, jax.nn.softmax(logits[..., 2])),
        (True, jax.nn.softmax(logits[..., [0, 2]])[..., 1]),
    ):
        results = zero_shot(model, tokenizer, TEXTS, labels, template=template, multi_label=multi_label)
        scores = [[result.scores[label] for label in labels] for result in results]
        np.testing.assert_allclose(scores, expected, rtol=1e-4)


def test_a_single_zero_shot_label_is_scored_against_its_contradiction(tokenizer):
    model = random_model("sequence_classification")
    [single], [independent] = (
        zero_shot(model, tokenizer, TEXTS[:1], ["sport"], multi_label=multi_label) for multi_label in (False, True)
    )
    assert single == independent
    assert single.probability < 1


def test_zero_shot_names_what_is_missing(tokenizer):
    model = random_model("sequence_classification", labels=("Contradiction", "neutral", "ENTAILMENT"))
    with pytest.raises(InputError, match="the model's labels are no, maybe: zero-shot classification needs"):
        zero_shot(random_model("sequence_classification", labels=("no", "maybe")), tokenizer, TEXTS, ["a"])
    with pytest.raises(InputError, match="has no {} for the label"):
        zero_shot(model, tokenizer, TEXTS, ["a"], template="It is.")
    for labels in ([], ["a", "a"]):
        with pytest.raises(InputError, match="expected a list of different labels"):
            zero_shot(model, tokenizer, TEXTS, labels)
