import dataclasses
import inspect

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
from deberta_jax.inference.score_functions import check_function
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


def test_the_function_of_the_call_replaces_that_of_the_problem_type(tokenizer):
    model = random_model("sequence_classification")
    logits = logits_of(model, tokenizer, TEXTS)
    [single] = classify(model, tokenizer, TEXTS[:1], function="softmax")
    assert single == classify(model, tokenizer, TEXTS[:1])[0]
    [independent] = classify(model, tokenizer, TEXTS[:1], function="sigmoid")
    np.testing.assert_allclose(list(independent.scores.values()), jax.nn.sigmoid(logits[0]), rtol=1e-4)
    [plain] = classify(model, tokenizer, TEXTS[:1], function="none")
    np.testing.assert_allclose(list(plain.values.values()), logits[0], rtol=1e-4)


def test_a_sigmoid_makes_a_classifier_of_a_model_with_one_label(tokenizer):
    model = random_model("sequence_classification", labels=("unsafe",))
    for result, logit in zip(
        classify(model, tokenizer, TEXTS, function="sigmoid"), logits_of(model, tokenizer, TEXTS), strict=True
    ):
        assert result.label == "unsafe"
        assert result.probability == pytest.approx(float(jax.nn.sigmoid(logit[0])), rel=1e-4)
        assert result.labels == ["unsafe"] * (result.probability > 0.5)
    with pytest.raises(InputError, match="the softmax of a single label is always 1"):
        classify(model, tokenizer, TEXTS, function="softmax")
    with pytest.raises(InputError, match="unknown function 'tanh': use one of auto, sigmoid, softmax, none"):
        # Without the check of types that the tests add.
        inspect.unwrap(check_function)("tanh", ("unsafe",))


UNNAMED = ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    ("labels", "entailment", "indices"),
    [
        (UNNAMED, "LABEL_0", (0, 2)),
        (UNNAMED, "LABEL_1", (1, 0)),
        (UNNAMED, "LABEL_2", (2, 0)),
        (("no", "maybe", "contradiction"), "maybe", (1, 2)),
        (("entailment", "neutral", "contradiction"), "neutral", (1, 2)),
        (("entailment", "neutral", "contradiction"), "contradiction", (2, 0)),
    ],
)
def test_the_label_of_entailment_can_be_named(tokenizer, labels, entailment, indices):
    model = random_model("sequence_classification", labels=labels)
    candidates = ["food", "songs"]
    logits = np.stack([logits_of(model, tokenizer, TEXTS, [f"It is {name}."] * 2) for name in candidates], axis=1)
    for multi_label, expected in (
        (False, jax.nn.softmax(logits[..., indices[0]])),
        (True, jax.nn.sigmoid(logits[..., indices[0]] - logits[..., indices[1]])),
    ):
        options = {"template": "It is {}.", "multi_label": multi_label, "entailment": entailment}
        results = zero_shot(model, tokenizer, TEXTS, candidates, **options)
        scores = [[result.scores[name] for name in candidates] for result in results]
        np.testing.assert_allclose(scores, expected, rtol=1e-4)


def test_unnamed_labels_of_a_zero_shot_model_lead_to_the_option(tokenizer):
    model = random_model("sequence_classification", labels=UNNAMED)
    with pytest.raises(InputError, match=r"LABEL_0, LABEL_1, LABEL_2: .*with entailment=\.\.\. \(--entailment\)"):
        zero_shot(model, tokenizer, TEXTS, ["food"])
    with pytest.raises(InputError, match="entailment is 'yes', but the model's labels are LABEL_0, LABEL_1, LABEL_2"):
        zero_shot(model, tokenizer, TEXTS, ["food"], entailment="yes")
    two = random_model("sequence_classification", labels=UNNAMED[:2])
    [result] = zero_shot(two, tokenizer, TEXTS[:1], ["food"], entailment="LABEL_0", template="{}")
    logits = logits_of(two, tokenizer, TEXTS[:1], ["food"])[0]
    assert result.probability == pytest.approx(float(jax.nn.softmax(logits)[0]), rel=1e-4)
