"""Tables in JSON: a list of objects, one object per line, or columns as pandas writes them."""

import json
from collections.abc import Iterator
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.tasks.rows import UnusableRow
from deberta_jax.tasks.text_files import TextFile

Row = dict[str, Any]


def json_rows(file: TextFile, *, are_lines: bool) -> Iterator[tuple[int, Row | UnusableRow]]:
    """Yield the number of each row, or of each line, with its fields or with the reason why it cannot be read.

    A file that is not one JSON document is read as lines if its first line is an object.
    """
    if are_lines:
        yield from _lines(file)
        return
    text = "".join(file.blocks())
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        if _is_object(text.lstrip().partition("\n")[0]):
            yield from _lines(file)
            return
        raise InputError(f"{file.path} line {error.lineno} column {error.colno}: not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file.path}: not valid JSON: {error}") from None
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
            value = json.loads(line)
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
        # The orientation "columns" of pandas.
        first, *others = document.values()
        if all(column.keys() == first.keys() for column in others):
            return [{name: column[key] for name, column in document.items()} for key in first]
    if document and all(isinstance(column, list) for column in document.values()):
        if len({len(column) for column in document.values()}) == 1:
            if len(document) == 1 and all(isinstance(item, dict) for item in next(iter(document.values()))):
                return next(iter(document.values()))
            return [dict(zip(document, cells, strict=True)) for cells in zip(*document.values(), strict=True)]
        return None
    return [document]
