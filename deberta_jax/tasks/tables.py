"""Rows of a user's own table: csv, tsv, jsonl, json or parquet."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.tasks.examples import ReadReport
from deberta_jax.tasks.jsonl import numbered_objects, whole_json

Row = dict[str, Any]
FORMATS = "csv", "tsv", "jsonl", "json", "parquet"
_SEPARATORS = ",;\t|"
# A field that goes over more lines than this was opened by a quote that is part of the text.
_LONGEST_FIELD = 100


def table_rows(path: Path, account: ReadReport) -> Iterator[tuple[int, Row]]:
    """Number and fields of each row: of a text file the line where it begins, else its place from 1."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise InputError(f"{path}: a table ends with {', '.join(FORMATS)}; rename it, or write it as one of these")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if kind == "jsonl":
        yield from numbered_objects(path, account)
    elif kind == "json":
        yield from _objects(path, account)
    elif kind == "parquet":
        yield from _parquet(path)
    else:
        yield from _separated(path, account, "\t" if kind == "tsv" else None)


def _objects(path: Path, account: ReadReport) -> Iterator[tuple[int, Row]]:
    values = whole_json(path)
    if isinstance(values, dict) and isinstance(values.get("data"), list):
        values = values["data"]
    if not isinstance(values, list):
        raise InputError(f"{path}: a list of objects is wanted; one object a line is .jsonl")
    for number, value in enumerate(values, 1):
        if isinstance(value, dict):
            yield number, value
        else:
            account.skip("no JSON object", number)


def _parquet(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"{path}: parquet needs pyarrow: pip install 'deberta-jax[prep]'") from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read as parquet: {str(error).splitlines()[0]}") from None


def _separated(path: Path, account: ReadReport, separator: str | None) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            first = file.readline()
            file.seek(0)
            if separator is None:
                counts = {sign: len(next(csv.reader([first], delimiter=sign), [""])) for sign in _SEPARATORS}
                separator = max(_SEPARATORS, key=lambda sign: (counts[sign], sign == ","))
            rows = csv.reader(file, delimiter=separator)
            header = [name.strip() for name in next(rows, [])]
            if not any(header):
                raise InputError(f"{path}: empty; a first line with the columns' names is wanted")
            if len(set(header)) < len(header):
                raise InputError(f"{path}: two columns have the same name, of {', '.join(header)}")
            begin = rows.line_num + 1
            for fields in rows:
                number, begin = begin, rows.line_num + 1
                if begin - number > _LONGEST_FIELD:
                    raise InputError(
                        f"{path}, line {number}: a double quote opens a field that goes on for {begin - number:,} "
                        "lines; close it, or write a quote that is part of a text twice"
                    )
                if not any(field.strip() for field in fields):
                    continue
                if len(fields) != len(header):
                    account.skip(f"{len(fields)} fields in place of {len(header)}", number)
                    continue
                yield number, dict(zip(header, fields, strict=True))
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 after line {_line_of(path, error)}: save the table as UTF-8") from None
        except csv.Error as error:
            raise InputError(f"{path}, line {rows.line_num}: {error}") from None


def _line_of(path: Path, error: UnicodeDecodeError) -> int:
    """How many lines before the first that is not UTF-8."""
    for number, line in enumerate(path.read_bytes().split(b"\n")):
        try:
            line.decode()
        except UnicodeDecodeError:
            return number
    return 0
