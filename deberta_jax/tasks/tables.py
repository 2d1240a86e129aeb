"""Rows of a custom table: csv, tsv, jsonl, json or parquet."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError, list_names
from deberta_jax.tasks.examples import ReadReport
from deberta_jax.tasks.jsonl import load_json, numbered_objects

FORMATS = "csv", "tsv", "jsonl", "json", "parquet"
_SEPARATORS = ",;\t|"
# A field with more lines than this was opened by a double quote that is part of the text.
_MAX_FIELD_LINES = 100


def table_rows(path: Path, report: ReadReport) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the fields of each row: the number of its first line in a text file, else its position."""
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise InputError(f"{path}: unknown table format; convert the file to one of {', '.join(FORMATS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if suffix == "jsonl":
        yield from numbered_objects(path, report)
    elif suffix == "json":
        yield from _json_rows(path, report)
    elif suffix == "parquet":
        yield from _parquet_rows(path)
    else:
        yield from _csv_rows(path, report, "\t" if suffix == "tsv" else None)


def _json_rows(path: Path, report: ReadReport) -> Iterator[tuple[int, dict[str, Any]]]:
    values = load_json(path)
    if isinstance(values, dict) and isinstance(values.get("data"), list):
        values = values["data"]
    if not isinstance(values, list):
        raise InputError(f"{path}: expected a list of objects; a file with one object per line must end with .jsonl")
    for number, value in enumerate(values, 1):
        if isinstance(value, dict):
            yield number, value
        else:
            report.skip("not a JSON object", number)


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
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


def _csv_rows(path: Path, report: ReadReport, separator: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            if separator is None:
                separator = _guess_separator(file.readline())
                file.seek(0)
            rows = csv.reader(file, delimiter=separator)
            header = [name.strip() for name in next(rows, [])]
            _check_header(path, header)
            start = rows.line_num + 1
            for fields in rows:
                number, start = start, rows.line_num + 1
                if start - number > _MAX_FIELD_LINES:
                    raise InputError(
                        f"{path} line {number}: a double quote opens a field of {start - number:,} lines; close it, "
                        "or double a quote that is part of the text"
                    )
                if not any(field.strip() for field in fields):
                    continue
                if len(fields) != len(header):
                    report.skip(f"{len(fields)} fields instead of {len(header)}", number)
                    continue
                yield number, dict(zip(header, fields, strict=True))
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
