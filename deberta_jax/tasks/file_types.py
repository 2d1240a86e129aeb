"""The types of files that are given as text by mistake, known by their first bytes."""

import codecs
from pathlib import Path

from deberta_jax.errors import InputError

# As many bytes as `binary_type` reads.
HEAD_BYTES = 4096
_CONVERT = "; extract its text into a .txt, .csv or .jsonl file"
_DECOMPRESS = "; decompress it first"
# The first bytes of a type, its name, and what to do.
_SIGNATURES = (
    (b"PAR1", "a parquet file", "; name it .parquet"),
    (b"PK\x03\x04", "a zip archive or an Office file", "; extract it, or name an Excel table .xlsx"),
    (b"\xd0\xcf\x11\xe0", "an old or encrypted Office file", "; save it as .csv"),
    (b"%PDF", "a PDF document", _CONVERT),
    (b"\x89PNG", "a PNG image", _CONVERT),
    (b"\xff\xd8\xff", "a JPEG image", _CONVERT),
    (b"GIF8", "a GIF image", _CONVERT),
    (b"RIFF", "an image, audio or video file", _CONVERT),
    (b"\x1f\x8b", "gzip data", _DECOMPRESS),
    (b"BZh", "bzip2 data", _DECOMPRESS),
    (b"\xfd7zXZ", "xz data", _DECOMPRESS),
    (b"(\xb5/\xfd", "zstd data", _DECOMPRESS),
    (b"7z\xbc\xaf", "a 7z archive", _DECOMPRESS),
    (b"\x7fELF", "a program", _CONVERT),
    (b"SQLite format 3", "a SQLite database", "; export a table as .csv"),
    (b"\x89HDF", "an HDF5 file", _CONVERT),
    (b"ARROW1", "an Arrow file", "; save it as .parquet"),
    (b"\x80\x02", "a pickle", _CONVERT),
    (b"\x80\x03", "a pickle", _CONVERT),
    (b"\x80\x04", "a pickle", _CONVERT),
    (b"version https://git-lfs", "a pointer of Git LFS", "; download the file itself: git lfs pull"),
    (b"\xff\xfe", "UTF-16 text", "; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "; save it as UTF-8"),
)
# Control characters that text does not contain; tab, line ends, form feed and escape are not among them.
_CONTROL = bytes([*range(9), *range(14, 27), *range(28, 32)])
# More of them are binary data: their share, and in valid UTF-8 also their number.
_MAX_SHARE, _MAX_SHARE_UTF8, _MAX_NUMBER_UTF8 = 0.01, 0.1, 32


def binary_type(head: bytes) -> tuple[str, str] | None:
    """What a file is by its first bytes, and what to do with it; None for text."""
    for signature, name, hint in _SIGNATURES:
        if head.startswith(signature):
            return name, hint
    if head.count(0) > len(head) / 4 and not (head[::2].count(0) and head[1::2].count(0)):
        return "UTF-16 text", "; save it as UTF-8"
    if head[4:9] == b"\0\0\0\0{":
        return "a safetensors file", _CONVERT
    number = len(head) - len(head.translate(None, _CONTROL))
    limit = max(_MAX_SHARE_UTF8 * len(head), _MAX_NUMBER_UTF8) if _is_utf8(head) else _MAX_SHARE * len(head)
    return ("binary data", _CONVERT) if number > limit else None


def _is_utf8(head: bytes) -> bool:
    """Whether bytes are UTF-8; the last character may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def check_text(name: object, head: bytes) -> None:
    """Raise InputError if the first bytes of a file are not text."""
    if detected := binary_type(head):
        raise InputError(f"{name}: expected text, but this is {detected[0]}{detected[1]}")


def check_signature(path: Path, signature: bytes, expected: str) -> None:
    """Raise InputError if a file does not start with the bytes of its type."""
    head = read_head(path)
    if not head.startswith(signature):
        name, hint = binary_type(head) or ("text", "; name it .csv, .tsv, .jsonl or .txt")
        raise InputError(f"{path}: not {expected}, but {name}{hint}" if head else f"{path}: the file is empty")


def read_head(path: Path) -> bytes:
    """The first bytes of a file."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
