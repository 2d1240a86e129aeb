"""SQuAD's data files, and scores of official prediction files."""

import json
import random

import pytest
from toy_tasks import CONTEXT

from deberta_jax.errors import InputError
from deberta_jax.tasks.catalogue import TASKS
from deberta_jax.tasks.squad import score_squad_files


def write_squad(path, answers, context=CONTEXT, name="q"):
    question = {"id": name, "question": "Who eats?", "answers": answers}
    values = {"version": "1.1", "data": [{"paragraphs": [{"context": context, "qas": [question]}]}]}
    path.write_text(json.dumps(values))


def test_a_wrong_offset_is_replaced_by_that_of_the_nearest_occurrence(tmp_path):
    path = tmp_path / "train-v1.1.json"
    write_squad(path, [{"text": "man", "answer_start": 24}], "A man eats. Then a man sings. A man.")
    examples, (report,) = TASKS["squad"].read(path, "train")
    assert examples[0].answers == (("man", 19),)
    assert report.repairs == {"answer offset": 1}
    assert str(report) == f"{path}: 1 rows, 1 used, repaired: answer offset: 1"


def test_a_question_without_answer_has_no_spans(toy):
    assert [example.answers == () for example in toy("squad2")["dev"].examples] == [False, True, False] * 2


def test_an_answer_outside_the_context_is_reported_with_its_question(tmp_path):
    path = tmp_path / "train-v1.1.json"
    write_squad(path, [{"text": "elephant", "answer_start": 3}], name="q77")
    with pytest.raises(InputError, match="question q77: answer is not in the context"):
        TASKS["squad"].read(path, "train")
    path.write_text('{"data": [')
    with pytest.raises(InputError, match=r"train-v1.1.json line 1 column 11: not valid JSON"):
        TASKS["squad"].read(path, "train")
    path.write_text('{"rows": []}')
    with pytest.raises(InputError, match='a list of articles in "data"'):
        TASKS["squad"].read(path, "train")


def write_files(tmp_path, answers, predictions, odds=None, version="v2.0"):
    """Write a data file and prediction files; returns their paths."""
    questions = [
        {"id": f"q{k}", "question": "?", "answers": [{"text": text, "answer_start": 0} for text in texts]}
        for k, texts in enumerate(answers)
    ]
    data, texts_file, odds_file = (tmp_path / name for name in ("data.json", "predictions.json", "odds.json"))
    data.write_text(json.dumps({"version": version, "data": [{"paragraphs": [{"context": "c", "qas": questions}]}]}))
    texts_file.write_text(json.dumps(predictions))
    odds_file.write_text(json.dumps(odds or {}))
    return data, texts_file, odds_file if odds else None


def test_a_missing_prediction_scores_0_in_version_1_and_is_left_out_in_version_2(tmp_path):
    scores = score_squad_files(*write_files(tmp_path, [["fox"], ["dog"]], {"q0": "fox"}, version="1.1"))
    assert scores == {"exact_match": 50.0, "f1": 50.0, "without_prediction": 1.0}
    scores = score_squad_files(*write_files(tmp_path, [["fox"], []], {"q0": "fox"}))
    assert (scores["exact"], scores["total"], scores["without_prediction"]) == (100.0, 1.0, 1.0)


def test_files_in_another_format_are_refused(tmp_path):
    data, predictions, _ = write_files(tmp_path, [["fox"]], {"other": "fox"})
    with pytest.raises(InputError, match="predictions.json: no answer for any question of"):
        score_squad_files(data, predictions)
    predictions.write_text("[1]")
    with pytest.raises(InputError, match="expected an object with the answer for each question id"):
        score_squad_files(data, predictions)


WORDS = ["the", "The", "fox", "fox's", "a", "quick", "brown,", "dog", "1,000", "Köln", "«ja»", "--", "an"]


def random_questions(seed, number=200):
    """Random answers, predictions and odds; some questions have no prediction."""
    rng = random.Random(seed)
    answers = [
        [" ".join(rng.choices(WORDS, k=rng.randint(1, 4))) for _ in range(rng.randint(seed % 2, 3))]
        for _ in range(number)
    ]
    predictions = {
        f"q{k}": rng.choice([*texts, "", " ".join(rng.choices(WORDS, k=rng.randint(1, 4)))])
        for k, texts in enumerate(answers)
        if k % 17
    }
    odds = {f"q{k}": round(rng.gauss(0, 1), 2) for k in range(number)}
    return answers, predictions, odds


# The output of the official scorers, evaluate-v1.1.py and evaluate-v2.0.py, for the files of `random_questions`.
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
def test_scores_of_prediction_files_equal_those_of_the_official_scorers(case, tmp_path):
    seed, with_odds = case
    answers, predictions, odds = random_questions(seed)
    version = "1.1" if seed % 2 else "v2.0"
    scores = score_squad_files(*write_files(tmp_path, answers, predictions, odds if with_odds else None, version))
    for name, value in OFFICIAL[case].items():
        assert scores[name] == pytest.approx(value, abs=1e-9), name


@pytest.mark.shared
def test_the_reference_answers_score_100_on_the_real_development_set(shared, tmp_path):
    data = shared / "data/squad/dev-v1.1.json"
    values = json.loads(data.read_text())
    questions = [q for article in values["data"] for p in article["paragraphs"] for q in p["qas"]]
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps({q["id"]: q["answers"][-1]["text"] for q in questions}))
    scores = score_squad_files(data, path)
    # One of them is the word "a", which is empty after normalization; the official F1 of an empty answer is 0.
    assert scores == {"exact_match": 100.0, "f1": pytest.approx(100 - 100 / 10570), "without_prediction": 0.0}
    path.write_text(json.dumps({q["id"]: f"the {q['answers'][0]['text']}, zzz" for q in questions}))
    scores = score_squad_files(data, path)
    assert scores["exact_match"] == 0
    assert 60 < scores["f1"] < 85
