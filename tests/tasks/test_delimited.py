"""Rows of csv and tsv files: none is lost, and what is not obvious is reported."""

import csv
import gzip
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deberta_jax.compression import SUFFIXES
from deberta_jax.errors import InputError
from deberta_jax.tasks.delimited import UNCLOSED, is_quoted, quoted_records
from deberta_jax.tasks.examples import ReadReport
from deberta_jax.tasks.tables import TableOptions, table_rows

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=12)


def read(path, **options):
    """The rows of a table and its report."""
    report = ReadReport("f")
    return [row for _, row in table_rows(path, report, TableOptions(**options))], report


def write(path, *lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def numbered(text):
    return list(enumerate(text.removesuffix("\n").split("\n"), 1))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 3).flatmap(lambda size: st.lists(st.tuples(*[TEXTS] * size), max_size=6)), st.sampled_from(",;\t")
)
def test_records_are_the_inverse_of_writing_them(rows, separator):
    rows = [("a", "b", "c")[: len(rows[0]) if rows else 1], *rows]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator, lineterminator="\n").writerows(rows)
    records = list(quoted_records(numbered(file.getvalue()), separator, ReadReport("f")))
    assert [tuple(record.fields) for record in records] == rows
    assert sum(record.lines for record in records) == len(numbered(file.getvalue()))


def test_unclosed_quotes_of_a_tsv_file_are_text_and_no_row_is_lost(tmp_path):
    texts = ['"open', "b", 'c" said he', 'in "the" middle', '"whole"', '"', 'f""', "g"]
    path = write(tmp_path / "train.tsv", "text\tlabel", *[f"{text}\t{k % 2}" for k, text in enumerate(texts)])
    rows, _ = read(path)
    assert [row["text"] for row in rows] == texts


def test_two_unclosed_quotes_of_a_tsv_file_do_not_make_a_row(tmp_path):
    lines = ["text\tlabel", '"a\t0', "b\t1", 'c"\t0', "d\t1"]
    assert [row["text"] for row in read(write(tmp_path / "train.tsv", *lines))[0]] == ['"a', "b", 'c"', "d"]


def test_quoted_fields_of_a_tsv_file_are_read_as_written(tmp_path):
    path = tmp_path / "train.tsv"
    texts = ["plain", "two\nlines", 'a "quote"', "a\ttab", "last"]
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([("text", "label"), *((t, "1") for t in texts)])
    rows, report = read(path)
    assert [row["text"] for row in rows] == texts
    assert report.notes == ["1 rows have several lines, in double quotes"]
    assert not is_quoted(numbered('a\tb\n"open\t1\n"x" y\t2\n'), "\t")


def test_an_unclosed_quote_of_a_csv_file_costs_no_row(tmp_path):
    lines = [f"row {number},no" for number in range(300)]
    path = write(tmp_path / "train.csv", "text,label", 'bad "start,no', '"open,yes', *lines)
    rows, report = read(path)
    assert [row["text"] for row in rows] == ['bad "start', '"open', *(f"row {number}" for number in range(300))]
    assert report.repairs == {UNCLOSED: 1}


def test_rows_between_two_quotes_of_a_csv_file_are_reported_with_their_lines(tmp_path):
    rows, report = read(write(tmp_path / "train.csv", "text,label", '"a,0', "b,1", 'c",0', "d,1"))
    assert [row["text"] for row in rows] == ["a,0\nb,1\nc", "d"]
    assert report.notes[0].startswith("lines 2 to 4 are one row: a double quote opens in the first and closes in the")


def test_a_quoted_cell_may_have_any_number_of_lines(tmp_path):
    text = "\n".join(f"line {number}, of many" for number in range(5000))
    rows, _ = read(write(tmp_path / "train.csv", "text,label", f'"{text}",yes', "short,no"))
    assert [row["text"] for row in rows] == [text, "short"]


@pytest.mark.parametrize(
    ("header", "row", "columns"),
    [
        ("v1,v2,,,", "a,b,,,", {"v1": "a", "v2": "b", "column 3": "", "column 4": "", "column 5": ""}),
        (",text", "0,a", {"column 1": "0", "text": "a"}),
        ("text,text,label", "a,b,c", {"text": "a", "text.1": "b", "label": "c"}),
        ("text,label", "a,b,,", {"text": "a", "label": "b"}),
        ('"text",label', "a,b", {"text": "a", "label": "b"}),
    ],
)
def test_columns_may_be_unnamed_or_have_the_same_name(tmp_path, header, row, columns):
    rows, report = read(write(tmp_path / "train.csv", header, row))
    assert rows == [columns]
    assert report.notes == (
        ["column 2 is called 'text.1', because there are several with the name 'text'"] if "text.1" in columns else []
    )


def test_columns_without_a_header_are_named(tmp_path):
    path = write(tmp_path / "train.tsv", "a man\t2", "a dog\t3")
    assert read(path, header=("text", "label"))[0] == [{"text": "a man", "label": "2"}, {"text": "a dog", "label": "3"}]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_compressed_tables_are_read(tmp_path, suffix):
    content = b"text,label\na man,1\n"
    path = tmp_path / f"train.csv{suffix}"
    if suffix == ".zst":
        import zstandard

        path.write_bytes(zstandard.ZstdCompressor().compress(content))
    else:
        import bz2
        import lzma

        path.write_bytes({".gz": gzip, ".bz2": bz2, ".xz": lzma}[suffix].compress(content))
    assert read(path)[0] == [{"text": "a man", "label": "1"}]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="cannot be decompressed"):
        read(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_names_the_encoding(tmp_path, encoding):
    path = tmp_path / "train.csv"
    path.write_bytes("text,label\ncafé,1\n".encode(encoding))
    assert read(path)[0] == [{"text": "café", "label": "1"}]


def test_another_encoding_is_named_and_never_guessed(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes("text,label\nfine,0\ncafé,1\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"train.csv line 3: not UTF-8; name the encoding, such as --encoding cp1252"):
        read(path)
    assert read(path, encoding="latin-1")[0][1]["text"] == "café"
    with pytest.raises(InputError, match=r"line 3: not ascii; name another --encoding"):
        read(path, encoding="ascii")
    with pytest.raises(InputError, match="encoding is 'klingon'; Python knows"):
        read(path, encoding="klingon")


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
def test_lines_may_end_as_on_any_system(tmp_path, end):
    path = tmp_path / "train.tsv"
    path.write_bytes(end.join(["text\tlabel", "a\t1", "", "b\t2"]).encode())
    assert [row["label"] for row in read(path)[0]] == ["1", "2"]
