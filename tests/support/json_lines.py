"""Lines of JSON in files and in the captured output of a command."""

import json
from pathlib import Path


def read_lines(path):
    text = Path(path).read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def write_lines(path, *rows):
    """Write one line per row; returns the path as a string."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def printed_lines(capfd):
    """The lines on standard output."""
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]
