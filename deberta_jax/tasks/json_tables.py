"""Tables in JSON: a list of objects, one object per line, or columns as pandas writes them."""

import json
from collections.abc import Iterator
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.tasks.examples import ReadReport
from deberta_jax.tasks.rows import UnusableRow
from deberta_jax.tasks.text_files import TextFile

Row = dict[str, Any]
# The fields of an object that hold its table, besides "data".
_TABLES = "rows", "examples", "items", "records", "instances", "results", "train"


def json_rows(file: TextFile, report: ReadReport, *, are_lines: bool) -> Iterator[tuple[int, Row | UnusableRow]]:
    """Yield the number of each row, or of each line, with its fields or with the reason why it cannot be read.

    A file that is not one JSON document is read as lines if its first line is an object, and a file of lines as a
    document if its first line is the beginning of one.
    """
    first = next((line.strip() for _, line in file.lines() if line.strip()), "")
    if are_lines and not (first.startswith("[") or first == "{"):
        yield from _lines(file)
        return
    text = "".join(file.blocks())
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        if are_lines or _is_object(first.removesuffix(",")):
            yield from _lines(file)
            return
        raise InputError(f"{file.path} line {error.lineno} column {error.colno}: not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file.path}: not valid JSON: {error}") from None
    if are_lines:
        report.note("the file is one JSON document, not one object per line; its rows are numbered from 1")
    rows = rows_of(document)
    if rows is None:
        raise InputError(
            f"{file.path}: expected a list of objects, an object per line, or an object with a list for each column"
        )
    for number, value in enumerate(rows, 1):
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], dict):
            # spaCy writes a text and its annotations.
            value = {"text": value[0], **value[1]}
        yield number, value if isinstance(value, dict) else UnusableRow("not a JSON object")


def _lines(file: TextFile) -> Iterator[tuple[int, Row | UnusableRow]]:
    for number, line in file.lines():
        if not line.strip():
            continue
        try:
            # Some programs write a comma after each object.
            value = json.loads(line.rstrip().removesuffix(","))
        except (ValueError, RecursionError):
            yield number, UnusableRow("not valid JSON")
            continue
        yield number, value if isinstance(value, dict) else UnusableRow("not a JSON object")


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def rows_of(document: Any) -> list[Any] | None:
    """Return the rows of a document; None if it is no table."""
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        return None
    columns, data = document.get("columns"), document.get("data")
    if isinstance(columns, list) and isinstance(data, list):
        # The orientation "split" of pandas.
        return [dict(zip(columns, cells, strict=False)) if isinstance(cells, list) else cells for cells in data]
    if isinstance(data, list):
        return data
    if document and all(isinstance(column, dict) for column in document.values()):
        # The orientations "index" and "columns" of pandas.
        first, *others = document.values()
        if all(map(str.isdecimal, document)) and not all(map(str.isdecimal, first)):
            return list(document.values())
        if all(column.keys() == first.keys() for column in others):
            return [{name: column[key] for name, column in document.items()} for key in first]
    if document and all(isinstance(column, list) for column in document.values()):
        if len({len(column) for column in document.values()}) == 1:
            if len(document) == 1 and _are_objects(next(iter(document.values()))):
                return next(iter(document.values()))
            return [dict(zip(document, cells, strict=True)) for cells in zip(*document.values(), strict=True)]
        return None
    return next((document[name] for name in _TABLES if _are_objects(document.get(name))), [document])


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)
