"""Tables that `deberta-jax predict` reads, and files of other types, which give one line."""

import datetime
import decimal
import gzip
import json
import sys
import zipfile

import pytest
from json_lines import printed_lines, read_lines, write_lines
from toy_tables import write_table

from deberta_jax.cli import predict
from deberta_jax.cli.main import main
from deberta_jax.tasks.file_types import binary_type

ROWS = [{"id": f"r{number}", "text": f"A fox, {number}\nand a dog", "pair": "It is."} for number in range(4)]


def rejected(capfd, *words):
    """The one line of a command that fails before it writes anything."""
    capfd.readouterr()
    assert main(["predict", *map(str, words)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("deberta-jax predict: ") and err.count("\n") == 1
    return err.removeprefix("deberta-jax predict: ").strip()


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "xlsx", "json"])
def test_each_format_gives_the_results_of_json_lines(suffix, reranker, tmp_path, capfd):
    command = ["predict", reranker, "--task", "score", "--input"]
    assert main([*command, write_lines(tmp_path / "in.jsonl", *ROWS)]) == 0
    expected = printed_lines(capfd)
    assert main([*command, str(write_table(tmp_path / f"in.{suffix}", ROWS))]) == 0
    out, err = capfd.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == expected
    assert f"in.{suffix}: 4 rows (" in err


def test_columns_have_the_names_of_the_options(reranker, tmp_path, capfd):
    rows = [{"review": row["text"], "title": row["pair"]} for row in ROWS]
    path = str(write_table(tmp_path / "in.csv", rows))
    assert main(["predict", reranker, "--input", path, "--columns.text", "review", "--columns.pair", "title"]) == 0
    renamed = printed_lines(capfd)
    assert main(["predict", reranker, "--input", write_lines(tmp_path / "in.jsonl", *ROWS)]) == 0
    assert [row["prediction"] for row in renamed] == [row["prediction"] for row in printed_lines(capfd)]
    assert [{key: row[key] for key in ("review", "title")} for row in renamed] == rows
    missing = rejected(capfd, reranker, "--input", path)
    assert missing.endswith('no column "text" (columns: "review", "title"); name the one to use with --columns.text')
    options = ["--columns.text", "review", "--columns.pair", "head"]
    assert rejected(capfd, reranker, "--input", path, *options).endswith("with --columns.pair")
    assert rejected(capfd, reranker, "--text", "x", "--columns.text", "review") == (
        "--columns names the columns of a file: --input"
    )


def test_cells_and_columns_give_lists(model_folders, reranker, tmp_path, capfd):
    folder = model_folders["multiple_choice"]
    tables = {
        "one.csv": [{"text": "fox", "choices": "eats|is"}, {"text": "fox", "choices": '["eats", "is"]'}],
        "list.parquet": [{"text": "fox", "choices": ["eats", "is"]}],
        "many.csv": [{"text": "fox", "a": "eats", "b": "is"}],
    }
    predictions = []
    for name, rows in tables.items():
        options = ["--columns.choices", "a", "b"] if name == "many.csv" else []
        path = str(write_table(tmp_path / name, rows))
        assert main(["predict", folder, "--input", path, *options]) == 0
        predictions += [row["prediction"] for row in printed_lines(capfd)]
    assert predictions == predictions[:1] * 4
    path = str(write_table(tmp_path / "rank.csv", [{"query": "fox", "documents": "a dog|sea"}]))
    assert main(["predict", reranker, "--task", "rank", "--input", path]) == 0
    [row] = printed_lines(capfd)
    assert row["documents"] == ["a dog", "sea"] and len(row["prediction"]) == 2


@pytest.mark.parametrize(("name", "words"), [("in.csv", "The quick fox"), ("in.parquet", ["The", "quick", "fox"])])
def test_the_words_of_a_table_are_a_text(name, words, model_folders, tmp_path, capfd):
    path = write_table(tmp_path / name, [{"words": words, "tags": "O O O"}])
    assert main(["predict", model_folders["token_classification"], "--input", str(path)]) == 0
    [row] = printed_lines(capfd)
    assert row["text"] == "The quick fox" and row["words"] == words
    assert all(row["text"][span["start"] : span["end"]] == span["text"] for span in row["prediction"])


def test_invalid_rows_are_reported_in_their_place(reranker, tmp_path, capfd):
    (tmp_path / "in.csv").write_text('text,label\n"a\nfox",1\nbad\n"",2\n,\ncat,dog,3\ndog,4\n')
    assert main(["predict", reranker, "--task", "score", "--input", str(tmp_path / "in.csv")]) == 2
    out, err = capfd.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row.get("text") for row in rows] == ["a\nfox", None, None, None, None, "dog"]
    assert rows[1:5] == [
        {"line": 4, "error": "1 fields instead of 2"},
        {"line": 5, "error": '"text" is empty'},
        {"line": 6, "error": '"text" is empty'},
        {"line": 7, "error": "3 fields instead of 2"},
    ]
    assert "in.csv, line 5: " in err
    assert err.endswith("deberta-jax predict: 4 of 6 rows are invalid\n")
    assert main(["predict", reranker, "--input", str(write_table(tmp_path / "in.json", [ROWS[0], 3]))]) == 2
    assert "in.json, row 2: not a JSON object" in capfd.readouterr().err


def test_a_table_is_resumed_after_its_last_complete_row(reranker, tmp_path, capfd, monkeypatch):
    rows = [{"text": f"fox {number}" if number != 2 else ""} for number in range(9)]
    path, output = write_table(tmp_path / "in.csv", rows), tmp_path / "out.jsonl"
    command = ["predict", reranker, "--input", str(path), "--output", str(output)]
    with monkeypatch.context() as patch:
        patch.setattr("deberta_jax.cli.predict_output._remove_settings", lambda started: None)
        assert main(command) == 2
    content = output.read_bytes()
    output.write_bytes(b"".join(content.splitlines(keepends=True)[:5]) + b'{"te')
    changed = ["--columns.text", "label"]
    assert "no column" in rejected(capfd, *command[1:], *changed)
    assert main(command) == 2
    assert output.read_bytes() == content
    assert capfd.readouterr().err.startswith(f"{output}: resuming after line 5\n")
    assert [row.get("line") for row in read_lines(output)] == [None, None, 4] + [None] * 6


def test_twenty_invalid_rows_are_listed_and_the_others_counted(reranker, tmp_path, capfd):
    path = write_lines(tmp_path / "in.jsonl", *[{"text": ""}] * 1300, {"text": "fox"})
    assert main(["predict", reranker, "--input", path]) == 2
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 1301
    lines = err.splitlines()
    assert len(lines) == predict.MAX_REPORTED + 3
    assert lines[-3] == f"{path}: 1,280 more invalid lines are not listed"
    assert lines[-1] == "deberta-jax predict: 1,300 of 1,301 lines are invalid"


def test_values_that_json_does_not_have_are_written_as_text_or_null(reranker, tmp_path, capfd):
    row = {
        "text": "fox",
        "day": datetime.date(2024, 5, 17),
        "number": float("nan"),
        "price": decimal.Decimal("1.50"),
        "nested": {"a": [float("inf"), 2]},
    }
    assert main(["predict", reranker, "--input", str(write_table(tmp_path / "in.parquet", [row]))]) == 0
    [result] = printed_lines(capfd)
    assert result["day"] == "2024-05-17"
    assert (result["number"], result["price"], result["nested"]) == (None, "1.50", {"a": [None, 2]})
    path = write_table(tmp_path / "bytes.parquet", [{"text": "fox", "image": b"x"}])
    message = rejected(capfd, reranker, "--input", path)
    assert message.endswith('"image" contains bytes, which JSON cannot represent: remove the column')


def test_cells_of_excel_have_their_values(reranker, tmp_path, capfd):
    rows = [{"text": "fox", "n": 7, "day": datetime.datetime(2024, 5, 17), "x": None, "ok": True}, {"text": 3}]
    assert main(["predict", reranker, "--input", str(write_table(tmp_path / "in.xlsx", rows))]) == 2
    first, second = printed_lines(capfd)
    assert (first["n"], first["day"], first["x"], first["ok"]) == (7, "2024-05-17T00:00:00", None, True)
    assert second == {"line": 3, "error": '"text" must be a string, not a number'}


def test_excel_files_need_a_package(reranker, tmp_path, capfd, monkeypatch):
    path = write_table(tmp_path / "in.xlsx", ROWS)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    message = "xlsx requires openpyxl: pip install 'deberta-jax[excel]'"
    assert rejected(capfd, reranker, "--input", path) == f"{path}: {message}"


PNG, ZIP = b"\x89PNG\r\n\x1a\n" + bytes(40), b"PK\x03\x04" + bytes(40)
JSON_LINES = b'{"text": "fox"}\n{"text": "dog"}\n'
CSV = b"text,label\nfox,1\n" * 30
NO_OBJECT = "none of the first 20 lines is a JSON object"
WRONG = {
    "image.jsonl": (PNG, "expected text, but this is a PNG image"),
    "image.csv": (PNG, "expected text, but this is a PNG image"),
    "image.txt": (PNG, "expected text, but this is a PNG image"),
    "image.parquet": (PNG, "not a parquet file, but a PNG image"),
    "document.txt": (b"%PDF-1.7\nfox", "expected text, but this is a PDF document"),
    "archive.csv": (ZIP, "a zip archive or an Office file; extract it, or name an Excel table .xlsx"),
    "archive.xlsx": (ZIP, "cannot be read as xlsx: "),
    "cut.parquet": (b"PAR1" + bytes(20), "cannot be read as parquet: "),
    "table.csv": (gzip.compress(CSV), "this is gzip data; decompress it first"),
    "cut.csv.gz": (gzip.compress(CSV)[:-9], "cannot be decompressed"),
    "table.jsonl": (CSV, f'{NO_OBJECT}, as {{"text": "..."}} is; texts must be in a .txt file'),
    "table": (b"text\nfox\n", "none of the first 2 lines is a JSON object"),
    "one.jsonl": (b"fox\n", "line 1 is not a JSON object"),
    "list.jsonl": (b'[{"text": "fox"}]', "a list of objects must be in a .json file"),
    "lines.csv": (JSON_LINES, "the first line is not a header but"),
    "lines.xlsx": (JSON_LINES, "not an Excel file, but text; name it .csv, .tsv, .jsonl or .txt"),
    "table.xlsx": (b"PAR1" + bytes(20), "not an Excel file, but a parquet file; name it .parquet"),
    "cut.json": (b'[{"text": "fox"},\n {"text"', "cut.json line 2 column 9: not valid JSON"),
    "wide.csv": ("text\nfox\n".encode("utf-16-le"), "this is UTF-16 text; save it as UTF-8"),
    "wide.txt": ("the fox and the dog".encode("utf-16-le"), "this is UTF-16 text; save it as UTF-8"),
    "old.csv": (
        "text\ncaf\xe9\n".encode("latin-1"),
        "old.csv line 2: not UTF-8; name the encoding, such as --encoding cp1252",
    ),
    "quote.csv": (b'"text\nfox\n', 'no column "text"'),
    "empty.csv": (b"", "the file is empty"),
    "empty.xlsx": (b"", "the file is empty"),
    "noise.txt": (bytes(range(256)) * 20, "this is binary data"),
    "weights.txt": (b'\x10\x02\0\0\0\0\0\0{"a": 1}', "this is a safetensors file"),
    "reserved.csv": (b"text,prediction\nfox,1\n", 'the column "prediction" is reserved for results: rename it'),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_of_the_wrong_type_gives_one_line(name, reranker, tmp_path, capfd):
    content, message = WRONG[name]
    (tmp_path / name).write_bytes(content)
    error = rejected(capfd, reranker, "--input", tmp_path / name, "--output", tmp_path / "out.jsonl")
    assert str(tmp_path / name) in error
    assert message in error
    assert not (tmp_path / "out.jsonl").exists()


def test_an_archive_that_is_no_workbook_gives_one_line(reranker, tmp_path, capfd):
    with zipfile.ZipFile(tmp_path / "in.xlsx", "w") as archive:
        archive.writestr("a.txt", "fox")
    assert "cannot be read as xlsx" in rejected(capfd, reranker, "--input", tmp_path / "in.xlsx")


def test_text_is_not_taken_for_binary_data():
    for text in ("", "fox", "日本語 😀" * 2000, "a\tb\x1b[0m\f\r\n", "a [MASK] \0 {", "\ufeffa"):
        assert binary_type(text.encode()[:4096]) is None
    # Lines of another encoding are reported one by one.
    assert binary_type("caf\xe9\n".encode("latin-1") * 100) is None


@pytest.mark.parametrize(
    ("content", "lines"), [(b'{"text": "fox"}\n', 1), (b'{"text": "fox"}\n{"text": "dog"}\n', 2)], ids=["one", "two"]
)
def test_lines_of_objects_may_be_in_a_json_file(content, lines, reranker, tmp_path, capfd):
    (tmp_path / "in.json").write_bytes(content)
    assert main(["predict", reranker, "--input", str(tmp_path / "in.json")]) == 0
    assert len(printed_lines(capfd)) == lines


def test_a_table_without_rows_has_no_results(reranker, tmp_path, capfd):
    (tmp_path / "in.csv").write_text("text\n")
    assert main(["predict", reranker, "--input", str(tmp_path / "in.csv")]) == 0
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("name", ["in.csv.gz", "in.jsonl.gz", "in.json.gz"])
def test_compressed_files_are_read(name, reranker, tmp_path, capfd):
    plain = tmp_path / name.removesuffix(".gz")
    write_table(plain, ROWS)
    (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
    assert main(["predict", reranker, "--task", "score", "--input", str(plain)]) == 0
    expected = printed_lines(capfd)
    assert main(["predict", reranker, "--task", "score", "--input", str(tmp_path / name)]) == 0
    assert printed_lines(capfd) == expected


@pytest.mark.parametrize(
    ("name", "content"), [("in.csv", "text\ncaf\xe9\n"), ("in.txt", "caf\xe9\n"), ("in.jsonl", '{"text": "caf\xe9"}\n')]
)
def test_another_encoding_is_named_or_has_a_mark(name, content, reranker, tmp_path, capfd):
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    assert main(["predict", reranker, "--input", str(tmp_path / name), "--encoding", "latin-1"]) == 0
    [row] = printed_lines(capfd)
    assert row["text"] == "caf\xe9"
    (tmp_path / name).write_bytes(content.encode("utf-16"))
    assert main(["predict", reranker, "--input", str(tmp_path / name)]) == 0
    assert printed_lines(capfd) == [row]
    assert "--encoding is for files" in rejected(capfd, reranker, "--input", "-", "--encoding", "latin-1")


def test_a_cell_that_only_looks_like_a_list_is_an_invalid_row(model_folders, tmp_path, capfd):
    rows = [{"text": "fox", "choices": "['eats', 'is']"}, {"text": "fox", "choices": "[eats, is]"}]
    path = str(write_table(tmp_path / "in.csv", rows))
    assert main(["predict", model_folders["multiple_choice"], "--input", path]) == 2
    valid, invalid = printed_lines(capfd)
    assert valid["choices"] == ["eats", "is"]
    assert invalid == {"line": 3, "error": "'[eats, is]' looks like a list, but is not one"}
