"""RACE and SWAG."""

import json

import pytest
from toy_tasks import CONTEXT

from deberta_jax.errors import InputError
from deberta_jax.tasks.catalogue import TASKS, load


def test_a_choice_fills_the_gap_of_its_question_or_follows_it(toy):
    first, second = toy("race")["train"].examples[:2]
    assert first.pairs[1] == (CONTEXT, "Who eats? A woman")
    assert second.pairs[1] == (CONTEXT, "A woman sings there.")
    assert (first.label, second.label) == (0, 1)


def test_an_exam_without_questions_is_reported_with_its_name(tmp_path):
    (tmp_path / "high").mkdir()
    exam = {"article": "A man eats.", "questions": ["Who?"] * 30, "options": [["a", "b"]] * 30, "answers": ["A"] * 30}
    (tmp_path / "high/1.txt").write_text(json.dumps(exam))
    (tmp_path / "high/2.txt").write_text(json.dumps({"article": "A man eats."}))
    (examples, (report,)) = TASKS["race"].read(tmp_path, "train")
    assert len(examples) == 30
    assert report.errors == [f"{tmp_path} high/2.txt: no passage with questions"]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (["AB"], "no passage with questions"),
        ([""], "no passage with questions"),
        ([None], "a question without an answer"),
        ([], "a question without an answer"),
    ],
)
def test_an_exam_with_an_unusable_answer_is_reported(answers, reason, tmp_path):
    exam = {"article": "A man eats.", "questions": ["Who?"], "options": [["a", "b"]]}
    (tmp_path / "1.txt").write_text(json.dumps(exam | {"answers": ["A"]}))
    (tmp_path / "2.txt").write_text(json.dumps(exam | {"answers": answers}))
    (tmp_path / "3.txt").write_text(json.dumps(exam | {"answers": ["B"]}))
    with pytest.raises(InputError, match=rf"2\.txt: {reason}"):
        load(TASKS["race"], [tmp_path], "train")


def test_fields_with_commas_quotes_and_line_ends_are_read(toy):
    example = toy("swag")["train"].examples[0]
    assert example.pairs[1][1] == "A man sings\nevery day."
    assert example.pairs[2][1] == 'A man says "shells".'


def test_a_csv_file_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "train.csv").write_bytes("sent1,sent2,größe\n".encode("utf-16"))
    with pytest.raises(InputError, match=r"train\.csv line 0: "):
        TASKS["swag"].read(tmp_path / "train.csv", "train")


def test_a_csv_file_with_other_columns_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"no column ending0, .*; the columns are a, b"):
        TASKS["swag"].read(tmp_path / "train.csv", "train")
