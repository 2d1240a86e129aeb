"""Rows of a custom table: csv, tsv, jsonl, json, parquet or xlsx."""

import difflib
import itertools
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax.errors import InputError, list_names
from deberta_jax.tasks.delimited import (
    Record,
    escaped_records,
    escapes_quotes,
    is_quoted,
    quoted_records,
    raw_records,
    split_fields,
)
from deberta_jax.tasks.examples import ReadReport
from deberta_jax.tasks.file_types import check_signature
from deberta_jax.tasks.json_tables import Row, json_rows
from deberta_jax.tasks.rows import UnusableRow
from deberta_jax.tasks.text_files import TextFile, plain_name

FORMATS = "csv", "tsv", "jsonl", "json", "parquet", "xlsx"
# Other suffixes of a format.
_ALIASES = {"ndjson": "jsonl", "jsonlines": "jsonl", "tab": "tsv"}
SUFFIXES = (*FORMATS, *_ALIASES)
# Those whose rows have numbers, not lines.
_NUMBERED = {"json", "parquet", "xlsx"}
_SEPARATORS = ",;\t|"
# The first line of a page that a server sent in place of a file, in lower case.
_PAGES = "<!doctype html", "<html"


class TableOptions(NamedTuple):
    """How to read a table.

    `encoding` is that of a text file, by default UTF-8 or what its byte-order mark says, `header` the names of the
    columns of a csv or tsv file without a header line.
    """

    encoding: str | None = None
    header: tuple[str, ...] = ()


DEFAULT = TableOptions()


def table_format(path: Path) -> str:
    """The format of a file by its suffix, in lower case; for a compressed file, by the suffix before."""
    suffix = plain_name(path).suffix.lower().removeprefix(".")
    return _ALIASES.get(suffix, suffix)


def location(path: Path, number: int) -> str:
    """Where the row with a number is: "line 7" of a text file, "row 7" of another table."""
    return f"{'row' if table_format(path) in _NUMBERED else 'line'} {number}"


def table_rows(path: Path, report: ReadReport, options: TableOptions = DEFAULT) -> Iterator[tuple[int, Row]]:
    """Yield the number and the fields of each row; rows that cannot be read are reported as skipped.

    Rows of a csv or tsv file in which all cells are empty are left out.
    """
    suffix = table_format(path)
    if suffix not in FORMATS:
        raise InputError(f"{path}: unknown table format; convert the file to one of {', '.join(FORMATS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    for number, row in numbered_rows(path, options, report):
        if isinstance(row, UnusableRow):
            report.skip(str(row), number if suffix not in _NUMBERED else f"row {number}")
        elif suffix not in ("csv", "tsv") or any(field.strip() for field in row.values()):
            yield number, row


def numbered_rows(
    path: Path, options: TableOptions = DEFAULT, report: ReadReport | None = None
) -> Iterator[tuple[int, Row | UnusableRow]]:
    """Yield the number of each row with its fields, or with the reason why it cannot be read.

    The number is that of the first line in a csv or tsv file, that of the sheet in an xlsx file, else the position.
    Lines without a cell are left out. The report receives notes.
    """
    report = report or ReadReport(str(path))
    suffix = table_format(path)
    if suffix in ("json", "jsonl"):
        yield from json_rows(TextFile(path, options.encoding), report, are_lines=suffix == "jsonl")
    elif suffix == "parquet":
        check_signature(path, b"PAR1", "a parquet file")
        yield from _parquet_rows(path)
    elif suffix == "xlsx":
        check_signature(path, b"PK", "an Excel file")
        yield from _excel_rows(path, report)
    else:
        yield from _csv_rows(path, "\t" if suffix == "tsv" else None, options, report)


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


def _excel_rows(path: Path, report: ReadReport) -> Iterator[tuple[int, Row]]:
    """The rows of the first sheet with cells; formulas have the values that Excel stored."""
    try:
        import openpyxl
    except ImportError:
        raise InputError(f"{path}: xlsx requires openpyxl: pip install 'deberta-jax[excel]'") from None
    try:
        with warnings.catch_warnings():
            # About features that have no effect on values.
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
            rows = list(_sheet_rows(path, book.worksheets, report))
            book.close()
    except InputError:
        raise
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as xlsx: {(str(error) or repr(error)).splitlines()[0]}") from None
    yield from rows


def _sheet_rows(path: Path, sheets: Sequence[Any], report: ReadReport) -> Iterator[tuple[int, Row]]:
    numbered: Iterator[tuple[int, Sequence[Any]]] = iter(())
    for sheet in sheets:
        # Some programs store wrong dimensions.
        sheet.reset_dimensions()
        rows = enumerate(sheet.iter_rows(values_only=True), 1)
        numbered = itertools.dropwhile(lambda row: all(cell is None for cell in row[1]), rows)
        if (first := next(numbered, None)) is not None:
            break
    else:
        raise InputError(f"{path}: the file has no sheet with a table")
    if len(sheets) > 1:
        report.note(f"of {len(sheets)} sheets the first with cells is read, {sheet.title!r}")
    header = ["" if name is None else str(name).strip() for name in first[1]]
    width = max((index for index, name in enumerate(header, 1) if name), default=0)
    names = column_names(path, header[:width], report)
    for number, cells in numbered:
        if any(cell is not None for cell in cells):
            yield number, dict(itertools.zip_longest(names, cells[:width]))


def _csv_rows(
    path: Path, separator: str | None, options: TableOptions, report: ReadReport
) -> Iterator[tuple[int, Row | UnusableRow]]:
    file = TextFile(path, options.encoding)
    if separator is None:
        _check_first_line(path, next(file.lines(), (1, ""))[1])
        separator, lines = separated_lines(file)
        is_escaped = escapes_quotes(file.lines(), separator)
        records = (escaped_records if is_escaped else quoted_records)(lines, separator, report)
    else:
        records = _tab_separated(file, separator, report)
    # Empty rows may be above the header.
    records = itertools.dropwhile(lambda record: not any(map(str.strip, record.fields)), records)
    first = next(records, None)
    if first is None:
        raise InputError(f"{path}: the file is empty")
    header = [name.strip() for name in first.fields]
    names = list(options.header) or column_names(path, header, report)
    if options.header and header != names:
        records = itertools.chain([first], records)
    elif options.header:
        report.note(f"line {first.number} is a header line with the names of --columns.header, and is left out")
    several = 0
    for record in records:
        fields = record.fields
        if len(fields) > len(names) and not any(field.strip() for field in fields[len(names) :]):
            fields = fields[: len(names)]
        if len(fields) == len(names):
            several += record.lines > 1
            yield record.number, dict(zip(names, fields, strict=True))
        elif any(field.strip() for field in fields):
            of_header = " of --columns.header" if options.header else ""
            yield record.number, UnusableRow(f"{len(fields)} fields instead of {len(names)}{of_header}")
    if several:
        report.note(f"{several:,} rows have several lines, in double quotes")


def _check_first_line(path: Path, line: str) -> None:
    if line.lstrip().lower().startswith(_PAGES):
        raise InputError(f"{path}: this is a web page, not a table; download the file itself")


def _tab_separated(file: TextFile, separator: str, report: ReadReport) -> Iterator[Record]:
    if is_quoted(file.lines(), separator):
        return quoted_records(file.lines(), separator, report, rows_are_lines=True)
    return raw_records(file.lines(), separator)


def separated_lines(file: TextFile) -> tuple[str, Iterator[tuple[int, str]]]:
    """Return the separator of a csv file, and its lines without the line of Excel that names it ("sep=;").

    It is the separator that splits the header into the most fields, a comma if several do.
    """
    lines = file.lines()
    number, line = next((item for item in lines if item[1].strip()), (1, ""))
    if len(line) == len("sep=;") and line.startswith("sep="):
        return line[-1], lines
    counts = {sign: len(split_fields(line, sign).fields) for sign in _SEPARATORS}
    separator = max(_SEPARATORS, key=lambda sign: (counts[sign], sign == ","))
    return separator, itertools.chain([(number, line)], lines)


def column_names(path: Path, header: Sequence[str], report: ReadReport) -> list[str]:
    """Return the names of the columns: an unnamed one is "column 3", the second of two equal names is "text.1"."""
    if not any(header):
        raise InputError(f"{path}: no header; the first line must name the columns, or name them with --columns.header")
    names: list[str] = []
    for number, name in enumerate(header, 1):
        unique, copies = name or f"column {number}", 0
        while unique in names:
            copies += 1
            unique = f"{name}.{copies}"
        if copies:
            report.note(f"column {number} is called {unique!r}, because there are several with the name {name!r}")
        names.append(unique)
    return names


def check_columns(path: Path, names: Iterable[str], required: Sequence[str | None]) -> None:
    """Raise InputError for a required column that a table lacks."""
    names = list(names)
    missing = next((name for name in required if name is not None and name not in names), None)
    if missing is not None:
        similar = difflib.get_close_matches(missing, names, 1)
        hint = f"; did you mean {similar[0]!r}?" if similar else ""
        suffix = table_format(path)
        if suffix == "tsv" and len(names) == 1 and any(sign in names[0] for sign in _SEPARATORS):
            hint = "; the columns are not separated by tabs: name the file .csv"
        elif not hint and suffix in ("csv", "tsv"):
            hint = "; if the first line is not a header, name all columns with --columns.header"
        elif not hint and suffix == "xlsx":
            hint = "; the names of columns must be in the first row that is not empty"
        raise InputError(f"{path}: no column {missing!r}; the columns are {list_names(names)}{hint}")
