"""The kind of a text file, from its name or from the beginning of its content."""

import re
from pathlib import Path
from typing import Literal

from deberta_jax.compression import DAMAGE, SUFFIXES, compression_of, open_decompressed
from deberta_jax.data.text_options import TextOptions
from deberta_jax.errors import InputError, shorten

Kind = Literal["text", "wiki", "jsonl", "parquet", "arrow"]

_KINDS: dict[str, Kind] = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
# Kinds that are compressed inside, and are read at any position.
_TABLES = "parquet", "arrow"
_HEAD_BYTES = 4096
# A file of Arrow, a stream of Arrow (the first message has a length below 64 KiB), and parquet.
_BINARY: tuple[tuple[re.Pattern[bytes], Kind], ...] = (
    (re.compile(rb"ARROW1"), "arrow"),
    (re.compile(rb"\xff\xff\xff\xff..\x00\x00", re.DOTALL), "arrow"),
    (re.compile(rb"PAR1"), "parquet"),
)
_WIKI = re.compile(rb"(\xef\xbb\xbf)?\s*<doc id=")
_JSON = re.compile(rb'(\xef\xbb\xbf)?\s*\{\s*"')
# Control characters that text does not contain.
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def file_kind(path: str, options: TextOptions) -> Kind:
    """The kind of a file, by its extension; without an extension, or with a number for one, by its content.

    Raises InputError for another extension, unless each file is a document, and for content that is not text.
    """
    name = Path(path)
    compression = compression_of(name)
    plain = name.with_suffix("") if name.suffix in SUFFIXES else name
    kind = _KINDS.get(plain.suffix)
    if kind in _TABLES and compression:
        raise InputError(f"{path}: {plain.suffix} files are read without {compression} only; decompress the file")
    if kind == "text":
        return "wiki" if _WIKI.match(_head(name)) else "text"
    if kind:
        return kind
    has_extension = plain.suffix and not plain.suffix[1:].isdigit()
    if has_extension and options.document != "file":
        raise InputError(
            f"{path}: unknown file type; expected one of {', '.join(_KINDS)}, no extension, or document file, which "
            "reads any text file as one document"
        )
    kind = _kind_of_content(path, _head(name), bool(compression))
    return "text" if has_extension else kind


def is_splittable(path: str, kind: Kind, options: TextOptions) -> bool:
    """Whether a file can be read from any start of a document."""
    if kind in _TABLES or (kind == "text" and options.document == "file"):
        return False
    return not compression_of(Path(path))


def is_compressed(path: str, kind: Kind) -> bool:
    """Whether the size of a file is smaller than that of its text."""
    return kind == "parquet" or bool(compression_of(Path(path)))


def reading(kind: Kind, options: TextOptions) -> list[str]:
    """What determines the documents of a file besides its content, without defaults."""
    if kind == "wiki":
        return [kind]
    settings, name = options.settings(), "document" if kind == "text" else "text_field"
    return [str(settings[name])] if name in settings else []


def _kind_of_content(path: str, head: bytes, is_compressed: bool) -> Kind:
    for pattern, kind in _BINARY:
        if pattern.match(head) and not is_compressed:
            return kind
    if _WIKI.match(head):
        return "wiki"
    if control := _CONTROL.search(head):
        raise InputError(
            f"{path} byte {control.start()}: not text, and neither parquet nor arrow (the content begins with "
            f"{shorten(head[:12])}); expected UTF-8 text, JSON lines, parquet or arrow"
        )
    return "jsonl" if _JSON.match(head) else "text"


def _head(path: Path) -> bytes:
    """The first bytes of the decompressed content; fewer if the file is damaged, which reading reports."""
    with open_decompressed(path) as file:
        try:
            return file.read(_HEAD_BYTES)
        except DAMAGE:
            return b""
