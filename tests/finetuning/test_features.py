"""Features: every target is at the right token, once, and no answer that fits into a sequence is lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_tokenizers import TEXT

from deberta_jax.errors import InputError
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.kinds.token import first_tokens, text_of_words
from deberta_jax.finetuning.training_set import features_of
from deberta_jax.tasks.examples import ChoiceExample, EntityExample, SpanExample, TextExample, WordsExample

MAX_LENGTH = 24
WORDS = TEXT.split()


def text_of(tokenizer, ids):
    return "".join(tokenizer.token(index) for index in ids).replace("\u2581", " ").strip()


def test_a_pair_is_one_sequence_with_its_label(tokenizer):
    example = TextExample("1", "A man eats.", "A woman sings!", "yes")
    (feature,), report = features_of(KINDS["single_label"], tokenizer, [example], ("no", "yes"), MAX_LENGTH)
    batch = tokenizer(["A man eats."], ["A woman sings!"])
    assert feature.sequences[0].tolist() == batch.input_ids[0].tolist()
    assert feature.second_starts[0] == batch.token_type_ids[0].tolist().index(1)
    assert feature.targets == {"labels": 1, "weights": 1}
    assert (report.read, report.used) == (1, 1)


def test_targets_of_regression_and_multi_label_are_floats(tokenizer):
    (feature,), _ = features_of(
        KINDS["regression"], tokenizer, [TextExample("1", "A man.", None, 2.5)], ("score",), MAX_LENGTH
    )
    assert feature.targets["labels"] == np.float32(2.5)
    example = TextExample("1", "A man.", None, ("c", "a"))
    (feature,), _ = features_of(KINDS["multi_label"], tokenizer, [example], ("a", "b", "c"), MAX_LENGTH)
    assert feature.targets["labels"].tolist() == [1, 0, 1]


def test_each_choice_is_one_sequence(tokenizer):
    example = ChoiceExample("1", (("A man", "eats."), ("A man", "sings!"), ("A woman", "eats.")), 2)
    (feature,), _ = features_of(KINDS["multiple_choice"], tokenizer, [example], (), MAX_LENGTH)
    assert len(feature.sequences) == len(feature.second_starts) == 3
    assert feature.targets["labels"] == 2
    assert text_of(tokenizer, feature.sequences[2][1:-1]).startswith("A woman")


def test_an_example_without_a_label_is_an_error_with_its_id(tokenizer):
    with pytest.raises(InputError, match="example 7 has no label"):
        features_of(
            KINDS["single_label"], tokenizer, [TextExample("7", "A man.", None, None)], ("no", "yes"), MAX_LENGTH
        )


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.sampled_from([*WORDS, "😀", "über-größer", "x\u0301"]), min_size=1, max_size=70))
def test_each_word_has_its_tag_once_at_its_first_token(tokenizer, words):
    tags = [f"T{number}" for number in range(len(words))]
    example = WordsExample("1", tuple(words), tuple(tags), (len(words),))
    features, _ = features_of(KINDS["token"], tokenizer, [example], tags, MAX_LENGTH)
    counted = [
        (int(label), int(token))
        for feature in features
        for token, label, weight in zip(
            feature.sequences[0], feature.targets["labels"], feature.targets["weights"], strict=True
        )
        if weight
    ]
    text = text_of_words(words)
    batch = tokenizer([text])
    firsts = first_tokens(words, batch.offsets[0][1:-1])
    assert sorted(label for label, _ in counted) == np.flatnonzero(firsts >= 0).tolist()
    for label, token in counted:
        assert token == batch.input_ids[0][1 + firsts[label]]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_windows_lose_no_answer_that_fits(tokenizer, data):
    words = data.draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=90))
    context = " ".join(words)
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, min(len(words) - 1, first + 20)))
    start = len(" ".join(words[:first])) + (first > 0)
    answer = " ".join(words[first : last + 1])
    example = SpanExample("1", "Who eats?", context, ((answer, start),))
    features, _ = features_of(KINDS["extractive_qa"], tokenizer, [example], (), MAX_LENGTH)
    room = MAX_LENGTH - 3 - len(tokenizer.encode("Who eats?"))
    holding = [feature for feature in features if feature.targets["labels"].any()]
    tokens = tokenizer([context]).offsets[0][1:-1]
    needed = int(((tokens[:, 0] < start + len(answer)) & (tokens[:, 1] > start)).sum())
    assert bool(holding) == (needed <= room)
    for feature in holding:
        begin, end = feature.targets["labels"].tolist()
        assert (
            text_of(tokenizer, feature.sequences[0][begin : end + 1]).split()
            == text_of(tokenizer, tokenizer([answer]).input_ids[0][1:-1]).split()
            or end - begin + 1 == needed
        )
        assert begin >= feature.second_starts[0]
        assert len(feature.sequences[0]) <= MAX_LENGTH


def test_the_target_of_a_question_without_an_answer_is_the_first_token(tokenizer):
    example = SpanExample("1", "Who eats?", " ".join(WORDS[:40]), ())
    features, _ = features_of(KINDS["extractive_qa"], tokenizer, [example], (), MAX_LENGTH)
    assert len(features) > 1
    assert all(feature.targets["labels"].tolist() == [0, 0] for feature in features)


def test_a_question_that_leaves_no_room_for_its_context_is_reported(tokenizer):
    long = SpanExample("long", " ".join(WORDS[:40]), "A man eats.", ())
    short = SpanExample("short", "Who eats?", "A man eats.", (("man", 2),))
    features, report = features_of(KINDS["extractive_qa"], tokenizer, [long] + [short] * 30, (), MAX_LENGTH)
    assert (report.read, report.used, sum(report.skipped.values())) == (31, 30, 1)
    assert "example long" in report.errors[0]
    assert len(features) == 30


def test_every_occurrence_of_a_correct_entity_is_correct(tokenizer):
    passage = "A man eats. A woman sings! A man sings."
    spans = ((0, 5), (12, 19), (27, 32))
    example = EntityExample("1", passage, "Then @placeholder eats.", spans, ("A man",))
    (feature,), _ = features_of(KINDS["entity_ranking"], tokenizer, [example], (), 64)
    assert feature.targets["labels"].tolist() == [1, 0, 1]
    assert feature.targets["weights"].tolist() == [1, 1, 1]
    positions = feature.targets["entity_positions"][1]
    assert text_of(tokenizer, feature.sequences[0][positions[positions > 0]]) == "A woman"
