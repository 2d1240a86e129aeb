"""Records of csv and tsv files: quoted fields may have several lines, and a quote that is not closed is text."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from deberta_jax.tasks.examples import ReadReport

_QUOTED = re.compile(r' *"((?:[^"]|"")*+)" *')
_OPENING = re.compile(r' *"')
_QUOTE = '"'
UNCLOSED = "a double quote that is not closed is text"
# A number and the text of a line.
Line = tuple[int, str]


class Record(NamedTuple):
    """The fields of a row, the number of the first line, and the numbers of lines and of quotes."""

    number: int
    fields: list[str]
    lines: int = 1
    num_quotes: int = 0


class _Fields(NamedTuple):
    """The fields of a text, and whether each quoted field is closed at a separator or at the end."""

    fields: list[str]
    is_closed: bool = True
    is_open_at_end: bool = False


def split_fields(text: str, separator: str) -> _Fields:
    """Split a text into fields; a quoted field may contain the separator, line ends and doubled quotes.

    A field that begins with a quote but has text after the closing one, or has no closing one, is not quoted. Spaces
    around the quotes of a field are not part of it.
    """
    fields: list[str] = []
    position, is_closed = 0, True
    while True:
        end = text.find(separator, position)
        if _OPENING.match(text, position):
            match = _QUOTED.match(text, position)
            if match is None:
                return _Fields([*fields, *text[position:].split(separator)], False, is_open_at_end=True)
            if match.end() == len(text) or text.startswith(separator, match.end()):
                fields.append(match[1].replace('""', _QUOTE))
                position = match.end() + len(separator)
                if match.end() == len(text):
                    return _Fields(fields, is_closed)
                continue
            is_closed = False
        if end < 0:
            return _Fields([*fields, text[position:]], is_closed)
        fields.append(text[position:end])
        position = end + len(separator)


# Characters that no text contains, in place of a backslash and of a quote after a backslash.
_BACKSLASH, _ESCAPED_QUOTE = "\ufdd0", "\ufdd1"
_ESCAPE = re.compile(r"""\\([\\"])""")


def escapes_quotes(lines: Iterable[Line], separator: str) -> bool:
    """Whether the quotes in quoted fields of a csv file are escaped by a backslash, and not doubled.

    They are if more lines are right in this reading only than contain a doubled quote.
    """
    escaped = doubled = 0
    for _, line in lines:
        if _QUOTE in line:
            plain = split_fields(line, separator)
            if plain.is_closed:
                doubled += any(_QUOTE in field for field in plain.fields) and '""' in line
            elif '\\"' in line:
                escaped += split_fields(_with_marks(line), separator).is_closed
    return escaped > doubled


def escaped_records(lines: Iterable[Line], separator: str, report: ReadReport) -> Iterator[Record]:
    """Yield the records of lines in which a backslash escapes a quote or a backslash."""
    report.note("double quotes in cells are escaped by a backslash")
    marked = ((number, _with_marks(line)) for number, line in lines)
    for record in quoted_records(marked, separator, report):
        fields = [field.replace(_BACKSLASH, "\\").replace(_ESCAPED_QUOTE, _QUOTE) for field in record.fields]
        yield record._replace(fields=fields)


def _with_marks(line: str) -> str:
    return _ESCAPE.sub(lambda match: _BACKSLASH if match[1] == "\\" else _ESCAPED_QUOTE, line)


def raw_records(lines: Iterable[Line], separator: str) -> Iterator[Record]:
    """Yield one record per line; quotes are text."""
    for number, line in lines:
        yield Record(number, line.split(separator))


def quoted_records(
    lines: Iterable[Line], separator: str, report: ReadReport, *, rows_are_lines: bool = False
) -> Iterator[Record]:
    """Yield the records of lines; the first one, the header, determines how many fields a record has.

    An opening quote starts a field of several lines only if a closing one makes it a record with the right number of
    fields. Otherwise the quote is text, which is reported. If each line of such a record looks like a record, this is
    reported, too; with `rows_are_lines` they are records.
    """
    source, waiting = iter(lines), list[Line]()
    num_fields = 0
    while (first := waiting.pop() if waiting else next(source, None)) is not None:
        number, line = first
        record = Record(number, line.split(separator))
        if _QUOTE in line:
            one = split_fields(line, separator)
            record = Record(number, one.fields, 1, line.count(_QUOTE))
            following = _until_closed(line, chain(_popped(waiting), source)) if one.is_open_at_end else []
            several = _several_lines([first, *following], separator, num_fields) if following else None
            look_like_rows = num_fields > 1 and all(
                text.count(separator) == num_fields - 1 for _, text in (first, *following)
            )
            if several is not None and not (rows_are_lines and look_like_rows):
                record = several
                if look_like_rows:
                    report.note(_swallowed(record))
            else:
                waiting += reversed(following)
                if not one.is_closed:
                    report.repaired(UNCLOSED)
        num_fields = num_fields or len(record.fields)
        yield record


def _swallowed(record: Record) -> str:
    last = record.number + record.lines - 1
    return (
        f"lines {record.number} to {last} are one row: a double quote opens in the first and closes in the last; if "
        "they are separate rows, double the quote"
    )


def _several_lines(lines: Sequence[Line], separator: str, num_fields: int) -> Record | None:
    """The record of several lines; None if they are no record with this number of fields (0 for any)."""
    text = "\n".join(text for _, text in lines)
    joined = split_fields(text, separator)
    if not joined.is_closed or num_fields not in (0, len(joined.fields)):
        return None
    return Record(lines[0][0], joined.fields, len(lines), text.count(_QUOTE))


def _popped(waiting: list[Line]) -> Iterator[Line]:
    while waiting:
        yield waiting.pop()


def _until_closed(line: str, lines: Iterator[Line]) -> list[Line]:
    """The lines up to the one with which the number of quotes is even, or all lines."""
    following = []
    is_open = line.count(_QUOTE) % 2 == 1
    while is_open and (item := next(lines, None)) is not None:
        following.append(item)
        is_open ^= item[1].count(_QUOTE) % 2 == 1
    return following


def is_quoted(lines: Iterable[Line], separator: str) -> bool:
    """Whether the quotes of a tab-separated file enclose fields; in most such files they are text.

    They do if the header has quoted fields, or if more rows have what only a writer of quoted fields writes
    (separators, line ends or doubled quotes in a field) than have quotes that it would double.
    """
    quoted = raw = 0
    for index, record in enumerate(quoted_records(lines, separator, ReadReport(""), rows_are_lines=True)):
        in_fields = sum(field.count(_QUOTE) for field in record.fields)
        if index == 0 and record.num_quotes > in_fields:
            return True
        if record.num_quotes == in_fields:
            raw += in_fields > 0
        else:
            quoted += in_fields > 0 or any(separator in field or "\n" in field for field in record.fields)
    return quoted > raw
