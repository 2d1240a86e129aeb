"""Examples of `deberta-jax predict`: records of a file or of the command line, decoded and checked."""

import datetime
import decimal
import json
import math
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from deberta_jax.cli.predict_options import FieldNames
from deberta_jax.errors import InputError, list_names
from deberta_jax.inference.pipelines import PipelineSpec
from deberta_jax.tasks.cells import cell_value, list_items
from deberta_jax.tasks.rows import UnusableRow

# A longer line is an error: a file without line ends must not fill the memory.
MAX_LINE_BYTES = 1 << 22
# Fields of the output, which no example may have.
PREDICTION, ARRAYS = "prediction", "arrays"
# The parts of examples that are lists; in a text cell, their items are a JSON list or have this separator.
_LISTS = {"choices", "documents", "entities"}
_SEPARATOR = "|"
Fields = dict[str, Any]


def decode_line(line: bytes, *, plain_text: bool) -> Fields:
    """The fields of the example on a line; raises InputError for an invalid line."""
    if len(line) > MAX_LINE_BYTES:
        raise InputError(f"longer than {MAX_LINE_BYTES >> 20} MiB")
    try:
        text = line.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start + 1}") from None
    if plain_text:
        return {"text": text}
    if not text.strip():
        raise InputError("expected a JSON object, but the line is empty")
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"invalid JSON: {error.msg} at character {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"this JSON cannot be parsed: {error}") from None
    if not isinstance(fields, dict):
        raise InputError(f"expected a JSON object, not {_json_type(fields)}")
    encode_line(fields)
    return fields


def encode_line(fields: Fields) -> bytes:
    """A line of JSON; raises InputError for values that JSON or UTF-8 cannot represent."""
    try:
        return json.dumps(fields, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise InputError(f"contains the lone surrogate U+{code:04X}, which is not a character: fix the text") from None
    except RecursionError:
        raise InputError("is nested too deeply") from None
    except ValueError:
        raise InputError("contains NaN or an infinite number") from None


def decode_row(row: Fields, spec: PipelineSpec, names: FieldNames) -> Fields:
    """The fields of a row of a table as values of JSON; cells that contain a list may be texts."""
    fields = {name: _plain(name, value) for name, value in row.items()}
    for key in _LISTS & set(spec.fields):
        parts = names.of(key)
        if len(parts) == 1 and isinstance(fields.get(parts[0]), str):
            fields[parts[0]] = _list(fields[parts[0]], _SEPARATOR)
    encode_line(fields)
    return fields


def _plain(name: str, value: Any) -> Any:
    """A cell as a value of JSON: numbers that are not finite as null, dates and decimal numbers as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(name, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | decimal.Decimal | uuid.UUID):
        return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)
    raise InputError(f'"{name}" contains {type(value).__name__}, which JSON cannot represent: remove the column')


def add_text(fields: Fields, spec: PipelineSpec, names: FieldNames) -> Fields:
    """The fields with the text of words, for a task that is trained on words, if there is no text."""
    if not spec.words or names.text in fields or names.words not in fields:
        return fields
    return fields | {names.text: " ".join(map(str, _list(fields[names.words], None)))}


def _list(cell: Any, separator: str | None) -> list[Any]:
    """The items of a cell, also of the object of texts of a data set of the hub."""
    try:
        value = cell_value(cell)
        return list_items(value.get("text") if isinstance(value, dict) else cell, separator)
    except UnusableRow as error:
        raise InputError(str(error)) from None


def check_names(
    present: Sequence[str],
    spec: PipelineSpec,
    names: FieldNames,
    *,
    given: Collection[str] = (),
    word: Literal["field", "column"] = "field",
) -> None:
    """Raise InputError for missing, unused and reserved fields; the parts in `given` are not in the example."""
    for reserved in (PREDICTION, ARRAYS):
        if reserved in present:
            raise InputError(f'the {word} "{reserved}" is reserved for results: rename it')
    required = [(key, name) for key in spec.fields if key not in given for name in names.of(key)]
    if spec.pairs and names.pair is not None:
        required.append(("pair", names.pair))
    for key, name in required:
        if name not in present:
            others = list_names([f'"{other}"' for other in present]) or "none"
            hint = f"; name the one to use with --columns.{key}" if word == "column" else ""
            raise InputError(f'no {word} "{name}" ({word}s: {others}){hint}')
    if not spec.pairs and "pair" in present:
        raise InputError(f'the {word} "pair" is not used by this task: remove it')


def example_of(fields: Fields, spec: PipelineSpec, names: FieldNames, given: Mapping[str, Any] | None = None) -> tuple:
    """The example of a pipeline from the fields of a record; raises InputError for missing or wrong fields.

    `given` are parts of every example that are not in the record.
    """
    given = given or {}
    check_names(list(fields), spec, names, given=given)
    values = [given[key] if key in given else _READERS.get(key, _text)(fields, *names.of(key)) for key in spec.fields]
    pair = names.pair_in([name for name, value in fields.items() if value is not None]) if spec.pairs else None
    if pair is not None and fields[pair] is not None:
        values.append(_text(fields, pair))
    return tuple(values)


def _text(fields: Fields, name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise InputError(f'"{name}" must be a string, not {_json_type(value)}')
    if not value.strip():
        raise InputError(f'"{name}" is empty')
    return value


def _choices(fields: Fields, *names: str) -> list[str]:
    """The texts of a list, or of one field each."""
    if len(names) > 1:
        return [_text(fields, name) for name in names]
    value = fields[names[0]]
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value = value["text"]
    if value == []:
        raise InputError(f'"{names[0]}" is empty')
    if not isinstance(value, list) or not all(isinstance(choice, str) for choice in value):
        raise InputError(f'"{names[0]}" must be a list of strings, not {_json_type(value)}')
    return value


def _spans(fields: Fields, name: str) -> list[tuple[int, int]]:
    value = fields[name]
    if not isinstance(value, list) or not all(_is_span(span) for span in value):
        raise InputError(f'"{name}" must be a list of [start, end], in characters of the passage')
    return [(start, end) for start, end in value]


def _is_span(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(number) is int for number in value)


def _json_type(value: object) -> str:
    """The name of a value's type in JSON."""
    types = {str: "a string", bool: "true or false", list: "a list", dict: "an object", type(None): "null"}
    return types.get(type(value), "a number")


_READERS: dict[str, Callable[..., Any]] = {"choices": _choices, "documents": _choices, "entities": _spans}
