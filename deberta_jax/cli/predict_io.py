"""Lines in, lines out: examples of a file or a stream, and an output that goes on after whatever stopped it."""

import codecs
import hashlib
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deberta_jax.errors import InputError
from deberta_jax.files import lock_folder, make_folder, read_json

# A longer line is no example: a whole file on one line must not fill the memory.
LONGEST = 1 << 22
Row = dict[str, Any]


class Source(NamedTuple):
    """Lines by number, from 1; of a stream, which is read once, the `total` and `sha256` are not known."""

    name: str
    open: Callable[[], io.BufferedIOBase]
    # Whether a line is a text, else it is a JSON object.
    plain: bool = False
    total: int | None = None
    sha256: str | None = None

    def lines(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Numbers and lines after the first `start`."""
        with self.open() as file:
            for number, line in itertools.islice(enumerate(_lines(file), 1), start, None):
                yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


class Written(NamedTuple):
    """How many lines an output has, how many of them say an error, and how more are written."""

    lines: int
    bad: int
    write: Callable[[bytes], None]


def source_of_rows(rows: Iterable[Row]) -> Source:
    """Rows of the command line, as if they had stood in a file."""
    content = b"".join(encoded(row) for row in rows)
    return _counted("the command line", lambda: io.BytesIO(content), plain=False)


def source_of_file(path: Path) -> Source:
    """A `.txt` has one text a line, any other file one JSON object; `-`, pipes and devices are streams."""
    if str(path) == "-":
        return Source("standard input", lambda: open(0, "rb", closefd=False))
    if not path.exists():
        raise InputError(f"{path}: no such file")
    plain = path.suffix == ".txt"
    if is_stream(path):
        return Source(str(path), lambda: path.open("rb"), plain)
    return _counted(str(path), lambda: path.open("rb"), plain)


def _counted(name: str, opened: Callable[[], io.BufferedIOBase], plain: bool) -> Source:
    digest, newlines, last = hashlib.sha256(), 0, b"\n"
    with opened() as file:
        while block := file.read(1 << 20):
            digest.update(block)
            newlines += block.count(b"\n")
            last = block[-1:]
    return Source(name, opened, plain, newlines + (last != b"\n"), digest.hexdigest())


def _lines(file: io.BufferedIOBase) -> Iterator[bytes]:
    """Each line with its end; of one that is too long no more than shows that it is."""
    while line := file.readline(LONGEST + 1):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST)
        yield line


def decoded(line: bytes, *, plain: bool) -> Row:
    """The example on a line; raises InputError for what is none, without the line's number."""
    if len(line) > LONGEST:
        raise InputError(f"longer than {LONGEST >> 20} MiB")
    try:
        text = line.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start + 1}") from None
    if plain:
        return {"text": text}
    if not text.strip():
        raise InputError("empty; a JSON object is wanted")
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg} at character {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON that can be read: {error}") from None
    if not isinstance(row, dict):
        raise InputError(f"{named(row)}; a JSON object is wanted")
    encoded(row)
    return row


def encoded(row: Row) -> bytes:
    """A row as a line; raises InputError where JSON or UTF-8 have no signs for it."""
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError as error:
        sign = ord(error.object[error.start])
        raise InputError(f"has a lone surrogate U+{sign:04X}, which stands for nothing; decode the text anew") from None
    except RecursionError:
        raise InputError("is nested too deeply") from None
    except ValueError:
        raise InputError("has a number that is infinite or none (NaN)") from None


def answered(row: Row, results: Row) -> bytes:
    """A row that has been a line, with what the library says of it; raises InputError for what is no number."""
    try:
        return encoded(row | _plain(results))
    except InputError as error:
        raise InputError(f"the result {error}") from None


def _plain(value: Any) -> Any:
    """Records as objects, arrays as lists, and of numbers the digits that float32 has."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return list(map(float, map(str, value.astype(np.float32))))
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(str(np.float32(value)))
    return value.item() if isinstance(value, np.generic) else value


def named(value: object) -> str:
    """What JSON calls a value of this kind."""
    kinds = {str: "a string", bool: "true or false", list: "a list", dict: "an object", type(None): "null"}
    return kinds.get(type(value), "a number")


def is_stream(path: Path) -> bool:
    """Whether a path is `-`, a pipe or a device, which is read or written once, from the beginning."""
    return str(path) == "-" or (path.exists() and not path.is_file() and not path.is_dir())


@contextmanager
def to_stream(path: Path) -> Generator[Written, None, None]:
    """Write what nothing can be gone on with, `-` being standard output."""
    standard = str(path) == "-"
    # Without a buffer: what a closed pipe has not taken is not tried again at the end.
    with open(1 if standard else path, "wb", buffering=0, closefd=not standard) as file:
        yield Written(0, 0, lambda more: _write(file, more))


@contextmanager
def resumed(path: Path, settings: Mapping[str, object]) -> Generator[Written, None, None]:
    """Write a file that is gone on with after its last whole line, until it is complete.

    As long as it is not, `PATH.progress` stands beside it with the settings it was begun with, and keeps other
    processes out. Raises InputError for a file that is complete, or not ours, for other settings, for a full disk.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file with --output")
    make_folder(path.parent)
    progress = path.with_name(f"{path.name}.progress")
    begun = progress / "settings.json"
    _refuse_complete(path, begun)
    with lock_folder(progress):
        try:
            _refuse_complete(path, begun)
        except InputError:
            # Another process has come to its end in between.
            shutil.rmtree(progress)
            raise
        lines, bad, size = _whole_lines(path)
        if lines:
            _refuse_other(path, begun, settings)
        else:
            partial = begun.with_suffix(".partial")
            partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            os.replace(partial, begun)
        with path.open("ab", buffering=0) as file:
            file.truncate(size)
            try:
                yield Written(lines, bad, lambda more: _write_surely(file, more, path))
            except BaseException:
                # Nothing to go on with: as if it had not begun.
                if not os.fstat(file.fileno()).st_size:
                    path.unlink()
                    shutil.rmtree(progress)
                raise
        shutil.rmtree(progress)


def _write(file: io.FileIO, lines: bytes) -> None:
    rest = memoryview(lines)
    while rest:
        rest = rest[file.write(rest) :]


def _write_surely(file: io.FileIO, lines: bytes, path: Path) -> None:
    try:
        _write(file, lines)
        os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"{path}: could not be written on ({error.strerror}); mend that, and the same command goes on from here"
        ) from None


def _refuse_complete(path: Path, begun: Path) -> None:
    if path.exists() and not begun.exists():
        raise InputError(f"{path} exists, and is not one to go on with: delete it, or name another file with --output")


def _whole_lines(path: Path) -> tuple[int, int, int]:
    """How many whole lines a file has, how many say an error, and the bytes of them all."""
    lines = bad = size = 0
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    lines, bad, size = lines + 1, bad + _says_error(line), size + len(line)
    return lines, bad, size


def _says_error(line: bytes) -> bool:
    return line.startswith(b'{"line": ') and json.loads(line).keys() == {"line", "error"}


def _refuse_other(path: Path, begun: Path, settings: Mapping[str, object]) -> None:
    theirs = read_json(begun)
    ours = json.loads(json.dumps(settings))
    differing = [
        f"{name} ({_short(theirs.get(name))} then, {_short(ours.get(name))} now)"
        for name in ours | theirs
        if theirs.get(name) != ours.get(name)
    ]
    if ours.get("input") is None and not differing:
        differing = ["an input that cannot be read again, a stream"]
    if differing:
        raise InputError(
            f"{path} was begun with other options: {', '.join(differing)}; go on with those, or delete {path} and "
            f"{begun.parent}"
        )


def _short(value: object) -> str:
    """A value as it is told; of a sha256 the beginning is enough."""
    words = "none" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return words[:12] if len(words) == 64 else words
