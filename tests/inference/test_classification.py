import jax
import numpy as np
import pytest

from deberta_jax.errors import InputError
from deberta_jax.inference.classification import class_logits, classify, several_of, zero_shot
from deberta_jax.inference.embeddings import embed
from deberta_jax.inference.multiple_choice import choose
from deberta_jax.inference.predict import predict
from deberta_jax.inference.replaced_tokens import detect_replaced

TEXTS = ["A man eats.", "Over the dog"]
INFERENCE = ("Contradiction", "neutral", "ENTAILMENT")


def logits_of(model, tokenizer, *texts):
    batch = tokenizer(*texts, buckets=(32,))
    return class_logits(model, batch.input_ids, batch.attention_mask, batch.token_type_ids)


def test_one_label_holds_and_probabilities_add_up(made, tokenizer):
    model = made("sequence_classification", labels=("no", "maybe", "yes"))
    wanted = np.asarray(jax.nn.softmax(logits_of(model, tokenizer, TEXTS)))
    for result, row in zip(classify(model, tokenizer, TEXTS), wanted, strict=True):
        np.testing.assert_allclose(list(result.scores.values()), row, rtol=1e-4)
        assert list(result.scores) == ["no", "maybe", "yes"]
        assert result.label == ("no", "maybe", "yes")[row.argmax()]
        assert result.labels == [result.label]
        assert result.probability == max(result.scores.values())
    assert predict(model, tokenizer, TEXTS) == classify(model, tokenizer, TEXTS)


def test_several_labels_hold_where_the_config_says_so(made, tokenizer):
    model = made("sequence_classification", labels=tuple("abcd"), problem_type="multi_label_classification")
    wanted = np.asarray(jax.nn.sigmoid(logits_of(model, tokenizer, TEXTS, TEXTS[::-1])))
    results = classify(model, tokenizer, TEXTS, TEXTS[::-1])
    for result, row in zip(results, wanted, strict=True):
        np.testing.assert_allclose(list(result.scores.values()), row, rtol=1e-4)
        assert set(result.labels) == {label for label, score in zip("abcd", row, strict=True) if score > 0.5}
    assert several_of("ab", np.asarray([-2.0, -1.0])).labels == []
    assert several_of("abc", np.asarray([1.0, -1.0, 900.0])).labels == ["c", "a"]


def test_one_label_alone_is_a_number(made, tokenizer):
    model = made("sequence_classification", labels=("score",))
    wanted = np.asarray(logits_of(model, tokenizer, TEXTS))[:, 0]
    results = classify(model, tokenizer, TEXTS)
    np.testing.assert_allclose([result.value for result in results], wanted, rtol=1e-4)
    assert results[0].values == {"score": results[0].value}


def test_any_labels_are_judged_by_entailment(made, tokenizer):
    model = made("sequence_classification", labels=INFERENCE)
    labels, template = ["food", "songs", "foxes"], "It is of {}."
    logits = np.stack(
        [logits_of(model, tokenizer, TEXTS, [template.replace("{}", label)] * 2) for label in labels], axis=1
    )
    wanted = np.asarray(jax.nn.softmax(logits[..., 2]))
    for result, row in zip(zero_shot(model, tokenizer, TEXTS, labels, template=template), wanted, strict=True):
        np.testing.assert_allclose([result.scores[label] for label in labels], row, rtol=1e-4)
    wanted = np.asarray(jax.nn.softmax(logits[..., [0, 2]]))[..., 1]
    results = zero_shot(model, tokenizer, TEXTS, labels, template=template, several=True)
    for result, row in zip(results, wanted, strict=True):
        np.testing.assert_allclose([result.scores[label] for label in labels], row, rtol=1e-4)


def test_one_label_alone_is_judged_against_its_contradiction(made, tokenizer):
    model = made("sequence_classification", labels=("contradiction", "neutral", "entailment"))
    [alone], [several] = (
        zero_shot(model, tokenizer, TEXTS[:1], ["sport"], several=several) for several in (False, True)
    )
    assert alone == several
    assert alone.probability < 1


def test_zero_shot_says_what_it_lacks(made, tokenizer):
    model = made("sequence_classification", labels=INFERENCE)
    with pytest.raises(InputError, match="the model's labels are no, maybe; zero-shot classification needs"):
        zero_shot(made("sequence_classification", labels=("no", "maybe")), tokenizer, TEXTS, ["a"])
    with pytest.raises(InputError, match="has no {} for the label"):
        zero_shot(model, tokenizer, TEXTS, ["a"], template="It is.")
    for labels in ([], ["a", "a"]):
        with pytest.raises(InputError, match="a list of different ones is wanted"):
            zero_shot(model, tokenizer, TEXTS, labels)


def test_the_fitting_choice_is_the_one_that_scores_highest(made, tokenizer):
    model = made("multiple_choice")
    choices = ["It sings.", "fox", "She sells shells"]
    batch = tokenizer([TEXTS[0]] * 3, choices)
    logits = jax.jit(lambda model, ids, mask: model(ids[None], mask[None]))(
        model, batch.input_ids, batch.attention_mask
    )[0]
    [one, other] = choose(model, tokenizer, TEXTS, [choices, ["fox"]])
    np.testing.assert_allclose(one.probabilities, jax.nn.softmax(logits), rtol=1e-4)
    assert one.choice == choices[one.place] == choices[int(logits.argmax())]
    assert other == ("fox", 0, 1.0, [1.0])
    for bad in ([], "fox"):
        with pytest.raises(InputError, match="text 1: a text and a list of choices are wanted"):
            choose(model, tokenizer, TEXTS, [choices, bad])


def test_tokens_are_detected_where_they_stand(made, tokenizer):
    model = made("replaced_token_detection")
    [found] = detect_replaced(model, tokenizer, TEXTS[:1])
    batch = tokenizer(TEXTS[:1])
    wanted = jax.nn.sigmoid(jax.jit(lambda model, ids: model(ids))(model, batch.input_ids))[0, 1:-1]
    np.testing.assert_allclose([one.probability for one in found], wanted, rtol=1e-4)
    assert [(one.start, one.end) for one in found] == [tuple(pair) for pair in batch.offsets[0, 1:-1].tolist()]
    assert "".join(one.text for one in found) == "Amaneats."


def test_vectors_are_means_over_real_tokens_or_the_first_state(made, tokenizer):
    model = made("sequence_classification")
    program = jax.jit(lambda model, ids, mask: model(ids, mask).last_hidden_state)
    for text in (*TEXTS, ""):
        batch = tokenizer(text, buckets=(32,))
        states = program(model.deberta, batch.input_ids, batch.attention_mask)[0, : batch.attention_mask.sum()]
        for pooling, wanted in (("mean", states.mean(0)), ("cls", states[0])):
            [vector] = embed(model, tokenizer, [text], pooling=pooling)
            assert vector.dtype == np.float32
            np.testing.assert_allclose(vector, wanted, atol=2e-5)
    assert (embed(model.deberta, tokenizer, TEXTS) == predict(model.deberta, tokenizer, TEXTS)).all()
