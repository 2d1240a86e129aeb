"""Ensembles: the mean of models with different tokenizers, sizes and orders of labels, for each kind of task."""

import dataclasses
import json
import math

import numpy as np
import pytest
from inference_models import random_model
from scipy.special import expit, softmax
from small_models import call as run_model
from toy_runs import call, read_json
from toy_tokenizers import write_byte_pair, write_unigram

from deberta_jax.errors import InputError
from deberta_jax.finetuning.ensemble import average_outcomes, check_ensemble
from deberta_jax.finetuning.evaluate import predict_splits
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.kinds.token import first_tokens
from deberta_jax.finetuning.outcomes import Outcome
from deberta_jax.hub.pretrained import save_pretrained
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.entity_ranking import score_entities
from deberta_jax.inference.question_answering import span_ranking_pipeline
from deberta_jax.inference.stream import complete
from deberta_jax.model.multiple_choice import MultipleChoice
from deberta_jax.tasks.examples import (
    ChoiceExample,
    EntityExample,
    SpanExample,
    SpanPrediction,
    TextExample,
    WordsExample,
)

LABELS = {
    "single_label": ("good", "bad", "mixed"),
    "multi_label": ("food", "person", "place"),
    "regression": ("score",),
    "ordinal": ("1", "2", "3"),
    "token": ("O", "B-FOOD", "I-FOOD"),
}
TEXTS = ["A man eats in Köln.", "She sells sea shells on the sea shore.", "The quick brown fox!", "Where do words go?"]
BATCHING = Batching(max_length=64)
EXAMPLES = {
    "single_label": [TextExample(text, text, None, "good") for text in TEXTS],
    "multi_label": [TextExample(text, text, None, ("food",)) for text in TEXTS],
    "regression": [TextExample(text, text, None, 1.0) for text in TEXTS],
    "ordinal": [TextExample(text, text, None, "1") for text in TEXTS],
    # The last word has no tokens in one of the tokenizers.
    "token": [
        WordsExample(text, (*words, "\u200b"), ("O",) * (len(words) + 1), (len(words) + 1,))
        for text in TEXTS
        for words in [tuple(text.split())]
    ],
    "extractive_qa": [SpanExample(text, "Who is it?", text, ()) for text in TEXTS],
    "multiple_choice": [
        ChoiceExample(text, tuple((text, other) for other in TEXTS if other != text), 0) for text in TEXTS
    ],
    "entity_ranking": [EntityExample(text, text, "It is @placeholder.", ((0, 3), (4, 9)), None) for text in TEXTS],
}


def two_models(kind, folder):
    """Two models with their tokenizers: they differ in everything that the models of an ensemble may differ in."""
    head, options = KINDS[kind].head, {"problem_type": KINDS[kind].problem_type}
    labels = LABELS.get(kind)
    first = random_model(head, **options, **({"labels": labels} if labels else {}))
    options |= {"vocab_size": 480, "hidden_size": 24, "num_hidden_layers": 1}
    second = random_model(head, **options, **({"labels": labels[::-1]} if labels else {}))
    for name in ("unigram", "byte_pair"):
        (folder / name).mkdir(parents=True)
    return [(first, write_unigram(folder / "unigram")), (second, write_byte_pair(folder / "byte_pair"))]


@pytest.fixture(scope="module", params=[name for name, kind in KINDS.items() if kind.averaging])
def predicted(request, tmp_path_factory):
    """A kind, two models with their tokenizers, and the outcomes of each."""
    kind, models = KINDS[request.param], two_models(request.param, tmp_path_factory.mktemp("tokenizers"))
    splits = {"dev": EXAMPLES[kind.name]}
    return kind, models, [predict_splits(kind, *model, splits, BATCHING) for model in models]


def test_an_ensemble_of_one_model_and_of_the_same_model_twice_is_the_model(predicted):
    kind, _, (outcomes, _) = predicted
    for ensemble in ([outcomes], [outcomes, outcomes]):
        averaged = average_outcomes(kind, ensemble)["dev"]
        for actual, expected in zip(averaged, outcomes["dev"], strict=True):
            assert_equal(actual.prediction, expected.prediction)
            assert (actual.probabilities is None) == (kind.name == "regression")


def assert_equal(actual, expected):
    """Equal predictions; the score of no answer, and of each span, up to rounding."""
    if isinstance(expected, SpanPrediction):
        assert (actual.text, len(actual.best)) == (expected.text, len(expected.best))
        assert actual.no_answer == pytest.approx(expected.no_answer, abs=2e-6)
        assert dict(actual.best) == pytest.approx(dict(expected.best), abs=2e-6)
    else:
        assert actual == (pytest.approx(expected, abs=2e-6) if isinstance(expected, float) else expected)


def test_an_ensemble_of_two_models_is_the_mean_by_hand(predicted):
    kind, models, outcomes = predicted
    averaged = average_outcomes(kind, outcomes)["dev"]
    changed = 0
    for example, actual, *single in zip(EXAMPLES[kind.name], averaged, *(x["dev"] for x in outcomes), strict=True):
        first, second = (BY_HAND[kind.name](model, tokenizer, example) for model, tokenizer in models)
        mean = {name: (first.get(name, 0.0) + second.get(name, 0.0)) / 2 for name in first | second}
        assert_equal(actual.prediction, DECIDE[kind.name](mean, example))
        if kind.name != "regression":
            assert actual.probabilities == {
                name: pytest.approx(value, abs=2e-6) for name, value in nested(mean).items()
            }
        changed += any(outcome.prediction != actual.prediction for outcome in single)
    # The test would otherwise hold for an ensemble that ignores a model.
    assert changed


def logits_of(model, tokenizer, *texts):
    """The logits of one text or pair, padded to one length so that a model is compiled once, and the tokens."""
    batch = tokenizer(*([text] for text in texts))
    padding = ((0, 0), (0, 64 - batch.input_ids.shape[1]))
    ids, mask, types = (np.pad(x, padding) for x in (batch.input_ids, batch.attention_mask, batch.token_type_ids))
    if isinstance(model, MultipleChoice):
        ids, mask, types = ids[:, None], mask[:, None], types[:, None]
    return np.asarray(run_model(model, ids, mask, token_type_ids=types)[0], np.float64), batch


def class_probabilities(function):
    def probabilities(model, tokenizer, example):
        logits, _ = logits_of(model, tokenizer, example.text)
        return dict(zip(model.deberta.config.labels, function(logits).tolist(), strict=True))

    return probabilities


def tag_probabilities(model, tokenizer, example):
    """By (word, tag); a word without tokens is outside."""
    logits, batch = logits_of(model, tokenizer, " ".join(example.words))
    firsts, values = first_tokens(example.words, batch.offsets[0, 1:-1]).tolist(), {}
    assert -1 not in firsts[:-1]
    for word, first in enumerate(firsts):
        labels = model.deberta.config.labels
        row = softmax(logits[1 + first]) if first >= 0 else [float(label == "O") for label in labels]
        values |= {(word, label): float(p) for label, p in zip(labels, row, strict=True)}
    return values


def test_a_word_has_no_tokens_in_one_of_the_tokenizers(tmp_path):
    words = EXAMPLES["token"][0].words
    has_tokens = [
        first_tokens(words, tokenizer([" ".join(words)]).offsets[0, 1:-1])[-1] >= 0
        for _, tokenizer in two_models("token", tmp_path)
    ]
    assert sorted(has_tokens) == [False, True]


def choice_probabilities(model, tokenizer, example):
    logits = [logits_of(model, tokenizer, *pair)[0].item() for pair in example.pairs]
    return {str(index): value for index, value in enumerate(softmax(logits).tolist())}


def answer_probabilities(model, tokenizer, example):
    (ranking,) = complete(span_ranking_pipeline(model, tokenizer, batching=BATCHING), *([x] for x in example.inputs))
    probabilities = dict(ranking.spans)
    best = max(probabilities.values())
    assert sum(probabilities.values()) + best * math.exp(ranking.no_answer) == pytest.approx(1)
    return probabilities | {"": best * math.exp(ranking.no_answer)}


def entity_probabilities(model, tokenizer, example):
    (candidates,) = score_entities(model, tokenizer, *([x] for x in example.inputs), batching=BATCHING)
    return {candidate.text: candidate.probability for candidate in candidates}


BY_HAND = {
    "single_label": class_probabilities(softmax),
    "multi_label": class_probabilities(expit),
    "regression": class_probabilities(lambda logits: logits),
    "ordinal": class_probabilities(softmax),
    "token": tag_probabilities,
    "extractive_qa": answer_probabilities,
    "multiple_choice": choice_probabilities,
    "entity_ranking": entity_probabilities,
}


def likeliest(mean, example):
    return max(mean, key=mean.get)


def likeliest_tags(mean, example):
    tags = LABELS["token"]
    return tuple(max(tags, key=lambda tag: mean[word, tag]) for word in range(len(example.words)))


def likeliest_answer(mean, example):
    spans = sorted(((text, p) for text, p in mean.items() if text), key=lambda span: -span[1])[:20]
    return SpanPrediction(spans[0][0], math.log(mean[""] / spans[0][1]), tuple(spans))


DECIDE = {
    "single_label": likeliest,
    "multi_label": lambda mean, example: tuple(x for x in sorted(mean, key=mean.get, reverse=True) if mean[x] > 0.5),
    "regression": lambda mean, example: mean["score"],
    "ordinal": likeliest,
    "token": likeliest_tags,
    "extractive_qa": likeliest_answer,
    "multiple_choice": lambda mean, example: int(likeliest(mean, example)),
    "entity_ranking": likeliest,
}


def nested(mean):
    """Probabilities by (word, tag) as one array per tag."""
    if not any(isinstance(name, tuple) for name in mean):
        return mean
    tags = {tag for _, tag in mean}
    return {tag: np.asarray([value for (_, name), value in mean.items() if name == tag]) for tag in tags}


def test_a_model_that_cannot_encode_an_example_does_not_count():
    kind = KINDS["extractive_qa"]
    empty, answered = Outcome(kind.empty_prediction), Outcome(SpanPrediction("fox", -1.0), {"fox": 0.7, "": 0.3})
    averaged = average_outcomes(kind, [{"dev": [empty, empty]}, {"dev": [answered, empty]}])["dev"]
    assert averaged[0].prediction.text == "fox"
    assert averaged[0].probabilities == answered.probabilities
    assert averaged[1] == empty


def test_an_answer_without_probability_has_a_finite_score():
    kind = KINDS["extractive_qa"]
    certain = [
        Outcome(SpanPrediction("fox", -900.0), {"fox": 1.0, "": 0.0}),
        Outcome(SpanPrediction("", 9e9), {"": 1.0}),
    ]
    for outcome, sign in zip(certain, (-1, 1), strict=True):
        (averaged,) = average_outcomes(kind, [{"dev": [outcome]}])["dev"]
        assert math.isfinite(averaged.prediction.no_answer)
        assert np.sign(averaged.prediction.no_answer) == sign


def test_labels_must_be_the_same_where_they_are_averaged():
    labels = [("a", ("no", "yes")), ("b", ("yes", "no")), ("c", ("no", "maybe"))]
    check_ensemble(KINDS["single_label"], labels[:2])
    for kind in ("single_label", "multi_label", "ordinal", "token"):
        with pytest.raises(InputError, match="same labels: those of a are no, yes, those of c are no, maybe"):
            check_ensemble(KINDS[kind], labels)
    for kind in ("regression", "extractive_qa", "multiple_choice", "entity_ranking"):
        check_ensemble(KINDS[kind], labels)
    unsupported = dataclasses.replace(KINDS["single_label"], averaging=None)
    with pytest.raises(InputError, match="tasks of kind single_label have no ensembles"):
        check_ensemble(unsupported, labels[:2])


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tokenizer):
    """The folders of two classifiers and of one with other labels, and a table."""
    root = tmp_path_factory.mktemp("saved")
    for name, (model, model_tokenizer) in zip("ab", two_models("single_label", root / "tokenizers"), strict=True):
        save_pretrained(root / name, model, model_tokenizer)
    other = random_model("sequence_classification", problem_type="single_label_classification", labels=("x", "y"))
    save_pretrained(root / "c", other, tokenizer)
    rows = [{"text": text, "label": LABELS["single_label"][k % 3]} for k, text in enumerate(TEXTS)]
    (root / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def evaluate(saved, *words):
    return call("evaluate", "generic", "--data", saved / "test.jsonl", "--max-length", "64", *words)


def test_the_command_prints_the_metrics_of_each_model_and_of_the_ensemble(saved, tmp_path, capsys):
    names = [saved / "a", saved / "b"]
    assert evaluate(saved, "--models", *names, "--folder", tmp_path / "both") == 0
    lines = capsys.readouterr().out.splitlines()
    starts = [
        f"{saved / 'a'}, test: accuracy",
        f"{saved / 'b'}, test: accuracy",
        "ensemble of 2 models, test: accuracy",
    ]
    assert [line[: len(start)] for line, start in zip(lines[1:4], starts, strict=True)] == starts
    models = two_models("single_label", tmp_path)
    outcomes = [
        predict_splits(KINDS["single_label"], *model, {"test": EXAMPLES["single_label"]}, BATCHING) for model in models
    ]
    expected = [outcome.prediction for outcome in average_outcomes(KINDS["single_label"], outcomes)["test"]]
    written = (tmp_path / "both/predictions/predictions-test.jsonl").read_text().splitlines()
    assert [json.loads(line)["prediction"] for line in written] == expected
    metrics = read_json(tmp_path / "both/metrics.json")["test"]
    assert f"{metrics['accuracy']:.4f}" in lines[3]


def test_an_ensemble_of_a_model_with_itself_has_the_files_of_the_model(saved, tmp_path, capsys):
    assert evaluate(saved, "--model", saved / "b", "--folder", tmp_path / "one") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("test: accuracy")
    assert evaluate(saved, "--models", saved / "b", saved / "b", "--folder", tmp_path / "two") == 0
    for name in ("metrics.json", "predictions/predictions-test.jsonl"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()


def test_a_missing_folder_and_other_labels_are_one_line(saved, tmp_path, capsys):
    for words, message in (
        (["--models", saved / "a", tmp_path / "none"], f"'{tmp_path / 'none'}': no such folder; name a model folder"),
        (["--models", saved / "a", saved / "c"], "an ensemble needs models with the same labels: those of"),
        (["--models"], "no model given: use --model with a folder"),
    ):
        assert evaluate(saved, *words) == 2
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 1
        assert message in error[0]
