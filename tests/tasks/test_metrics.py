"""Metrics against loops of three lines, hand-made figures, and other scorers."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deberta_jax.errors import InputError
from deberta_jax.finetuning.calibration import bins, calibration_error
from deberta_jax.tasks import metrics
from deberta_jax.tasks.conll_metrics import chunks, score_entities
from deberta_jax.tasks.examples import EntityExample, SpanExample, SpanPrediction, TextExample, WordsExample
from deberta_jax.tasks.squad_metrics import (
    best_threshold,
    exact_match,
    normalised,
    score_record,
    score_squad,
    score_squad2,
    score_squad_files,
    word_f1,
)


def texts(labels, groups=None):
    groups = groups or [""] * len(labels)
    return [
        TextExample(str(k), "t", None, label, group)
        for k, (label, group) in enumerate(zip(labels, groups, strict=True))
    ]


def test_accuracy_counts_what_has_a_label_in_all_and_by_group():
    found = metrics.accuracy(texts(["a", "b", None, "a"], ["x", "y", "x", "y"]), ["a", "b", "a", "b"])
    assert found == {"accuracy": 2 / 3, "accuracy/x": 1.0, "accuracy/y": 0.5}
    with pytest.raises(InputError, match="no example has a label"):
        metrics.accuracy(texts([None]), ["a"])


def test_f1_is_of_the_positive_label_and_averaged_with_accuracy():
    found = metrics.accuracy_and_f1("1")(texts(list("1100")), list("1010"))
    assert found == {"accuracy": 0.5, "f1": 0.5, "mean": 0.5}
    found = metrics.accuracy_and_f1("1")(texts(list("0000")), list("0000"))
    assert found == {"accuracy": 1.0, "f1": 0.0, "mean": 0.5}


def test_macro_f1_is_the_mean_over_labels():
    found = metrics.accuracy_and_macro_f1(texts(list("aab")), list("aba"))
    assert found["f1_macro"] == pytest.approx(0.25)


def test_matthews_is_that_of_the_counts_and_0_for_one_label():
    wanted, found = list("1110001"), list("1010011")
    tp, tn, fp, fn = (
        sum(a == x and b == y for a, b in zip(wanted, found, strict=True)) for x, y in ("11", "00", "01", "10")
    )
    by_hand = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert metrics.matthews(texts(wanted), found)["matthews"] == pytest.approx(by_hand)
    assert metrics.matthews(texts(wanted), list("1111111"))["matthews"] == 0


def test_correlations_are_those_of_numbers_and_ranks_and_0_for_constants():
    found = metrics.correlations(texts([1.0, 2.0, 3.0, 4.0]), [1.0, 4.0, 9.0, 16.0])
    assert found["spearman"] == pytest.approx(1)
    assert found["pearson"] == pytest.approx(np.corrcoef([1, 2, 3, 4], [1, 4, 9, 16])[0, 1])
    assert metrics.correlations(texts([1.0, 2.0]), [3.0, 3.0]) == {"pearson": 0.0, "spearman": 0.0, "mean": 0.0}


def test_several_labels_are_scored_over_all_by_label_and_by_text():
    found = metrics.own_several(texts([("a",), ("a", "b"), ()]), [("a",), ("b",), ("b",)])
    assert found["f1_micro"] == pytest.approx(2 * 2 / (3 + 3))
    assert found["f1_macro"] == pytest.approx(np.mean([2 * 1 / 3, 2 * 1 / 3]))
    assert found["exact"] == pytest.approx(1 / 3)


def test_a_question_of_multirc_is_right_where_all_its_answers_are():
    found = metrics.answer_options(texts(list("1010"), ["p", "p", "q", "q"]), list("1011"))
    assert found["exact_match"] == 0.5
    assert found["f1a"] == pytest.approx(2 * 2 / (2 + 3))


def test_the_mean_over_languages_weighs_them_alike():
    found = metrics.mean_over_groups(texts(list("aaab"), ["en", "en", "en", "de"]), list("aaaa"))
    assert found["mean"] == 0.5


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_error_is_the_mean_distance_by_bins(its):
    confidences, right = zip(*its, strict=True)
    wanted = 0.0
    for low in range(15):
        inside = [(p, hit) for p, hit in its if low / 15 < p <= (low + 1) / 15]
        if inside:
            wanted += (
                len(inside) / len(its) * abs(np.mean([p for p, _ in inside]) - np.mean([hit for _, hit in inside]))
            )
    assert calibration_error(confidences, right) == pytest.approx(wanted, abs=1e-6)
    assert sum(one.number for one in bins(confidences, right)) == len(its)


def test_answers_are_normalised_by_the_official_rules():
    assert normalised("The  Quick, (brown) fox's an A-team.") == "quick brown foxs ateam"
    assert exact_match("the Fox!", "fox") == 1
    assert word_f1("the brown fox", "a quick brown fox") == pytest.approx(2 * 2 / 5)
    assert word_f1("fox fox", "fox") == pytest.approx(2 / 3)
    assert word_f1("", "") == word_f1("the", "a") == 1
    assert word_f1("fox", "") == 0
    # Signs beyond ASCII and articles of other languages stay.
    assert normalised("«Der Fuchs»") == "«der fuchs»"


def spans(*answers):
    return [
        SpanExample(f"q{k}", "?", "c", None if its is None else tuple((text, 0) for text in its))
        for k, its in enumerate(answers)
    ]


def test_the_best_of_several_answers_counts_and_scores_are_in_percent():
    examples = spans(["a fox", "the quick fox"], ["dog"])
    found = score_squad(examples, [SpanPrediction("quick fox", 0.0), SpanPrediction("cat", 0.0)])
    assert found == {"exact_match": 50.0, "f1": 50.0}


def test_no_answer_is_right_where_there_is_none_and_the_threshold_that_is_best_is_found():
    examples = spans(["fox"], [], ["dog"], [])
    predictions = [
        SpanPrediction("fox", -3.0, (("fox", 0.9),)),
        SpanPrediction("cat", 1.0, (("cat", 0.5),)),
        SpanPrediction("dog", 0.5, (("dog", 0.5),)),
        SpanPrediction("", 4.0, (("cow", 0.5),)),
    ]
    found = score_squad2(examples, predictions)
    assert found["exact"] == 75.0
    assert (found["HasAns_exact"], found["NoAns_exact"]) == (100.0, 50.0)
    assert (found["best_f1"], found["best_f1_thresh"]) == (100.0, 0.5)
    assert best_threshold(examples, predictions) == 0.5


def files(tmp_path, answers, predictions, odds=None, version="v2.0"):
    qas = [
        {"id": f"q{k}", "question": "?", "answers": [{"text": t, "answer_start": 0} for t in its]}
        for k, its in enumerate(answers)
    ]
    data, texts_file, odds_file = (tmp_path / name for name in ("data.json", "predictions.json", "odds.json"))
    data.write_text(json.dumps({"version": version, "data": [{"paragraphs": [{"context": "c", "qas": qas}]}]}))
    texts_file.write_text(json.dumps(predictions))
    odds_file.write_text(json.dumps(odds or {}))
    return data, texts_file, odds_file if odds else None


def test_a_question_without_prediction_is_0_in_the_first_version_and_left_out_in_the_second(tmp_path):
    found = score_squad_files(*files(tmp_path, [["fox"], ["dog"]], {"q0": "fox"}, version="1.1"))
    assert found == {"exact_match": 50.0, "f1": 50.0, "without_prediction": 1.0}
    found = score_squad_files(*files(tmp_path, [["fox"], []], {"q0": "fox"}))
    assert (found["exact"], found["total"], found["without_prediction"]) == (100.0, 1.0, 1.0)


def test_files_that_are_something_else_are_refused(tmp_path):
    data, predictions, _ = files(tmp_path, [["fox"]], {"other": "fox"})
    with pytest.raises(InputError, match="has an answer for no question"):
        score_squad_files(data, predictions)
    predictions.write_text("[1]")
    with pytest.raises(InputError, match="an object of answers by question id is wanted"):
        score_squad_files(data, predictions)


WORDS = ["the", "The", "fox", "fox's", "a", "quick", "brown,", "dog", "1,000", "Köln", "«ja»", "--", "an"]


def drawn(seed, number=200):
    """Answers, predictions and odds of made questions; of some there is no prediction."""
    draw = random.Random(seed)
    answers = [
        [" ".join(draw.choices(WORDS, k=draw.randint(1, 4))) for _ in range(draw.randint(seed % 2, 3))]
        for _ in range(number)
    ]
    predictions = {
        f"q{k}": draw.choice([*its, "", " ".join(draw.choices(WORDS, k=draw.randint(1, 4)))])
        for k, its in enumerate(answers)
        if k % 17
    }
    odds = {f"q{k}": round(draw.gauss(0, 1), 2) for k in range(number)}
    return answers, predictions, odds


# What the official scorers, evaluate-v1.1.py and evaluate-v2.0.py, say of the files of `drawn`.
OFFICIAL = {
    (0, False): {
        "exact": 52.12765957446808,
        "f1": 54.39716312056737,
        "total": 188,
        "HasAns_exact": 50.714285714285715,
        "HasAns_f1": 53.761904761904766,
        "HasAns_total": 140,
        "NoAns_exact": 56.25,
        "NoAns_f1": 56.25,
        "NoAns_total": 48,
    },
    (2, True): {
        "exact": 46.276595744680854,
        "f1": 48.470111448834864,
        "total": 188,
        "HasAns_exact": 37.06293706293706,
        "HasAns_f1": 39.94671994671994,
        "HasAns_total": 143,
        "NoAns_exact": 75.55555555555556,
        "NoAns_f1": 75.55555555555556,
        "NoAns_total": 45,
        "best_exact": 47.340425531914896,
        "best_exact_thresh": 2.23,
        "best_f1": 50.42046605876395,
        "best_f1_thresh": 2.23,
    },
    (4, True): {
        "exact": 43.08510638297872,
        "f1": 45.762411347517734,
        "total": 188,
        "HasAns_exact": 37.410071942446045,
        "HasAns_f1": 41.03117505995203,
        "HasAns_total": 139,
        "NoAns_exact": 59.183673469387756,
        "NoAns_f1": 59.183673469387756,
        "NoAns_total": 49,
        "best_exact": 44.680851063829785,
        "best_exact_thresh": 0.94,
        "best_f1": 48.13829787234044,
        "best_f1_thresh": 1.93,
    },
    (1, False): {
        "exact_match": 50.0,
        "f1": 42.46666666666667,
    },
    (3, False): {
        "exact_match": 54.0,
        "f1": 40.55,
    },
}


@pytest.mark.parametrize("case", OFFICIAL)
def test_any_prediction_file_gets_the_figures_of_the_official_scorer(case, tmp_path):
    seed, with_odds = case
    answers, predictions, odds = drawn(seed)
    version = "1.1" if seed % 2 else "v2.0"
    found = score_squad_files(*files(tmp_path, answers, predictions, odds if with_odds else None, version))
    for name, value in OFFICIAL[case].items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


@pytest.mark.shared
def test_the_answers_themselves_score_100_on_the_real_development_set(shared, tmp_path):
    data = shared / "data/squad/dev-v1.1.json"
    values = json.loads(data.read_text())
    questions = [q for article in values["data"] for p in article["paragraphs"] for q in p["qas"]]
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps({q["id"]: q["answers"][-1]["text"] for q in questions}))
    found = score_squad_files(data, path)
    # One of them is the word "a", which is nothing once normalised: the official F1 of nothing is 0.
    assert found == {"exact_match": 100.0, "f1": pytest.approx(100 - 100 / 10570), "without_prediction": 0.0}
    path.write_text(json.dumps({q["id"]: f"the {q['answers'][0]['text']}, zzz" for q in questions}))
    found = score_squad_files(data, path)
    assert found["exact_match"] == 0
    assert 60 < found["f1"] < 85


def test_an_entity_of_record_is_right_by_any_of_its_answers():
    example = EntityExample("1", "p", "q", (), ("The Fox", "Fox News"))
    assert score_record([example] * 2, ["fox", "news"]) == {
        "exact_match": 0.5,
        "f1": pytest.approx(5 / 6),
        "mean": pytest.approx(2 / 3),
    }


def test_entities_begin_and_end_as_conlleval_has_them():
    tags = ["I-A", "I-A", "B-A", "I-B", "O", "B-B", "I-B"]
    assert list(chunks(tags)) == [("A", 0, 1), ("A", 2, 2), ("B", 3, 3), ("B", 5, 6)]


def test_entities_are_right_by_type_and_stretch_and_end_with_their_sentence():
    example = WordsExample("1", tuple("abcd"), ("B-X", "I-X", "O", "B-Y"), (2, 2))
    found = score_entities([example], [("B-X", "I-X", "I-X", "O")])
    assert found["precision"] == found["recall"] == 0.5
    assert found["f1/X"] == pytest.approx(2 / 3)
    assert found["f1/Y"] == 0
    assert found["accuracy"] == 0.5


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_entity_f1_is_the_overlap_of_two_sets(data):
    tags = st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"])
    size = data.draw(st.integers(1, 12))
    gold, ours = (data.draw(st.lists(tags, min_size=size, max_size=size)) for _ in range(2))
    example = WordsExample("1", ("w",) * size, tuple(gold), (size,))
    found = score_entities([example], [tuple(ours)])
    a, b = set(chunks(gold)), set(chunks(ours))
    assert found["f1"] == pytest.approx(2 * len(a & b) / (len(a) + len(b)) if a or b else 0.0)
