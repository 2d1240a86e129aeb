"""Tables with the faults of exports: quotes, separators, headers, sheets, names of files, marks in place of labels."""

import io
import json

import pytest
from toy_tables import write_table

from deberta_jax.errors import InputError
from deberta_jax.finetuning.custom import find_task
from deberta_jax.tasks.catalogue import find_splits, labels_of, load, without_placeholders
from deberta_jax.tasks.columns import Columns
from deberta_jax.tasks.examples import Examples, ReadReport, TextExample
from deberta_jax.tasks.tables import DEFAULT, TableOptions, check_columns, table_rows

ROWS = [{"text": 'say "a, b" \\ c', "label": "yes"}, {"text": 'no "c"', "label": "no"}]


@pytest.fixture
def read(tmp_path):
    """A function that returns the examples, the report and the fitted task of a table with text and label."""

    def read(kind, cells, name="train.csv", labels=(), **columns):
        rows = [{"text": f"text {number}", "label": cell} for number, cell in enumerate(cells)]
        path = write_table(tmp_path / name, rows)
        task = find_task("generic", Columns(kind=kind, **columns), labels=labels)
        task = task.fit(task, {"train": [path]})
        examples, (report,) = load(task, [path], "train")
        return examples, report, task

    return read


def rows_of(path, content, options=DEFAULT):
    path.write_text(content, encoding="utf-8")
    report = ReadReport("f")
    return [row for _, row in table_rows(path, report, options)], report


def test_quotes_may_be_escaped_by_a_backslash(tmp_path):
    rows, report = rows_of(tmp_path / "t.csv", 'text,label\n"say \\"a, b\\" \\\\ c",yes\n"no \\"c\\"",no\n')
    assert rows == ROWS and report.notes == ["double quotes in cells are escaped by a backslash"]
    assert not report.repairs


def test_a_backslash_before_a_quote_is_text_where_quotes_are_doubled(tmp_path):
    rows, report = rows_of(tmp_path / "t.csv", 'text,label\n"C:\\dir\\",yes\n"print(\\""x\\"")",no\n')
    assert [row["text"] for row in rows] == ["C:\\dir\\", 'print(\\"x\\")'] and not report.notes


def test_spaces_may_surround_quoted_cells(tmp_path):
    rows, report = rows_of(tmp_path / "t.csv", 'label, text\nyes, "a, ""b"""\nno, "c" \n')
    assert rows == [{"label": "yes", "text": 'a, "b"'}, {"label": "no", "text": "c"}] and not report.repairs


@pytest.mark.parametrize("start", ["sep=;\n", "\n\n", ";\n", "sep=;\r\n"])
def test_lines_above_the_header_may_be_empty_or_name_the_separator(tmp_path, start):
    rows, _ = rows_of(tmp_path / "t.csv", start + "text;label\na, b;yes\n")
    assert rows == [{"text": "a, b", "label": "yes"}]


def test_a_header_line_that_repeats_the_named_columns_is_left_out(tmp_path):
    options = TableOptions(header=("text", "label"))
    rows, report = rows_of(tmp_path / "t.csv", "text,label\na,yes\n", options)
    assert rows == [{"text": "a", "label": "yes"}] and "line 1 is a header line" in report.notes[0]
    _, report = rows_of(tmp_path / "t.csv", "a,b,yes\n", options)
    assert report.errors == ["f line 1: 3 fields instead of 2 of --columns.header"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "the file is empty"),
        ("t.csv", "\n\n", "the file is empty"),
        ("t.csv", "<!DOCTYPE html>\n<p>", "a web page, not a table; download the file itself"),
        ("t.csv", "version https://git-lfs.github.com/spec/v1\noid x\n", "a pointer of Git LFS; .*git lfs pull"),
    ],
)
def test_files_that_are_no_tables_are_named(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        rows_of(tmp_path / name, content)


def test_columns_that_are_not_separated_by_tabs_are_reported(tmp_path):
    with pytest.raises(InputError, match="not separated by tabs: name the file .csv"):
        check_columns(tmp_path / "t.tsv", ["text,label"], ["text"])


def test_a_table_without_rows_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\n")
    with pytest.raises(InputError, match="train.csv: the file has no rows"):
        load(find_task("generic", Columns()), [tmp_path / "train.csv"], "train")


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS, indent=1),
        "".join(json.dumps(row) + ",\n" for row in ROWS),
        "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
        json.dumps({"version": 1, "rows": ROWS}, indent=1),
        json.dumps({str(k): row for k, row in enumerate(ROWS)}, indent=1),
    ],
)
def test_a_document_named_jsonl_is_read_and_a_comma_may_end_a_line(tmp_path, content):
    assert rows_of(tmp_path / "t.jsonl", content)[0] == ROWS


def test_one_object_with_a_list_is_one_row(tmp_path):
    row = {"text": "Nora", "spans": [{"start": 0, "end": 4, "label": "PER"}]}
    assert rows_of(tmp_path / "t.json", json.dumps(row))[0] == [row]


def test_rows_of_documents_have_numbers_and_not_lines(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps([{"text": " ", "label": "no"}] + ROWS * 20, indent=1))
    assert load(find_task("generic", Columns()), [path], "train").reports[0].errors == [
        f"{path} row 1: no text in 'text'"
    ]


def test_ids_and_labels_may_be_fields_of_objects(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"doc": {"id": 7, "body": "a"}, "label": {"name": "yes"}}\n')
    columns = Columns(text="doc.body", id="doc.id", label=("label.name",))
    (example,) = load(find_task("generic", columns), [path], "train").examples
    assert (example.id, example.text, example.label) == ("7", "a", "yes")
    with pytest.raises(InputError, match="an object without probabilities; .* --columns.label label.name"):
        load(find_task("generic", Columns(text="doc.body")), [path], "train")


def test_the_first_sheet_with_cells_is_read(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.create_sheet("data")
    for row in ([None, None], ["text", "label"], ["a", 1.0]):
        sheet.append(row)
    content = io.BytesIO()
    book.save(content)
    (tmp_path / "t.xlsx").write_bytes(content.getvalue())
    report = ReadReport("f")
    assert list(table_rows(tmp_path / "t.xlsx", report)) == [(3, {"text": "a", "label": 1})]
    assert report.notes == ["of 2 sheets the first with cells is read, 'data'"]


def test_names_of_files_ignore_case_have_shards_and_others_are_reported(tmp_path, caplog):
    task = find_task("generic", Columns())
    for name in ("Train.CSV", "test-00000-of-00002.jsonl", "test-00001-of-00002.jsonl", "dev.csv", "dev.jsonl"):
        (tmp_path / name).write_text("text,label\n")
    names = {split: [path.name for path in paths] for split, paths in find_splits(task, tmp_path).items()}
    assert names == {
        "train": ["Train.CSV"],
        "dev": ["dev.csv"],
        "test": ["test-00000-of-00002.jsonl", "test-00001-of-00002.jsonl"],
    }
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: dev.csv is read, not dev.jsonl"]
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=r"expected train: train.csv or .* or \.\.\.; dev: .*; it contains nothing"):
        find_splits(task, tmp_path / "other")


@pytest.mark.parametrize("cells", [["[0 1 1]", "[1 0 0]"], ["[0. 1. 1.]", "[1.\n 0. 0.]"], ["[0, 1, 1]", "[1, 0, 0]"]])
def test_a_list_of_marks_is_not_a_list_of_labels(read, cells):
    examples, report, task = read("multi_label", cells)
    assert [example.label for example in examples] == [("1", "2"), ("0",)]
    assert report.notes[0] == "each cell of 'label' marks 3 labels with 0 and 1; name the labels with --labels"
    examples, _, task = read("multi_label", cells, labels=("x", "y", "z"))
    assert [example.label for example in examples] == [("y", "z"), ("x",)] and task.labels == ("x", "y", "z")
    with pytest.raises(InputError, match="'label' has 3 numbers per row, but --labels has 2 names"):
        read("multi_label", cells, labels=("x", "y"))


def test_a_list_of_probabilities_has_one_for_each_label(read):
    examples, _, task = read("multi_label", ["[0.2, 0.9]", "[1, 0]"])
    assert [example.label for example in examples] == [("1",), ("0",)] and task.labels == ("0", "1")
    assert examples[0].extra == {"probabilities": {"0": 0.2, "1": 0.9}}


def test_one_column_of_marks_is_one_label(read):
    examples, report, task = read("multi_label", [1, 0, "", 1])
    assert [example.label for example in examples] == [("label",), (), None, ("label",)]
    assert task.labels == ("label",) and "so it is one label, 'label'" in report.notes[0]
    examples, *_ = read("multi_label", ["[0]", "[0, 1]"])
    assert [example.label for example in examples] == [("0",), ("0", "1")]


@pytest.mark.parametrize(("cells", "sign"), [(["a, b", "b"], ","), (["a;b", "b;a", "c;a", "c;b"], ";")])
def test_a_separator_in_labels_is_reported(read, cells, sign):
    assert read("multi_label", cells)[1].notes == [
        f"labels contain {sign!r}; if it separates labels, use --columns.separator '{sign}'"
    ]
    assert not read("multi_label", ["Mice, Men", "Dogs"])[1].notes


def test_names_of_labels_are_the_labels_of_the_model_in_their_order(read):
    examples, _, task = read("single_label", [1, 0, 1], labels=("yes", "no", "maybe"))
    assert labels_of(task, examples) == ("yes", "no", "maybe")
    with pytest.raises(InputError, match="line 4: label '3' has no name in --labels, which names 0 to 2"):
        read("single_label", [1, 2, 3], labels=("yes", "no", "maybe"))


def test_labels_of_minus_one_in_all_columns_are_hidden(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text("text,a,b\nx,-1,-1\ny,1,0\n")
    for kind in ("multi_label", "single_label"):
        examples = load(find_task("generic", Columns(kind=kind, label=("a", "b"))), [path], "test").examples
        assert [example.answer is None for example in examples] == [True, False]


@pytest.mark.parametrize(
    ("train", "label", "is_hidden"),
    [
        (["yes", "no"], "?", True),
        (["yes", "no"], "-1", True),
        (["yes", "no"], "no", False),
        ([0.0, 5.0], -1.0, True),
        ([0.0, 5.0], 3.0, False),
        ([("a",), ("b",)], ("?",), True),
        ([("a",), ("b",)], (), False),
    ],
)
def test_a_test_set_with_one_unknown_label_is_only_predicted(train, label, is_hidden, caplog):
    splits = {
        split: Examples([TextExample(str(k), "t", None, value) for k, value in enumerate(labels)], [])
        for split, labels in {"train": train, "test": [label, label]}.items()
    }
    result = without_placeholders(splits, ("yes", "no", "a", "b"))
    assert [example.label for example in result["test"].examples] == ([None] * 2 if is_hidden else [label] * 2)
    assert result["train"] == splits["train"] and bool(caplog.records) == is_hidden


def test_labels_that_look_equal_are_logged_by_their_codes(caplog):
    examples = [TextExample(str(k), "a", None, label) for k, label in enumerate(["no", "no\u200b", "\xe9", "e\u0301"])]
    labels_of(find_task("generic", Columns()), examples)
    assert "no/no\\u200b" in caplog.text and "e\\u0301/\\xe9" in caplog.text


@pytest.mark.parametrize("cell", ["0,5", "1,000", "1.000,5"])
def test_a_number_with_a_comma_is_refused_with_advice(read, cell):
    with pytest.raises(InputError, match="is not a number; write decimals with a point"):
        read("regression", [cell])


def test_tags_separated_by_commas_are_refused(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"words": "Nora,runs", "tags": "B-PER,O"}\n{"words": "Nora, runs", "tags": "B-PER, O"}\n')
    task = find_task("generic", Columns(kind="token"))
    with pytest.raises(InputError, match="none of its 2 rows .* tags are separated by commas, 'B-PER,O'"):
        load(task.fit(task, {"train": [path]}), [path], "train")
