"""The documents in one file of text: `.txt`, `.jsonl`, each also compressed, and `.parquet`."""

import json
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from deberta_jax.compression import open_decompressed
from deberta_jax.errors import InputError, list_names

SUFFIXES = (".txt", ".txt.gz", ".txt.zst", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
# Text without blank lines is split into documents of this size, so that a document always fits into memory.
MAX_DOCUMENT_BYTES = 1 << 20


@dataclass(frozen=True)
class FileRange:
    """A file, or the bytes of an uncompressed file from `start` up to `end`."""

    path: str
    start: int = 0
    end: int | None = None


def read_range(source: FileRange) -> Iterator[str]:
    """The documents of a file or of a part of it, none of them empty.

    Raises InputError for content that cannot be read, and for a whole file without text.
    """
    is_empty = True
    if source.path.endswith(".parquet"):
        documents = _read_parquet(source.path)
    elif source.path.removesuffix(".gz").removesuffix(".zst").endswith(".jsonl"):
        documents = _read_jsonl(source)
    else:
        documents = _read_text(source)
    for document in documents:
        is_empty = False
        yield document
    if is_empty and source.end is None:
        raise no_text(source.path)


def no_text(path: str) -> InputError:
    """The error for a file without text."""
    return InputError(f"{path}: no text in this file; remove it from the list, or add text")


def _read_text(source: FileRange) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    for line in _lines(source, MAX_DOCUMENT_BYTES):
        if line.strip():
            lines.append(line)
            size += len(line)
        if lines and (not line.strip() or size >= MAX_DOCUMENT_BYTES):
            yield "".join(lines).strip()
            lines, size = [], 0
    if lines:
        yield "".join(lines).strip()


def _read_jsonl(source: FileRange) -> Iterator[str]:
    for number, line in enumerate(_lines(source, -1), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise InputError(
                f"{source.path} line {_line_in_file(source, number)}: not valid JSON ({reason}); fix this line"
            ) from None
        document = record.get("text") if isinstance(record, dict) else None
        if not isinstance(document, str):
            raise InputError(
                f"{source.path} line {_line_in_file(source, number)}: expected an object with a string in the field "
                '"text"; rename the field, or fix this line'
            )
        if document.strip():
            # JSON can escape a lone surrogate, which UTF-8 cannot encode.
            yield document.encode(errors="replace").decode().strip()


def _read_parquet(path: str) -> Iterator[str]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise InputError(f"{path}: parquet files require pyarrow; pip install 'deberta-jax[prep]'") from None
    try:
        with closing(parquet.ParquetFile(path)) as file:
            if "text" not in file.schema_arrow.names:
                names = list_names(file.schema_arrow.names)
                raise InputError(
                    f'{path}: no column "text" (columns: {names}); rename the column that contains the text'
                )
            for batch in file.iter_batches(batch_size=256, columns=["text"]):
                for document in batch.column(0).to_pylist():
                    if document is not None and not isinstance(document, str):
                        kind = batch.column(0).type
                        raise InputError(f'{path}: column "text" contains {kind}; convert it to strings')
                    if document and document.strip():
                        yield document.strip()
    except (ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read as parquet ({str(error).splitlines()[0]})") from None


def _lines(source: FileRange, limit: int) -> Iterator[str]:
    """The lines that start in a range; a line of more than `limit` bytes is split (never, if negative)."""
    with open_decompressed(Path(source.path), source.start) as file:
        offset, rest = source.start, b""
        while True:
            try:
                block = file.readline(limit)
            except (EOFError, OSError, zlib.error) as error:
                raise InputError(
                    f"{source.path}: cannot be decompressed ({error}); the file is damaged, download it again"
                ) from None
            if not block and not rest:
                return
            line, rest = rest + block, b""
            if source.end is not None and offset >= source.end:
                return
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                # A long line may be split inside a character: its first bytes then belong to the next block.
                if not (block and not line.endswith(b"\n") and error.reason == "unexpected end of data"):
                    raise InputError(
                        f"{source.path} byte {offset + error.start}: not UTF-8 ({error.reason}); convert the file, for "
                        "example with iconv"
                    ) from None
                text, rest = line[: error.start].decode(), line[error.start :]
            yield text.removeprefix("\ufeff") if offset == 0 else text
            offset += len(line) - len(rest)


def _line_in_file(source: FileRange, number: int) -> int:
    """The number of a line in its file, from its number in a range; both count from 1."""
    count, left = number, source.start
    if left:
        with open(source.path, "rb") as file:
            while left and (block := file.read(min(left, 1 << 20))):
                count, left = count + block.count(b"\n"), left - len(block)
    return count
