"""Examples of `deberta-jax predict`: lines of a file, a stream or the command line, decoded and checked."""

import codecs
import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax.errors import InputError, list_names
from deberta_jax.inference.pipelines import PipelineSpec

# A longer line is an error: a file without line ends must not fill the memory.
MAX_LINE_BYTES = 1 << 22
# Fields of the output, which no example may have.
PREDICTION, ARRAYS = "prediction", "arrays"
Fields = dict[str, Any]


class Source(NamedTuple):
    """Numbered lines. `total` and `sha256` are None for a stream, which can be read only once."""

    name: str
    open: Callable[[], io.BufferedIOBase]
    # Whether each line is a text; otherwise it is a JSON object.
    plain_text: bool = False
    total: int | None = None
    sha256: str | None = None

    def lines(self, skip: int) -> Iterator[tuple[int, bytes]]:
        """Lines with their numbers, which start at 1, without the first `skip` lines."""
        with self.open() as file:
            for number, line in itertools.islice(enumerate(_read_lines(file), 1), skip, None):
                yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def source_of_options(examples: Iterable[Fields]) -> Source:
    """The examples of the command line, as if they were lines of a file."""
    content = b"".join(encode_line(fields) for fields in examples)
    return _file_source("the command line", lambda: io.BytesIO(content), plain_text=False)


def source_of_file(path: Path) -> Source:
    """Lines of a file: texts for `.txt`, else JSON objects; `-` (standard input), pipes and devices are streams."""
    if str(path) == "-":
        return Source("standard input", lambda: open(0, "rb", closefd=False))
    if not path.exists():
        raise InputError(f"{path}: no such file")
    plain_text = path.suffix == ".txt"
    if is_stream(path):
        return Source(str(path), lambda: path.open("rb"), plain_text)
    return _file_source(str(path), lambda: path.open("rb"), plain_text)


def _file_source(name: str, open_file: Callable[[], io.BufferedIOBase], plain_text: bool) -> Source:
    """A source that can be read again, with its number of lines and its SHA-256."""
    digest, newlines, last = hashlib.sha256(), 0, b"\n"
    with open_file() as file:
        while block := file.read(1 << 20):
            digest.update(block)
            newlines += block.count(b"\n")
            last = block[-1:]
    return Source(name, open_file, plain_text, newlines + (last != b"\n"), digest.hexdigest())


def _read_lines(file: io.BufferedIOBase) -> Iterator[bytes]:
    """Lines with their line ends; a line that is too long is cut one byte after the limit."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES)
        yield line


def is_stream(path: Path) -> bool:
    """Whether a path is `-`, a pipe or a device: it is read or written once, from the start."""
    return str(path) == "-" or (path.exists() and not path.is_file() and not path.is_dir())


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


def example_of(fields: Fields, spec: PipelineSpec) -> tuple:
    """The example of a pipeline from the fields of a line; raises InputError for missing or wrong fields."""
    for key in (PREDICTION, ARRAYS):
        if key in fields:
            raise InputError(f'the field "{key}" is reserved for results: rename it')
    readers = {"choices": _choices, "entities": _spans}
    values = [readers.get(key, _text)(fields, key) for key in spec.fields]
    if spec.pairs:
        pair = next((key for key in ("pair", "text_pair") if fields.get(key) is not None), None)
        values += [] if pair is None else [_text(fields, pair)]
    elif "pair" in fields:
        raise InputError('the field "pair" is not used by this task: remove it')
    return tuple(values)


def _text(fields: Fields, key: str) -> str:
    value = _value(fields, key)
    if not isinstance(value, str):
        raise InputError(f'"{key}" must be a string, not {_json_type(value)}')
    if not value.strip():
        raise InputError(f'"{key}" is empty')
    return value


def _choices(fields: Fields, key: str) -> list[str]:
    value = _value(fields, key)
    if not isinstance(value, list) or not value or not all(isinstance(choice, str) for choice in value):
        raise InputError(f'"{key}" must be a list of strings, not {_json_type(value)}')
    return value


def _spans(fields: Fields, key: str) -> list[tuple[int, int]]:
    value = _value(fields, key)
    if not isinstance(value, list) or not all(_is_span(span) for span in value):
        raise InputError(f'"{key}" must be a list of [start, end], in characters of the passage')
    return [(start, end) for start, end in value]


def _is_span(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(number) is int for number in value)


def _value(fields: Fields, key: str) -> Any:
    if key not in fields:
        names = list_names(f'"{name}"' for name in fields)
        raise InputError(f'no field "{key}" (fields: {names[:100] or "none"})')
    return fields[key]


def _json_type(value: object) -> str:
    """The name of a value's type in JSON."""
    types = {str: "a string", bool: "true or false", list: "a list", dict: "an object", type(None): "null"}
    return types.get(type(value), "a number")
