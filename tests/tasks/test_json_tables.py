"""Tables in JSON, as data sets and pandas write them."""

import json

import pytest

from deberta_jax.errors import InputError
from deberta_jax.tasks.examples import ReadReport
from deberta_jax.tasks.tables import table_rows

ROWS = [{"text": "a man", "label": 1}, {"text": "a dog", "label": 0}]
LINES = "\n".join(map(json.dumps, ROWS))


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=1),
        LINES + "\n",
        "\ufeff" + LINES,
        json.dumps({"data": ROWS, "version": "1"}),
        json.dumps({"examples": ROWS}),
        json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}),
        json.dumps({name: {str(k): row[name] for k, row in enumerate(ROWS)} for name in ROWS[0]}),
        json.dumps({"columns": list(ROWS[0]), "index": [0, 1], "data": [list(row.values()) for row in ROWS]}),
    ],
)
def test_a_json_file_has_objects_lines_or_columns(tmp_path, content):
    path = tmp_path / "train.json"
    path.write_text(content, encoding="utf-8")
    assert [row for _, row in table_rows(path, ReadReport("f"))] == ROWS


def test_pairs_of_a_text_and_an_object_are_rows(tmp_path):
    path = tmp_path / "train.json"
    path.write_text('[["Nora runs", {"entities": [[0, 4, "PER"]]}], ["no", 3]]')
    report = ReadReport("f")
    assert list(table_rows(path, report)) == [(1, {"text": "Nora runs", "entities": [[0, 4, "PER"]]})]
    assert report.errors == ["f row 2: not a JSON object"]


def test_a_json_document_of_another_form_is_refused(tmp_path):
    path = tmp_path / "train.json"
    path.write_text('[{"text": 1},\n {"text"]')
    with pytest.raises(InputError, match="line 2 column 9: not valid JSON"):
        list(table_rows(path, ReadReport("f")))
    path.write_text('{"a": [1, 2], "b": [1]}')
    with pytest.raises(InputError, match="expected a list of objects, an object per line, or an object with a list"):
        list(table_rows(path, ReadReport("f")))
