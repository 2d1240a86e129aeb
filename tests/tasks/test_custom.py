"""Custom tables in every format and of every kind; errors name the file and the line."""

import csv
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_tables import write_table

from deberta_jax.errors import InputError
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.tasks.catalogue import find_splits, labels_of, with_data
from deberta_jax.tasks.columns import Columns
from deberta_jax.tasks.custom import custom_task
from deberta_jax.tasks.examples import ReadReport, SpanPrediction
from deberta_jax.tasks.metrics import accuracy
from deberta_jax.tasks.tables import FORMATS, table_rows

ROWS = [{"text": f'Line one,\n"two" {k}; three', "pair": f"p\t{k}", "label": ("no", "yes")[k % 2]} for k in range(8)]


def task_of(kind="single_label", **columns):
    parser = KINDS[kind].table.row_parser
    return custom_task(Columns(kind=kind, **columns), parser, accuracy, "accuracy")


@pytest.fixture
def read_row(tmp_path):
    """A function that returns the example of one row."""

    def read(kind, row, **columns):
        path = write_table(tmp_path / "train.jsonl", [row])
        return task_of(kind, **columns).read(path, "train").examples[0]

    return read


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_examples(tmp_path, suffix):
    path = write_table(tmp_path / f"train.{suffix}", ROWS)
    examples, (report,) = task_of(pair="pair").read(path, "train")
    assert [(e.text, e.pair, e.label) for e in examples] == [(r["text"], r["pair"].strip(), r["label"]) for r in ROWS]
    assert (report.read, report.used) == (8, 8)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=12)] * 2), max_size=8
    ),
    st.sampled_from(",;\t|"),
)
def test_reading_a_csv_file_is_the_inverse_of_writing_it(tmp_path_factory, rows, separator):
    path = tmp_path_factory.mktemp("tables") / "train.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator).writerows([("a", "b"), *rows])
    read = [tuple(row.values()) for _, row in table_rows(path, ReadReport("f"))]
    assert read == [row for row in rows if any(field.strip() for field in row)]


def test_each_kind_reads_its_columns(read_row):
    assert read_row("regression", {"text": "a", "label": "2.5"}).label == 2.5
    assert read_row("multi_label", {"text": "a", "label": "x|y"}).label == ("x", "y")
    assert read_row("multi_label", {"text": "a", "label": ["y", "x"]}).label == ("x", "y")
    assert read_row("multi_label", {"text": "a", "label": ""}).label == ()
    assert read_row("token", {"words": "A man", "tags": "O B-X"}).tags == ("O", "B-X")
    assert read_row("token", {"words": ["A man", "x"], "tags": '["O", "B-X"]'}).words == ("A man", "x")
    question = {"question": "q", "context": "a man, a man", "answer": "man"}
    assert read_row("extractive_qa", question).answers == (("man", 2),)
    assert read_row("extractive_qa", question | {"at": 9}, answer_start="at").answers == (("man", 9),)
    assert read_row("extractive_qa", question | {"answer": ""}).answers == ()
    choice = {"text": "t", "choices": ["x", "y"], "label": 1}
    assert read_row("multiple_choice", choice).label == 1
    assert read_row("multiple_choice", choice | {"label": "x"}).label == 0
    columns = {"text": "t", "a": "x", "b": "y", "label": "y"}
    assert read_row("multiple_choice", columns, choices=("a", "b")).pairs == (("t", "x"), ("t", "y"))


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        ("single_label", {"text": " ", "label": "x"}, "no text in 'text'"),
        ("regression", {"text": "a", "label": "x"}, "'x' is not a number"),
        ("regression", {"text": "a", "label": "inf"}, "infinite number"),
        ("token", {"words": "", "tags": "O"}, "no words in 'words'"),
        ("token", {"words": ["a", None], "tags": "O O"}, "no words in 'words'"),
        ("token", {"words": "a b", "tags": "O"}, "1 tags for 2 words"),
        ("extractive_qa", {"question": "q", "context": "a", "answer": "b"}, "answer is not in the context"),
        ("multiple_choice", {"text": "t", "choices": ["x"], "label": 0}, "fewer than two choices"),
        ("multiple_choice", {"text": "t", "choices": ["x", None], "label": 0}, "fewer than two choices"),
        ("multiple_choice", {"text": "t", "choices": ["x", "y"], "label": 3}, "unknown label '3'"),
    ],
)
def test_the_reason_for_a_skipped_row_is_reported(read_row, kind, row, reason):
    with pytest.raises(InputError, match=re.escape(f"line 1: {reason}")):
        read_row(kind, row)


def test_entity_tags_are_converted_to_iob2_and_other_tags_are_unchanged(read_row):
    assert read_row("token", {"words": "A man x", "tags": "S-X B-Y E-Y"}).tags == ("B-X", "B-Y", "I-Y")
    assert read_row("token", {"words": "A man x", "tags": "DET NOUN B-X"}).tags == ("DET", "NOUN", "B-X")


def test_tags_without_entities_are_scored_by_accuracy(read_row):
    task = task_of("token")
    entities = read_row("token", {"words": "A man", "tags": "O B-X"})
    parts_of_speech = read_row("token", {"words": "A man", "tags": "DET NOUN"})
    assert with_data(task, [entities]) == task
    adapted = with_data(task, [entities], [parts_of_speech])
    assert adapted.best_metric == "accuracy"
    assert adapted.metrics([parts_of_speech], [("DET", "O")]) == {"accuracy": 0.5}
    assert labels_of(task, [entities, parts_of_speech]) == ("O", "B-X", "DET", "NOUN")


def test_questions_may_lack_answers_if_the_data_do(read_row):
    task = task_of("extractive_qa")
    answered = read_row("extractive_qa", {"question": "q", "context": "a man", "answer": "man"})
    assert not with_data(task, [answered]).may_lack_answers
    assert with_data(task, [answered], [answered._replace(answers=())]).may_lack_answers


@pytest.mark.parametrize("label", [1, 1.0, "1", "1.0", " 1 "])
def test_a_number_is_one_label_in_every_spelling(read_row, label):
    assert read_row("single_label", {"text": "a", "label": label}).label == "1"
    assert read_row("single_label", {"text": "a", "label": True}).label == "true"


def test_unusable_rows_are_counted_and_listed(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text,label\n" + "good,yes\n" * 100 + ",yes\ngood,\na,b,c\n")
    examples, (report,) = task_of().read(path, "train")
    assert len(examples) == 101
    assert report.skipped == {"no text in 'text'": 1, "3 fields instead of 2": 1}
    assert report.unlabelled == 1
    assert report.errors[1] == f"{path} line 104: 3 fields instead of 2"


def test_only_a_test_set_may_lack_labels(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text("text\nA man\n")
    assert task_of().read(path, "test").examples[0].label is None
    with pytest.raises(InputError, match=r"test.csv: no column 'label'; the columns are text"):
        task_of().read(path, "train")


def test_a_column_with_a_similar_name_is_suggested(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("txt,label\na,b\n")
    with pytest.raises(InputError, match="no column 'text'; the columns are txt, label; did you mean 'txt'"):
        task_of().read(path, "train")


def test_a_line_in_another_encoding_is_reported(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(b"text,label\nok,yes\ncaf\xe9,no\n")
    with pytest.raises(InputError, match="train.csv line 3: not UTF-8; name the encoding, such as --encoding cp1252"):
        task_of().read(path, "train")


def test_a_single_table_is_the_training_set_and_its_groups_are_read(tmp_path):
    rows = [{"text": f"text {k}", "label": "ab"[k % 2], "author": [" x ", "", None, 3][k % 4]} for k in range(8)]
    path = write_table(tmp_path / "all.jsonl", rows)
    plain, task = task_of(), task_of(group="author")
    assert find_splits(task, path) == {"train": [path]}
    assert plain.fit(plain, {"train": [path]}).source_rows.groups(path, "train") is None
    fitted = task.fit(task, {"train": [path]})
    assert fitted.source_rows.groups(path, "train") == ["x", "", "", "3"] * 2
    assert len(fitted.read(path, "train").examples) == 8
    with pytest.raises(InputError, match="no column 'writer'"):
        task_of(group="writer").read(path, "train")


def test_an_unknown_format_is_refused(tmp_path):
    (tmp_path / "train.ods").write_text("")
    with pytest.raises(InputError, match="unknown table format; convert the file to one of csv, tsv, jsonl"):
        task_of().read(tmp_path / "train.ods", "train")


def test_predictions_are_written_with_the_ids_of_the_table(tmp_path):
    path = write_table(tmp_path / "test.jsonl", [{"text": "a", "name": "first"}, {"text": "b", "name": "second"}])
    task = task_of(id="name")
    examples = task.read(path, "test").examples
    (written,) = task.write(tmp_path / "out", "test", examples, ["yes", SpanPrediction("A man", 0.0)])
    assert written == tmp_path / "out/predictions-test.jsonl"
    assert [json.loads(line) for line in written.read_text().splitlines()] == [
        {"id": "first", "prediction": "yes"},
        {"id": "second", "prediction": "A man"},
    ]
