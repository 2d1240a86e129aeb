"""The documents in one file: plain text, JSON lines and articles of WikiExtractor, also compressed, and tables."""

import json
from collections.abc import Callable, Iterator

from deberta_jax.data.columns import read_arrow, read_parquet
from deberta_jax.data.lines import FileRange, line_in_file, read_lines, too_long
from deberta_jax.data.text_kinds import Kind, file_kind
from deberta_jax.data.text_options import TextOptions
from deberta_jax.errors import InputError, list_names

# Text without blank lines is split into documents of this size.
PARAGRAPH_BYTES = 1 << 20
ARTICLE_START = "<doc id="
_ARTICLE_END = "</doc>"
DEFAULT_TEXT = TextOptions()


def read_range(source: FileRange, options: TextOptions = DEFAULT_TEXT) -> Iterator[str]:
    """The documents of a file or of a part of it, none of them empty.

    Raises InputError for content that cannot be read, and for a whole file without text.
    """
    is_empty = True
    for document in _READ[file_kind(source.path, options)](source, options):
        is_empty = False
        yield document
    if is_empty and source.end is None:
        raise no_text(source.path)


def no_text(path: str) -> InputError:
    """The error for a file without text."""
    return InputError(f"{path}: no text in this file; remove it from the list, or add text")


def _read_text(source: FileRange, options: TextOptions) -> Iterator[str]:
    read = {"blank": _read_paragraphs, "line": _read_each_line, "file": _read_whole}[options.document]
    return read(source, options.max_document_bytes)


def _read_paragraphs(source: FileRange, limit: int) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    for line, _, _ in read_lines(source, limit, PARAGRAPH_BYTES):
        if line.strip():
            lines.append(line)
            size += len(line)
        if lines and (not line.strip() or size >= PARAGRAPH_BYTES):
            yield "".join(lines).strip()
            lines, size = [], 0
    if lines:
        yield "".join(lines).strip()


def _read_each_line(source: FileRange, limit: int) -> Iterator[str]:
    return (text for line, _, _ in read_lines(source, limit) if (text := line.strip()))


def _read_whole(source: FileRange, limit: int) -> Iterator[str]:
    lines = []
    for line, _, offset in read_lines(source, limit, PARAGRAPH_BYTES):
        if offset + len(line.encode()) > limit:
            raise too_long(source, 1, 0, "file", limit)
        lines.append(line)
    if text := "".join(lines).strip():
        yield text


def _read_wiki(source: FileRange, options: TextOptions) -> Iterator[str]:
    """The articles of WikiExtractor, between <doc ...> and </doc>, with &, < and > as characters."""
    limit = options.max_document_bytes
    lines: list[str] | None = None
    size = first = start = 0
    for line, number, offset in read_lines(source, limit):
        if line.startswith(ARTICLE_START) and lines is None:
            lines, size, first, start = [], 0, number, offset
        elif lines is None:
            if line.strip():
                where = f"{source.path} line {line_in_file(source, number)}"
                raise InputError(f"{where}: text outside of <doc> and </doc>; fix this line")
        elif line.strip() == _ARTICLE_END:
            if text := "".join(lines).strip():
                yield text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
            lines = None
        elif line.startswith(ARTICLE_START):
            break
        else:
            lines.append(line)
            size += len(line.encode())
            if size > limit:
                raise too_long(source, first, start, "document", limit)
    if lines is not None:
        raise InputError(
            f"{source.path} line {line_in_file(source, first)}: <doc> without </doc>; the file is damaged, extract it "
            "again"
        )


def _read_jsonl(source: FileRange, options: TextOptions) -> Iterator[str]:
    for line, number, _ in read_lines(source, options.max_document_bytes):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            where = f"{source.path} line {line_in_file(source, number)}"
            raise InputError(
                f"{where}: not valid JSON ({reason}); fix this line, or write an object per line"
            ) from None
        document = record.get(options.text_field) if isinstance(record, dict) else None
        if not isinstance(document, str):
            names = f" (fields: {list_names(record)})" if isinstance(record, dict) else ""
            raise InputError(
                f"{source.path} line {line_in_file(source, number)}: expected an object with a string in the field "
                f'"{options.text_field}"{names}; name the field with text-field, or fix this line'
            )
        if document.strip():
            # JSON can escape a lone surrogate, which UTF-8 cannot encode.
            yield document.encode(errors="replace").decode().strip()


_READ: dict[Kind, Callable[[FileRange, TextOptions], Iterator[str]]] = {
    "text": _read_text,
    "wiki": _read_wiki,
    "jsonl": _read_jsonl,
    "parquet": lambda source, options: read_parquet(source.path, options),
    "arrow": lambda source, options: read_arrow(source.path, options),
}
