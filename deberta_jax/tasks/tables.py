"""Rows of a custom table: csv, tsv, jsonl, json, parquet or xlsx."""

import csv
import itertools
import sys
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError, list_names
from deberta_jax.tasks.examples import ReadReport
from deberta_jax.tasks.file_types import check_signature, check_text, read_head
from deberta_jax.tasks.jsonl import load_json, numbered_objects
from deberta_jax.tasks.rows import UnusableRow

FORMATS = "csv", "tsv", "jsonl", "json", "parquet", "xlsx"
# Those whose rows have numbers, not lines.
_NUMBERED = {"json", "parquet", "xlsx"}
Row = dict[str, Any]
_SEPARATORS = ",;\t|"
# A field with more lines than this was opened by a double quote that is part of the text.
_MAX_FIELD_LINES = 100


def table_format(path: Path) -> str:
    """The suffix of a file, without its dot and in lower case."""
    return path.suffix.lower().removeprefix(".")


def location(path: Path, number: int) -> str:
    """Where the row with a number is: "line 7" of a text file, "row 7" of another table."""
    return f"{'row' if table_format(path) in _NUMBERED else 'line'} {number}"


def table_rows(path: Path, report: ReadReport) -> Iterator[tuple[int, Row]]:
    """Yield the number and the fields of each row; rows that cannot be read are reported as skipped.

    Rows of a csv or tsv file in which all cells are empty are left out.
    """
    suffix = table_format(path)
    if suffix not in FORMATS:
        raise InputError(f"{path}: unknown table format; convert the file to one of {', '.join(FORMATS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if suffix == "jsonl":
        check_text(path, read_head(path))
        yield from numbered_objects(path, report)
        return
    for number, row in numbered_rows(path):
        if isinstance(row, UnusableRow):
            report.skip(str(row), number)
        elif suffix not in ("csv", "tsv") or any(field.strip() for field in row.values()):
            yield number, row


def numbered_rows(path: Path) -> Iterator[tuple[int, Row | UnusableRow]]:
    """Yield the number of each row with its fields, or with the reason why it cannot be read.

    The number is that of the first line in a csv or tsv file, that of the sheet in an xlsx file, else the position.
    Lines without a cell are left out.
    """
    suffix = table_format(path)
    if suffix == "json":
        yield from _json_rows(path)
    elif suffix == "parquet":
        check_signature(path, b"PAR1", "a parquet file")
        yield from _parquet_rows(path)
    elif suffix == "xlsx":
        check_signature(path, b"PK", "an Excel file")
        yield from _excel_rows(path)
    else:
        check_text(path, read_head(path))
        yield from _csv_rows(path, "\t" if suffix == "tsv" else None)


def _json_rows(path: Path) -> Iterator[tuple[int, Row | UnusableRow]]:
    check_text(path, read_head(path))
    values = load_json(path)
    if isinstance(values, dict) and isinstance(values.get("data"), list):
        values = values["data"]
    if not isinstance(values, list):
        raise InputError(f"{path}: expected a list of objects; a file with one object per line must end with .jsonl")
    for number, value in enumerate(values, 1):
        yield number, value if isinstance(value, dict) else UnusableRow("not a JSON object")


def _parquet_rows(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"{path}: parquet requires pyarrow: pip install 'deberta-jax[prep]'") from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read as parquet: {str(error).splitlines()[0]}") from None


def _excel_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """The rows of the first sheet; formulas have the values that Excel stored."""
    try:
        import openpyxl
    except ImportError:
        raise InputError(f"{path}: xlsx requires openpyxl: pip install 'deberta-jax[excel]'") from None
    try:
        with warnings.catch_warnings():
            # About features that have no effect on values.
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
            rows = list(_sheet_rows(path, book.worksheets))
            book.close()
    except InputError:
        raise
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as xlsx: {(str(error) or repr(error)).splitlines()[0]}") from None
    yield from rows


def _sheet_rows(path: Path, sheets: Sequence[Any]) -> Iterator[tuple[int, Row]]:
    if not sheets:
        raise InputError(f"{path}: the file has no sheet with a table")
    # Some programs store wrong dimensions.
    sheets[0].reset_dimensions()
    numbered = enumerate(sheets[0].iter_rows(values_only=True), 1)
    header = ["" if name is None else str(name).strip() for name in next(numbered, (1, ()))[1]]
    width = max((index for index, name in enumerate(header, 1) if name), default=0)
    _check_header(path, header[:width])
    for number, cells in numbered:
        if any(cell is not None for cell in cells):
            yield number, dict(itertools.zip_longest(header[:width], cells[:width]))


def _csv_rows(path: Path, separator: str | None) -> Iterator[tuple[int, Row | UnusableRow]]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            if separator is None:
                separator = _guess_separator(file.readline())
                file.seek(0)
            rows = csv.reader(file, delimiter=separator)
            header = [name.strip() for name in next(rows, [])]
            _check_header(path, header)
            header_lines = rows.line_num
            start = rows.line_num + 1
            for fields in rows:
                number, start = start, rows.line_num + 1
                if start - number > _MAX_FIELD_LINES:
                    raise InputError(
                        f"{path} line {number}: a double quote opens a field of {start - number:,} lines; close it, "
                        "or double a quote that is part of the text"
                    )
                if len(fields) != len(header) and not any(field.strip() for field in fields):
                    continue
                if len(fields) != len(header):
                    yield number, UnusableRow(f"{len(fields)} fields instead of {len(header)}")
                    continue
                yield number, dict(zip(header, fields, strict=True))
            if start == header_lines + 1 and header_lines > 1:
                raise InputError(f"{path} line 1: a double quote opens a header of {header_lines} lines; close it")
        except UnicodeDecodeError:
            raise InputError(f"{path} line {_line_not_utf8(path)}: not UTF-8; save the table as UTF-8") from None
        except csv.Error as error:
            raise InputError(f"{path} line {rows.line_num}: {error}") from None


def _guess_separator(line: str) -> str:
    """Return the separator that splits a header into the most fields, a comma if several do."""
    counts = {sign: len(next(csv.reader([line], delimiter=sign), [""])) for sign in _SEPARATORS}
    return max(_SEPARATORS, key=lambda sign: (counts[sign], sign == ","))


def _check_header(path: Path, header: list[str]) -> None:
    if not any(header):
        raise InputError(f"{path}: no header; the first line must name the columns")
    if len(set(header)) < len(header):
        raise InputError(f"{path}: duplicate column names in {list_names(header)}")


def _line_not_utf8(path: Path) -> int:
    """Return the number of the first line that is not UTF-8."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            line.decode()
        except UnicodeDecodeError:
            return number
    return 1
