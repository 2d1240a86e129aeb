"""A user's own table in every format and of every kind; what is wrong with it is said by file and line."""

import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deberta_jax.errors import InputError
from deberta_jax.tasks.custom import Columns, own_task, read_table
from deberta_jax.tasks.examples import ReadReport
from deberta_jax.tasks.tables import FORMATS, table_rows

ROWS = [{"text": f'Line one,\n"two" {k}; three', "pair": f"p\t{k}", "label": ("no", "yes")[k % 2]} for k in range(8)]


def write(path, rows):
    kind = path.suffix[1:]
    if kind in ("csv", "tsv"):
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter="," if kind == "csv" else "\t")
            table.writeheader()
            table.writerows(rows)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\r\n" for row in rows))
    elif kind == "json":
        path.write_text(json.dumps(rows))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_gives_the_same_examples(tmp_path, ending):
    path = write(tmp_path / f"train.{ending}", ROWS)
    examples, (account,) = own_task(Columns(pair="pair")).read(path, "train")
    assert [(e.text, e.pair, e.label) for e in examples] == [(r["text"], r["pair"].strip(), r["label"]) for r in ROWS]
    assert (account.read, account.used) == (8, 8)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=12)] * 2), max_size=8
    ),
    st.sampled_from(",;\t|"),
)
def test_what_a_writer_wrote_is_read(tmp_path_factory, rows, sign):
    path = tmp_path_factory.mktemp("tables") / "train.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=sign).writerows([("a", "b"), *rows])
    account = ReadReport("f")
    found = [tuple(row.values()) for _, row in table_rows(path, account)]
    assert found == [row for row in rows if any(field.strip() for field in row)]


def kind_of(kind, row, **columns):
    import tempfile
    from pathlib import Path

    path = write(Path(tempfile.mkdtemp()) / "train.jsonl", [row])
    return read_table(path, "train", Columns(kind=kind, **columns)).examples[0]


def test_each_kind_reads_its_columns():
    assert kind_of("regression", {"text": "a", "label": "2.5"}).label == 2.5
    assert kind_of("multi_label", {"text": "a", "label": "x|y"}).label == ("x", "y")
    assert kind_of("multi_label", {"text": "a", "label": ["y", "x"]}).label == ("x", "y")
    assert kind_of("multi_label", {"text": "a", "label": ""}).label == ()
    assert kind_of("token", {"words": "A man", "tags": "O B-X"}).tags == ("O", "B-X")
    assert kind_of("token", {"words": ["A man", "x"], "tags": '["O", "B-X"]'}).words == ("A man", "x")
    span = {"question": "q", "context": "a man, a man", "answer": "man"}
    assert kind_of("extractive_qa", span).answers == (("man", 2),)
    assert kind_of("extractive_qa", span | {"at": 9}, answer_start="at").answers == (("man", 9),)
    assert kind_of("extractive_qa", span | {"answer": ""}).answers == ()
    choice = {"text": "t", "choices": ["x", "y"], "label": 1}
    assert kind_of("multiple_choice", choice).label == 1
    assert kind_of("multiple_choice", choice | {"label": "x"}).label == 0
    assert kind_of("multiple_choice", {"text": "t", "a": "x", "b": "y", "label": "y"}, choices=("a", "b")).pairs == (
        ("t", "x"),
        ("t", "y"),
    )


def test_tags_of_entities_become_iob2_and_others_stay():
    assert kind_of("token", {"words": "A man x", "tags": "S-X B-Y E-Y"}).tags == ("B-X", "B-Y", "I-Y")
    assert kind_of("token", {"words": "A man x", "tags": "DET NOUN B-X"}).tags == ("DET", "NOUN", "B-X")


@pytest.mark.parametrize("label", [1, 1.0, "1", "1.0", " 1 "])
def test_a_number_is_one_label_however_it_is_written(label):
    assert kind_of("single_label", {"text": "a", "label": label}).label == "1"
    assert kind_of("single_label", {"text": "a", "label": True}).label == "true"


def test_rows_that_cannot_be_used_are_accounted_for(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text,label\n" + "good,yes\n" * 100 + ",yes\ngood,\na,b,c\n")
    examples, (account,) = read_table(path, "train", Columns())
    assert len(examples) == 100
    assert account.skipped == {"no text in text": 1, "no label": 1, "3 fields in place of 2": 1}
    assert account.named[2] == f"{path}, line 104: 3 fields in place of 2"


def test_a_test_set_may_lack_labels_and_a_training_set_may_not(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text("text\nA man\n")
    assert read_table(path, "test", Columns()).examples[0].label is None
    with pytest.raises(InputError, match=r"no column 'label'; there are text"):
        read_table(path, "train", Columns())


def test_a_column_with_a_like_name_is_offered(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("txt,label\na,b\n")
    with pytest.raises(InputError, match="no column 'text'; there are txt, label; did you mean 'txt'"):
        read_table(path, "train", Columns())


def test_an_open_quote_is_named_by_its_line(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text,label\nfine,yes\n" + 'bad "start,no\n"open,yes\n' + "row,no\n" * 300)
    with pytest.raises(InputError, match=r"line 4: a double quote opens a field that goes on for .* lines"):
        read_table(path, "train", Columns())


def test_bytes_of_another_encoding_are_named_by_their_line(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(b"text,label\nok,yes\ncaf\xe9,no\n")
    with pytest.raises(InputError, match="not UTF-8 after line 2: save the table as UTF-8"):
        read_table(path, "train", Columns())


def test_a_table_alone_is_shared_out_by_its_texts(tmp_path):
    rows = [{"text": f"text {k % 150}", "label": "ab"[k % 2]} for k in range(300)]
    path = write(tmp_path / "all.csv", rows)
    task = own_task(Columns(), alone=True)
    train, dev = (task.read(path, split).examples for split in ("train", "dev"))
    assert len(train) + len(dev) == 300
    assert 10 <= len(dev) <= 50
    assert not {example.text for example in train} & {example.text for example in dev}


def test_a_format_that_is_not_known_is_refused(tmp_path):
    (tmp_path / "train.xlsx").write_text("")
    with pytest.raises(InputError, match="a table ends with csv, tsv, jsonl, json, parquet"):
        read_table(tmp_path / "train.xlsx", "train", Columns())
