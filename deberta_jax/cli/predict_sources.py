"""The inputs of `deberta-jax predict`: lines of a file or a stream, rows of a table, examples of the command line."""

import codecs
import hashlib
import io
import itertools
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax.cli.predict_examples import (
    MAX_LINE_BYTES,
    Fields,
    add_text,
    check_names,
    decode_line,
    decode_row,
    encode_line,
)
from deberta_jax.cli.predict_options import FieldNames, PredictConfig
from deberta_jax.errors import InputError
from deberta_jax.inference.names import PipelineName
from deberta_jax.inference.pipelines import PIPELINES, PipelineSpec
from deberta_jax.tasks.examples import ReadReport
from deberta_jax.tasks.file_types import HEAD_BYTES, check_text
from deberta_jax.tasks.json_tables import rows_of
from deberta_jax.tasks.rows import UnusableRow
from deberta_jax.tasks.tables import TableOptions, location, numbered_rows, table_format
from deberta_jax.tasks.text_files import TextFile, open_utf8

_log = logging.getLogger(__name__)
# If none of this many lines starts as a JSON object does, the file contains something else.
_MAX_LINES_WITHOUT_OBJECT = 20
_TABLES = "csv", "tsv", "parquet", "xlsx"
# Options that give a list to every example.
_LISTS = "choices", "documents"


class Source(NamedTuple):
    """Numbered records, each a line or the row of a table, and the function that returns the fields of a record.

    `total` and `sha256` are None for a stream, which can be read only once. `locate` says where the record with a
    number is.
    """

    name: str
    open: Callable[[], Iterator[tuple[int, Any]]]
    decode: Callable[[Any], Fields]
    total: int | None = None
    sha256: str | None = None
    unit: str = "line"
    locate: Callable[[int], str] = "line {}".format

    def records(self, skip: int = 0) -> Iterator[tuple[int, Any]]:
        """The records after the first `skip`, with their numbers."""
        return itertools.islice(self.open(), skip, None)


class Inputs(NamedTuple):
    """The records to predict, and parts of every example that are not in a record, with the SHA-256 of their file."""

    source: Source
    given: dict[str, Any]
    given_sha256: str | None = None


def read_inputs(config: PredictConfig, name: PipelineName) -> Inputs:
    """The records of the input file or of the command line, and the documents of a file, which apply to each."""
    if config.documents_file is None:
        return Inputs(_source(config, PIPELINES[name], name), {})
    if name != "rank":
        raise InputError(f"--documents-file is for rank, but the task is {name}: choose another task with --task")
    if config.documents:
        raise InputError("--documents and --documents-file exclude each other: use one of them")
    documents, sha256 = read_texts(config.documents_file, config.columns, config.encoding)
    spec = PIPELINES[name]._replace(fields=("query",))
    return Inputs(_source(config, spec, name), {"documents": documents}, sha256)


def _source(config: PredictConfig, spec: PipelineSpec, name: PipelineName) -> Source:
    """The records of the input file, or the texts of the command line as lines; lists apply to every text."""
    columns = {key: getattr(config, key) for key in ("text", "pair", "question", "context", "query", *_LISTS)}
    given = {key: values for key, values in columns.items() if values}
    if config.input is not None:
        if config.output.exists() and config.input.exists() and config.output.samefile(config.input):
            raise InputError(f"{config.output} is the --input: name another file with --output")
        if given:
            hint = "pass a file of documents as --documents-file" if "query" in given else "use one of them"
            raise InputError(f"{_listed(given)} and --input exclude each other: {hint}")
        return source_of_file(config.input, spec, config.columns, config.encoding)
    if config.columns != FieldNames() and config.documents_file is None:
        raise InputError("--columns names the columns of a file: --input")
    if unused := given.keys() - {*spec.fields, *["pair"] * spec.pairs}:
        raise InputError(f"{_listed(unused)}: not used by {name}, which takes {_listed(spec.fields)}")
    if not set(spec.fields) <= columns.keys():
        raise InputError(f"{name} takes its examples from a file: --input")
    if missing := [key for key in spec.fields if key not in given]:
        other = " or --documents-file" * ("documents" in missing)
        raise InputError(f"{name} needs {_listed(missing)}{other}, or a file of examples: --input")
    lists = {key: list(given.pop(key)) for key in _LISTS if key in given}
    if len({len(values) for values in given.values()}) > 1:
        numbers = [f"{len(values)} of --{key}" for key, values in given.items()]
        raise InputError(f"{' and '.join(numbers)}: each example needs one of each")
    return source_of_options(dict(zip(given, row, strict=True)) | lists for row in zip(*given.values(), strict=True))


def _listed(keys: Iterable[str]) -> str:
    return " and ".join(f"--{key}" for key in keys)


def source_of_options(examples: Iterable[Fields]) -> Source:
    """The examples of the command line, as if they were lines of a file."""
    content = b"".join(encode_line(fields) for fields in examples)
    return _file_source("the command line", lambda: io.BytesIO(content), plain_text=False)


def source_of_file(path: Path, spec: PipelineSpec, names: FieldNames, encoding: str | None = None) -> Source:
    """The records of a file for a pipeline; the file may be compressed.

    A table is csv, tsv, parquet, xlsx, or json with a list of objects. A `.txt` file has a text per line, any other
    file, as well as `-` (standard input), a pipe and a device, a JSON object. Raises InputError for another type of
    file, and for a table without a required column. `encoding` is that of a text file.
    """
    if encoding is not None and is_stream(path):
        raise InputError(f"{path}: --encoding is for files; convert a stream to UTF-8")
    if str(path) == "-":
        return _stream_source("standard input", lambda: open(0, "rb", closefd=False), plain_text=False)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    plain_text = table_format(path) == "txt"
    if is_stream(path):
        return _stream_source(str(path), lambda: path.open("rb"), plain_text)
    options = TableOptions(encoding)
    if table_format(path) in _TABLES or (table_format(path) == "json" and _is_json_table(path, options)):
        return _table_source(path, spec, names, options)
    return _file_source(str(path), lambda: open_utf8(TextFile(path, encoding)), plain_text)


def is_stream(path: Path) -> bool:
    """Whether a path is `-`, a pipe or a device: it is read or written once, from the start."""
    return str(path) == "-" or (path.exists() and not path.is_file() and not path.is_dir())


def _file_source(name: str, open_file: Callable[[], io.BufferedIOBase], plain_text: bool) -> Source:
    """Lines that can be read again, with their number and their SHA-256."""
    digest, newlines, last = hashlib.sha256(), 0, b"\n"
    with open_file() as file:
        while block := file.read(1 << 20):
            digest.update(block)
            newlines += block.count(b"\n")
            last = block[-1:]
    source = _stream_source(name, open_file, plain_text)._replace(total=newlines + (last != b"\n"))
    # Raises InputError if the lines are no JSON objects, before the model is loaded.
    next(source.records(), None)
    return source._replace(sha256=digest.hexdigest())


def _stream_source(name: str, open_file: Callable[[], io.BufferedIOBase], plain_text: bool) -> Source:
    """Lines that are read once."""

    def lines() -> Iterator[tuple[int, bytes]]:
        with open_file() as file:
            if isinstance(file, io.BufferedReader):
                check_text(name, file.peek(HEAD_BYTES))
            numbered = enumerate(_read_lines(file), 1)
            yield from numbered if plain_text else _check_objects(name, numbered)

    return Source(name, lines, partial(decode_line, plain_text=plain_text))


def _read_lines(file: io.BufferedIOBase) -> Iterator[bytes]:
    """Lines with their line ends; a line that is too long is cut one byte after the limit."""
    first = True
    while line := file.readline(MAX_LINE_BYTES + 1):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES)
        yield line.removeprefix(codecs.BOM_UTF8) if first else line
        first = False


def _check_objects(name: str, lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """All lines; raises InputError if none of the first ones starts as a JSON object does."""
    first: list[tuple[int, bytes]] = []
    for number, line in lines:
        first.append((number, line))
        if line.lstrip().startswith(b"{"):
            break
        if sum(bool(text.strip()) for _, text in first) == _MAX_LINES_WITHOUT_OBJECT:
            raise _no_objects(name, first)
    else:
        if any(text.strip() for _, text in first):
            raise _no_objects(name, first)
    yield from first
    yield from lines


def _no_objects(name: str, lines: list[tuple[int, bytes]]) -> InputError:
    content = next(line.strip() for _, line in lines if line.strip())
    hint = "texts must be in a .txt file, a table in a .csv or .tsv file"
    if content.startswith(b"["):
        hint = "a list of objects must be in a .json file"
    many = f"none of the first {len(lines)} lines" if len(lines) > 1 else "line 1"
    return InputError(
        f'{name}: {many} is {"" if len(lines) > 1 else "not "}a JSON object, as {{"text": "..."}} is; {hint}'
    )


def _is_json_table(path: Path, options: TableOptions) -> bool:
    """Whether a file is one JSON document with rows, and not one object per line."""
    text = "".join(TextFile(path, options.encoding).blocks())
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        # A list with an error is not lines of objects.
        return text.lstrip().startswith("[")
    return isinstance(value, list) or (isinstance(value, dict) and rows_of(value) != [value])


def _table_source(path: Path, spec: PipelineSpec, names: FieldNames, options: TableOptions) -> Source:
    """The rows of a table; the file is read once to count and check them, and what is not obvious is logged."""
    total, first, report = 0, None, ReadReport(str(path))
    for _, row in numbered_rows(path, options, report):
        total += 1
        if first is None and isinstance(row, dict):
            first = row
    if first is not None:
        _check_columns(path, first, spec, names)
    for note in (*report.notes, *(f"{reason}: {count:,} times" for reason, count in report.repairs.items())):
        _log.warning("%s: %s", path, note)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()

    def decode(row: Fields | UnusableRow) -> Fields:
        if isinstance(row, UnusableRow):
            raise InputError(str(row))
        return decode_row(row, spec, names)

    records = partial(numbered_rows, path, options)
    return Source(str(path), records, decode, total, sha256, "row", partial(location, path))


def _check_columns(path: Path, row: Fields, spec: PipelineSpec, names: FieldNames) -> None:
    """Raise InputError if the columns of a table do not fit the task."""
    if (header := next(iter(row), "")).startswith("{"):
        raise InputError(
            f"{path}: the first line is not a header but {header[:40]!r}; name a file of JSON objects .jsonl"
        )
    try:
        check_names(list(add_text(row, spec, names)), spec, names, word="column")
        decode_row(row, spec, names)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_texts(path: Path, names: FieldNames, encoding: str | None = None) -> tuple[list[str], str | None]:
    """The texts of all records of a file, and the SHA-256 of the file; raises the first error.

    Blank lines of a .txt file are left out, other texts may be empty.
    """
    spec = PIPELINES["embeddings"]
    source = source_of_file(path, spec, names, encoding)
    texts = []
    for number, record in source.records():
        try:
            fields = source.decode(record)
            if not isinstance(fields.get(names.text), str):
                raise InputError(f'"{names.text}" must be a string')
        except InputError as error:
            raise InputError(f"{source.name}, {source.locate(number)}: {error}") from None
        if fields[names.text].strip() or table_format(path) != "txt":
            texts.append(fields[names.text])
    if not texts:
        raise InputError(f"{path}: no texts")
    return texts, source.sha256
