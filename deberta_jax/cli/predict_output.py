"""The output of `deberta-jax predict`: lines of JSON, in a stream or in a file that can be resumed."""

import contextlib
import io
import json
import os
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deberta_jax.cli.predict_examples import Fields, encode_line
from deberta_jax.errors import InputError, list_names
from deberta_jax.files import lock_output, read_json, write_all, write_json
from deberta_jax.printing import printable


class Output(NamedTuple):
    """The number of lines in an output, how many of them are errors, and the function that appends lines."""

    lines: int
    errors: int
    write: Callable[[bytes], None]


def result_line(fields: Fields, results: Fields) -> bytes:
    """The line of an example with its results; raises InputError for results that are not finite."""
    try:
        return encode_line(fields | _to_json(results))
    except InputError as error:
        raise InputError(f"the result {error}") from None


def error_line(number: int, error: InputError, fields: Fields) -> bytes:
    """The line of an invalid record; `number` is that of its line or row, `fields` is empty if it cannot be decoded."""
    copied = {"id": fields["id"]} if "id" in fields else {}
    return encode_line({"line": number, "error": str(error)} | copied)


def _to_json(value: Any) -> Any:
    """Named tuples as objects, arrays as lists, and numbers with the digits of float32."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return list(map(float, map(str, value.astype(np.float32))))
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(str(np.float32(value)))
    return value.item() if isinstance(value, np.generic) else value


@contextlib.contextmanager
def open_stream(path: Path) -> Generator[Output, None, None]:
    """Write to a stream, which cannot be resumed; `-` is standard output."""
    standard = str(path) == "-"
    # Unbuffered: bytes that a closed pipe refused must not be written again at exit.
    with open(1 if standard else path, "wb", buffering=0, closefd=not standard) as file:
        encode = _escape if file.isatty() else lambda lines: lines
        yield Output(0, 0, lambda lines: write_all(file, encode(lines)))


def _escape(lines: bytes) -> bytes:
    """The same JSON for a terminal."""
    return printable(lines.decode()).encode()


@contextlib.contextmanager
def open_resumable(path: Path, settings: Mapping[str, object]) -> Generator[Output, None, None]:
    """Append to a file after its last complete line.

    While the file is incomplete, the folder `PATH.progress` contains the settings that it was started with, and locks
    out other processes. Raises InputError for a file that is complete or was not written by this command, for other
    settings, and for a full disk.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file with --output")
    started = path.with_name(f"{path.name}.progress") / "settings.json"
    _refuse_complete(path, started)
    with lock_output(path, ".progress"):
        # Another process may have completed the file before this one got the lock.
        _refuse_complete(path, started)
        lines, errors, size = _complete_lines(path)
        if lines:
            _refuse_other_settings(path, started, settings)
        else:
            write_json(started, settings)
        with path.open("ab", buffering=0) as file:
            file.truncate(size)
            try:
                yield Output(lines, errors, lambda lines: _write_synced(file, lines, path))
            except BaseException:
                if not os.fstat(file.fileno()).st_size:
                    # There is nothing to resume.
                    path.unlink()
                    _remove_settings(started)
                raise
        _remove_settings(started)


def _remove_settings(started: Path) -> None:
    """Mark the output as complete."""
    started.unlink()


def _write_synced(file: io.FileIO, lines: bytes, path: Path) -> None:
    try:
        write_all(file, lines)
        os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"{path}: writing failed ({error.strerror}): fix this, and run the same command again to resume"
        ) from None


def _refuse_complete(path: Path, started: Path) -> None:
    if path.exists() and not started.exists():
        raise InputError(
            f"{path} exists and is not an interrupted output: delete it, or name another file with --output"
        )


def _complete_lines(path: Path) -> tuple[int, int, int]:
    """The number of complete lines of a file, the number of errors among them, and their size in bytes."""
    lines = errors = size = 0
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    lines, errors, size = lines + 1, errors + _is_error(line), size + len(line)
    return lines, errors, size


def _is_error(line: bytes) -> bool:
    return line.startswith(b'{"line": ') and json.loads(line).keys() - {"id"} == {"line", "error"}


def _refuse_other_settings(path: Path, started: Path, settings: Mapping[str, object]) -> None:
    before, now = read_json(started), json.loads(json.dumps(settings))
    differences = [
        f"{name} ({_short(before.get(name))} before, {_short(now.get(name))} now)"
        for name in now | before
        if before.get(name) != now.get(name)
    ]
    if now.get("input") is None and not differences:
        differences = ["the input is a stream, which cannot be read again"]
    if differences:
        raise InputError(
            f"{path} was started with other settings: {list_names(differences)}; use the same settings to resume, or "
            f"delete {path} and {started.parent}"
        )


def _short(value: object) -> str:
    """A setting as text; a SHA-256 is shortened."""
    text = "none" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text[:12] if len(text) == 64 else text
