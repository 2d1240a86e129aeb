"""Lines of text files as they are: UTF-8 with or without a byte-order mark, LF or CRLF, each with its number."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.tasks.examples import ReadReport


def numbered_lines(path: Path, account: ReadReport) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, without their ends; one that is not UTF-8 is accounted for as skipped."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    with file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                text = line.decode().rstrip("\r\n")
            except UnicodeDecodeError:
                account.skip("not UTF-8", number)
                continue
            if text.strip():
                yield number, text


def numbered_objects(path: Path, account: ReadReport) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON object of each line; what is none is accounted for as skipped."""
    for number, line in numbered_lines(path, account):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            account.skip("not JSON", number)
            continue
        if not isinstance(value, dict):
            account.skip("no JSON object", number)
            continue
        yield number, value


def whole_json(path: Path) -> Any:
    """The value of a file that is one JSON document; raises InputError with line and column where it is none."""
    try:
        return json.loads(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON that can be read: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
