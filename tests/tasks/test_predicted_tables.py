"""Predictions for a test table have its rows, its columns and its format."""

import csv
import gzip
import json

import pytest
from toy_tables import write_table

from deberta_jax.finetuning.custom import find_task
from deberta_jax.tasks.columns import Columns
from deberta_jax.tasks.examples import ReadReport, SpanPrediction
from deberta_jax.tasks.tables import FORMATS, TableOptions, table_rows

ROWS = [{"name": f"t{k}", "text": f'Line one,\n"two" {k}; drei', "prediction": "x"} for k in range(3)]


def written(tmp_path, path, predictions, probabilities=None, encoding=None, **columns):
    """The file with the predictions for a test table."""
    task = find_task("generic", Columns(**columns), encoding=encoding)
    task = task.fit(task, {"test": [path]})
    assert len(task.read(path, "test").examples) == len(predictions)
    probabilities = probabilities or [None] * len(predictions)
    return task.source_rows.write(tmp_path / "predictions", path, "test", predictions, probabilities)


def rows_of(path, **options):
    return [row for _, row in table_rows(path, ReadReport("f"), TableOptions(**options))]


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_is_written_as_it_is_read(tmp_path, suffix):
    path = write_table(tmp_path / f"test.{suffix}", ROWS)
    shares = [{"no": 0.25, "yes": 0.75}, {"no": 1.0, "yes": 0.0}, {"no": 0.5, "yes": 0.5}]
    target = written(tmp_path, path, ["yes", "no", "yes"], shares)
    assert target == tmp_path / f"predictions/test.{suffix}"
    rows = rows_of(target)
    assert [{name: row[name] for name in ROWS[0]} for row in rows] == ROWS
    # The table has a column called "prediction".
    assert list(rows[0]) == ["name", "text", "prediction", "prediction.1", "probability_no", "probability_yes"]
    assert [row["prediction.1"] for row in rows] == ["yes", "no", "yes"]
    assert [float(row["probability_yes"]) for row in rows] == [0.75, 0.0, 0.5]


def test_rows_that_cannot_be_used_have_empty_cells_and_are_counted(tmp_path, caplog):
    path = tmp_path / "test.csv.gz"
    path.write_bytes(gzip.compress("text;id\nea;1\n;2\nab;3\n".encode("latin-1")))
    target = written(tmp_path, path, [2.5, -1.0], kind="regression", encoding="latin-1")
    assert target.read_text() == "text;id;prediction\nea;1;2.5\n;2;\nab;3;-1.0\n"
    assert caplog.messages == [f"{target}: 1 of 3 rows have no prediction"]


def test_a_table_without_a_header_and_one_where_quotes_are_text_keep_their_layout(tmp_path):
    path = tmp_path / "test.tsv"
    path.write_text('5" disk\ta\nsay "hi\tb\nplain "word"\tc\n')
    target = written(tmp_path, path, ["x", "y", "z"], header=("text", "id"))
    assert target.read_text() == '5" disk\ta\tx\nsay "hi\tb\ty\nplain "word"\tc\tz\n'


def test_several_numbers_label_sets_spans_and_tags_have_their_columns(tmp_path):
    path = write_table(tmp_path / "test.csv", [{"text": "a b"}])
    columns = {"kind": "regression", "label": ("x", "y")}
    assert rows_of(written(tmp_path, path, [(1.5, 2.0)], **columns)) == [
        {"text": "a b", "prediction_x": "1.5", "prediction_y": "2.0"}
    ]
    sets = rows_of(written(tmp_path, path, [("p", "q")], [{"q": 0.9, "p": 0.8}], kind="multi_label", separator="+"))
    assert sets == [{"text": "a b", "prediction": "p+q", "probability_p": "0.8", "probability_q": "0.9"}]
    path = write_table(tmp_path / "test.jsonl", [{"words": ["a", "b"]}])
    target = written(tmp_path, path, [("O", "B-X")], [{"O": [0.1, 0.2]}], kind="token")
    assert json.loads(target.read_text()) == {"words": ["a", "b"], "prediction": ["O", "B-X"]}
    path = write_table(tmp_path / "test.csv", [{"question": "q", "context": "c"}])
    assert rows_of(written(tmp_path, path, [SpanPrediction("c", 0.0)], kind="extractive_qa"))[0]["prediction"] == "c"
    many = {str(k): 0.01 for k in range(51)}
    path = write_table(tmp_path / "test.csv", [{"text": "a"}])
    assert rows_of(written(tmp_path, path, ["0"], [many])) == [{"text": "a", "prediction": "0"}]


def test_a_choice_is_written_as_the_labels_are(tmp_path):
    rows = [{"prompt": "p", "A": "x", "B": "y", "C": "z", "answer": "C"}]
    columns = {"kind": "multiple_choice"}
    shares = [{"0": 0.2, "1": 0.7, "2": 0.1}]
    names = {"prompt": "text", "answer": "label"}
    rows = [{names.get(name, name): cell for name, cell in row.items()} for row in rows]
    for label, expected in (("C", "B"), ("z", "y"), (2, 1)):
        path = write_table(tmp_path / "test.jsonl", [row | {"label": label} for row in rows])
        (row,) = rows_of(written(tmp_path, path, [1], shares, choices=("A", "B", "C"), **columns))
        assert row["prediction"] == expected
        assert (row["probability_A"], row["probability_B"], row["probability_C"]) == (0.2, 0.7, 0.1)


def test_each_word_of_a_table_with_one_word_per_row_has_its_tag(tmp_path):
    path = tmp_path / "test.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("sentence", "words", "tags"))
        table.writerows([(k // 3, f"w{k}" if k != 4 else "", "") for k in range(6)])
    target = written(tmp_path, path, [("O", "B-X", "I-X"), ("O", "B-Y")], kind="token", sentence="sentence")
    assert [row["prediction"] for row in rows_of(target)] == ["O", "B-X", "I-X", "O", "", "B-Y"]
