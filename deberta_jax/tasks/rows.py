"""Rows of a file to examples, with a report on every row."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from deberta_jax.tasks.examples import Examples, ReadReport

Row = TypeVar("Row")
# The key of a row that consists of several: their numbers.
ROW_NUMBERS = "\0numbers"


class UnusableRow(Exception):
    """The reason why a row cannot become an example, in a few words; a valid row may be left out, too."""

    def __init__(self, reason: str, *, malformed: bool = True):
        super().__init__(reason)
        self.malformed = malformed


def read_rows(
    path: Path,
    rows: Callable[[ReadReport], Iterator[tuple[int | str, Row]]],
    parse: Callable[[Row, ReadReport], Iterable[Any]],
) -> Examples:
    """Return the examples of a file.

    `rows` yields each row with its line number or its name, and reports the rows that it cannot read. `parse` returns
    the examples of a row or raises UnusableRow; the report that it receives counts the examples so far.
    Raises InputError if no row is usable; `catalogue.load` refuses a file with too many malformed rows.
    """
    report = ReadReport(str(path))
    examples: list[Any] = []
    for where, row in rows(report):
        try:
            parsed = list(parse(row, report))
        except UnusableRow as error:
            report.skip(str(error), where, malformed=error.malformed)
            continue
        for example in parsed:
            report.use()
            examples.append(example)
    report.check_used()
    return Examples(examples, [report])


def text_in(row: Mapping[str, Any], name: str) -> str:
    """Return the text of a field without surrounding space; raises UnusableRow if there is none."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UnusableRow(f"no text in {name!r}")
    return value.strip()


def unknown_label(label: Any) -> UnusableRow:
    """Return the error for a label that the task does not have."""
    return UnusableRow(f"unknown label {str(label)[:20]!r}")


def is_test(split: str) -> bool:
    """Whether a split may lack its labels: test, test_mismatched and the like."""
    return split.startswith("test")
