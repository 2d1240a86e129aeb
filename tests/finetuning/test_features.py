"""Examples to rows: every label stands at the right token, once, and no answer that fits is lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_tokenizers import TEXT

from deberta_jax.errors import InputError
from deberta_jax.finetuning.features import features_of, first_tokens, text_of_words
from deberta_jax.tasks.examples import ChoiceExample, EntityExample, SpanExample, TextExample, WordsExample

LIMIT = 24
WORDS = TEXT.split()


def shown(tokenizer, ids):
    return "".join(tokenizer.token(index) for index in ids).replace("\u2581", " ").strip()


def test_a_pair_is_one_row_with_its_label(tokenizer):
    example = TextExample("1", "A man eats.", "A woman sings!", "yes")
    (unit,), account = features_of("single_label", tokenizer, [example], ("no", "yes"), LIMIT)
    batch = tokenizer(["A man eats."], ["A woman sings!"])
    assert unit.rows[0].tolist() == batch.input_ids[0].tolist()
    assert unit.seconds[0] == batch.token_type_ids[0].tolist().index(1)
    assert unit.targets == {"labels": 1, "weights": 1}
    assert (account.read, account.used) == (1, 1)


def test_a_number_and_several_labels_are_floats(tokenizer):
    (unit,), _ = features_of("regression", tokenizer, [TextExample("1", "A man.", None, 2.5)], ("score",), LIMIT)
    assert unit.targets["labels"] == np.float32(2.5)
    example = TextExample("1", "A man.", None, ("c", "a"))
    (unit,), _ = features_of("multi_label", tokenizer, [example], ("a", "b", "c"), LIMIT)
    assert unit.targets["labels"].tolist() == [1, 0, 1]


def test_each_choice_is_a_row_of_its_own(tokenizer):
    example = ChoiceExample("1", (("A man", "eats."), ("A man", "sings!"), ("A woman", "eats.")), 2)
    (unit,), _ = features_of("multiple_choice", tokenizer, [example], (), LIMIT)
    assert len(unit.rows) == len(unit.second_starts) == 3
    assert unit.targets["labels"] == 2
    assert shown(tokenizer, unit.rows[2][1:-1]).startswith("A woman")


def test_an_example_without_a_label_is_named(tokenizer):
    with pytest.raises(InputError, match="example 7 has no label"):
        features_of("single_label", tokenizer, [TextExample("7", "A man.", None, None)], ("no", "yes"), LIMIT)


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.sampled_from([*WORDS, "😀", "über-größer", "x\u0301"]), min_size=1, max_size=70))
def test_the_tag_of_every_word_stands_once_at_its_first_token(tokenizer, words):
    tags = [f"T{number}" for number in range(len(words))]
    example = WordsExample("1", tuple(words), tuple(tags), (len(words),))
    units, _ = features_of("token", tokenizer, [example], tags, LIMIT)
    counted = [
        (int(label), int(token))
        for unit in units
        for token, label, weight in zip(unit.rows[0], unit.targets["labels"], unit.targets["weights"], strict=True)
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
    units, _ = features_of("extractive_qa", tokenizer, [example], (), LIMIT)
    room = LIMIT - 3 - len(tokenizer.encode("Who eats?"))
    holding = [unit for unit in units if unit.targets["labels"].any()]
    tokens = tokenizer([context]).offsets[0][1:-1]
    needed = int(((tokens[:, 0] < start + len(answer)) & (tokens[:, 1] > start)).sum())
    assert bool(holding) == (needed <= room)
    for unit in holding:
        begin, end = unit.targets["labels"].tolist()
        assert (
            shown(tokenizer, unit.rows[0][begin : end + 1]).split()
            == shown(tokenizer, tokenizer([answer]).input_ids[0][1:-1]).split()
            or end - begin + 1 == needed
        )
        assert begin >= unit.seconds[0]
        assert len(unit.rows[0]) <= LIMIT


def test_a_question_without_an_answer_points_to_the_first_token(tokenizer):
    example = SpanExample("1", "Who eats?", " ".join(WORDS[:40]), ())
    units, _ = features_of("extractive_qa", tokenizer, [example], (), LIMIT)
    assert len(units) > 1
    assert all(unit.targets["labels"].tolist() == [0, 0] for unit in units)


def test_a_question_that_leaves_no_room_is_accounted_for(tokenizer):
    long = SpanExample("long", " ".join(WORDS[:40]), "A man eats.", ())
    short = SpanExample("short", "Who eats?", "A man eats.", (("man", 2),))
    units, account = features_of("extractive_qa", tokenizer, [long] + [short] * 30, (), LIMIT)
    assert (account.read, account.used, sum(account.skipped.values())) == (31, 30, 1)
    assert "example long" in account.named[0]
    assert len(units) == 30


def test_every_stretch_of_an_answering_entity_is_right(tokenizer):
    passage = "A man eats. A woman sings! A man sings."
    stretches = ((0, 5), (12, 19), (27, 32))
    example = EntityExample("1", passage, "Then @placeholder eats.", stretches, ("A man",))
    (unit,), _ = features_of("entity_ranking", tokenizer, [example], (), 64)
    assert unit.targets["labels"].tolist() == [1, 0, 1]
    assert unit.targets["weights"].tolist() == [1, 1, 1]
    its = unit.targets["entity_positions"][1]
    assert shown(tokenizer, unit.rows[0][its[its > 0]]) == "A woman"
