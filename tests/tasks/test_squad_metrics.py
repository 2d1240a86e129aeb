"""The metrics of SQuAD and ReCoRD by hand-computed values; `test_squad` compares with the official scorers."""

import pytest

from deberta_jax.errors import InputError
from deberta_jax.tasks.examples import EntityExample, SpanExample, SpanPrediction
from deberta_jax.tasks.squad_metrics import (
    best_threshold,
    exact_match,
    normalize_answer,
    score_record,
    score_squad,
    score_squad2,
    word_f1,
)


def test_answers_are_normalized_by_the_official_rules():
    assert normalize_answer("The  Quick, (brown) fox's an A-team.") == "quick brown foxs ateam"
    assert exact_match("the Fox!", "fox") == 1
    assert word_f1("the brown fox", "a quick brown fox") == pytest.approx(2 * 2 / 5)
    assert word_f1("fox fox", "fox") == pytest.approx(2 / 3)
    assert word_f1("", "") == word_f1("the", "a") == 1
    assert word_f1("fox", "") == 0
    # Punctuation outside ASCII and articles of other languages are kept.
    assert normalize_answer("«Der Fuchs»") == "«der fuchs»"


def questions(*answers):
    return [
        SpanExample(f"q{k}", "?", "c", None if texts is None else tuple((text, 0) for text in texts))
        for k, texts in enumerate(answers)
    ]


def test_the_best_reference_counts_and_scores_are_in_percent():
    examples = questions(["a fox", "the quick fox"], ["dog"])
    scores = score_squad(examples, [SpanPrediction("quick fox", 0.0), SpanPrediction("cat", 0.0)])
    assert scores == {"exact_match": 50.0, "f1": 50.0}


def test_the_best_threshold_decides_between_an_answer_and_no_answer():
    examples = questions(["fox"], [], ["dog"], [])
    predictions = [
        SpanPrediction("fox", -3.0, (("fox", 0.9),)),
        SpanPrediction("cat", 1.0, (("cat", 0.5),)),
        SpanPrediction("dog", 0.5, (("dog", 0.5),)),
        SpanPrediction("", 4.0, (("cow", 0.5),)),
    ]
    scores = score_squad2(examples, predictions)
    assert scores["exact"] == 75.0
    assert (scores["HasAns_exact"], scores["NoAns_exact"]) == (100.0, 50.0)
    assert (scores["best_f1"], scores["best_f1_thresh"]) == (100.0, 0.5)
    assert best_threshold(examples, predictions) == 0.5


def test_any_answer_of_a_record_query_is_right():
    example = EntityExample("1", "p", "q", (), ("The Fox", "Fox News"))
    assert score_record([example] * 2, ["fox", "news"]) == {
        "exact_match": 0.5,
        "f1": pytest.approx(5 / 6),
        "mean": pytest.approx(2 / 3),
    }


def test_unlabelled_examples_are_ignored_and_none_labelled_is_an_error():
    examples, predictions = questions(["fox"], None), [SpanPrediction("fox", 0.0), SpanPrediction("x", 0.0)]
    assert score_squad(examples, predictions)["f1"] == 100.0
    assert score_squad2(examples, predictions)["total"] == 1.0
    with pytest.raises(InputError, match="no example has answers"):
        score_record([EntityExample("1", "p", "q", (), None)], ["fox"])
