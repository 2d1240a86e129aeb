"""Tab-separated files of GLUE and XNLI, which have no quoting: a double quote is an ordinary character."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from deberta_jax.errors import InputError, list_names
from deberta_jax.tasks.examples import Examples, ReadReport, TextExample
from deberta_jax.tasks.jsonl import numbered_lines
from deberta_jax.tasks.rows import UnusableRow, is_test, read_rows, unknown_label

# CoLA: only the test set has a header.
_TEST_HEADER = ["index", "sentence"]


class TsvColumns(NamedTuple):
    """The names of the columns to read; each may have alternatives.

    `header` names the columns of a file without a header line.
    """

    text: tuple[str, ...]
    pair: tuple[str, ...] = ()
    label: tuple[str, ...] = ("label",)
    id: tuple[str, ...] = ("index", "id", "pairID")
    group: tuple[str, ...] = ()
    header: tuple[str, ...] = ()


def tsv_rows(path: Path, report: ReadReport, header: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the fields of each row; a row with a wrong number of fields is reported as skipped.

    The first line is the header unless `header` is given. Even then, a first line that is the header of a test set is
    used as such.
    """
    names = list(header)
    for number, line in numbered_lines(path, report):
        fields = line.split("\t")
        if not names or (number == 1 and fields[:2] == _TEST_HEADER):
            names = fields
        elif len(fields) != len(names):
            report.skip(f"{len(fields)} fields instead of {len(names)}", number)
        else:
            yield number, dict(zip(names, fields, strict=True))


def read_tsv(
    path: Path,
    split: str,
    columns: TsvColumns,
    parse_label: Callable[[str], str | float | None],
    *,
    optional_labels: bool = False,
) -> Examples:
    """Return the texts or pairs of a file.

    `parse_label` returns the label for the text of a cell, or None if it is unknown. Labels may be missing in a test
    split, or in any split with `optional_labels`.
    """
    optional = optional_labels or is_test(split)
    # Text, pair, label, id and group.
    names = columns[:5]

    def parse(row: dict[str, str], report: ReadReport) -> list[TextExample]:
        text, pair, label, example_id, group = (next((row[n] for n in some if n in row), None) for some in names)
        if text is None or (columns.pair and pair is None):
            raise _missing_column(path, [*columns.text[:1], *columns.pair[:1]], row)
        if label is None and not optional:
            raise _missing_column(path, columns.label[:1], row)
        if not text.strip() or (columns.pair and not (pair or "").strip()):
            raise UnusableRow("no text")
        value = None if label is None else parse_label(label)
        if value is None and label is not None and not (optional and not label.strip()):
            raise _no_label(label)
        example_id = str(report.used) if example_id is None else example_id
        return [TextExample(example_id, text.strip(), pair.strip() if pair else None, value, group or "")]

    return read_rows(path, lambda report: tsv_rows(path, report, columns.header), parse)


def _no_label(text: str) -> UnusableRow:
    if text == "-":
        # Annotators of MNLI and SNLI disagreed.
        return UnusableRow("no gold label", malformed=False)
    return unknown_label(text)


def _missing_column(path: Path, names: Sequence[str], row: Mapping[str, str]) -> InputError:
    return InputError(f"{path}: no column {' or '.join(map(repr, names))}; the columns are {list_names(row)}")
