"""Entities of tags and their scores."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deberta_jax.errors import InputError
from deberta_jax.tasks.conll_metrics import chunks, score_entities, score_tags
from deberta_jax.tasks.examples import WordsExample


def test_entities_begin_and_end_as_in_conlleval():
    tags = ["I-A", "I-A", "B-A", "I-B", "O", "B-B", "I-B"]
    assert list(chunks(tags)) == [("A", 0, 1), ("A", 2, 2), ("B", 3, 3), ("B", 5, 6)]


def test_an_entity_needs_the_right_type_and_ends_and_ends_with_its_sentence():
    example = WordsExample("1", tuple("abcd"), ("B-X", "I-X", "O", "B-Y"), (2, 2))
    scores = score_entities([example], [("B-X", "I-X", "I-X", "O")])
    assert scores["precision"] == scores["recall"] == 0.5
    assert scores["f1/X"] == pytest.approx(2 / 3)
    assert scores["f1/Y"] == 0
    assert scores["accuracy"] == 0.5


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_entity_f1_equals_the_overlap_of_two_sets(data):
    tags = st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"])
    size = data.draw(st.integers(1, 12))
    gold, predicted = (data.draw(st.lists(tags, min_size=size, max_size=size)) for _ in range(2))
    example = WordsExample("1", ("w",) * size, tuple(gold), (size,))
    scores = score_entities([example], [tuple(predicted)])
    a, b = set(chunks(gold)), set(chunks(predicted))
    assert scores["f1"] == pytest.approx(2 * len(a & b) / (len(a) + len(b)) if a or b else 0.0)


def test_tags_without_entities_are_scored_by_accuracy_and_no_tags_are_an_error():
    example = WordsExample("1", tuple("ab"), ("DET", "NOUN"), (2,))
    assert score_tags([example], [("DET", "DET")]) == {"accuracy": 0.5}
    with pytest.raises(InputError, match="no word has a tag"):
        score_entities([example._replace(tags=None)], [("DET", "DET")])
