"""Lines and JSON documents of text files: UTF-8 with or without a byte-order mark, LF or CRLF, with line numbers."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.tasks.examples import ReadReport


def numbered_lines(path: Path, report: ReadReport) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, without line ends; a line that is not UTF-8 is reported as skipped."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    with file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                text = line.decode().rstrip("\r\n")
            except UnicodeDecodeError:
                report.skip("not UTF-8", number)
                continue
            if text.strip():
                yield number, text


def numbered_objects(path: Path, report: ReadReport) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the JSON object of each line; a line with anything else is reported as skipped."""
    for number, line in numbered_lines(path, report):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            report.skip("not valid JSON", number)
            continue
        if not isinstance(value, dict):
            report.skip("not a JSON object", number)
            continue
        yield number, value


def load_json(path: Path) -> Any:
    """Return the value of a file with one JSON document; raises InputError with the line and column of an error."""
    try:
        return json.loads(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} line {error.lineno} column {error.colno}: not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
