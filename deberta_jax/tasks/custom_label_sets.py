"""How a row of a custom table becomes a text with any number of labels."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.tasks.cells import is_empty, is_missing, label_name, list_items
from deberta_jax.tasks.columns import Columns
from deberta_jax.tasks.custom import RowParser, Rows
from deberta_jax.tasks.custom_rows import HIDDEN, label_columns, numbers_in, row_texts, text_columns, truth_or_number
from deberta_jax.tasks.examples import PROBABILITIES, ReadReport, TextExample
from deberta_jax.tasks.labels import collect_label_sets, named_label
from deberta_jax.tasks.predicted_tables import probability_cells
from deberta_jax.tasks.rows import UnusableRow

# What may separate labels in a cell in place of `columns.separator`.
_SEPARATORS = ",;|/\t\n"


def parse_multi_label(row_id: str, row: dict[str, Any], columns: Columns) -> TextExample:
    """A text or a pair with any number of labels; an empty cell means none, unless the column is missing.

    With several columns, or with numbers in one cell, each is the probability of a label, mostly 0 or 1.
    """
    texts = row_texts(row, columns)
    if len(columns.label) > 1:
        return _with_probabilities(row_id, texts, numbers_in(row, columns.label))
    (name,) = columns.label
    cell = row.get(name)
    if columns.marked:
        return _with_probabilities(row_id, texts, _marks(cell, columns))
    if name not in row or (is_missing(cell) and not is_empty(cell)):
        return TextExample(row_id, *texts, None)
    names = {
        named_label(label, columns.names) for label in list_items(cell, columns.separator) if not is_missing(label)
    }
    return TextExample(row_id, *texts, tuple(sorted(names)))


def _with_probabilities(row_id: str, texts: tuple[str, str | None], numbers: Mapping[str, float | None]) -> TextExample:
    """An example with the labels of at least one half; None if a number is missing, or if all are -1."""
    if any(number is None for number in numbers.values()) or all(number == HIDDEN for number in numbers.values()):
        return TextExample(row_id, *texts, None)
    if any(not 0 <= (number or 0) <= 1 for number in numbers.values()):
        raise UnusableRow("a label column is neither 0 nor 1 nor between")
    labels = tuple(sorted(label for label, number in numbers.items() if (number or 0) >= 0.5))
    is_soft = any(number not in (0, 1) for number in numbers.values())
    return TextExample(row_id, *texts, labels, extra={PROBABILITIES: dict(numbers)} if is_soft else {})


def _marks(cell: Any, columns: Columns) -> dict[str, float | None]:
    """The number of each label in a cell."""
    items = [None] * len(columns.marked) if is_missing(cell) else list_items(cell, columns.separator)
    if len(items) != len(columns.marked):
        raise UnusableRow(f"{len(items)} numbers for {len(columns.marked)} labels")
    return {name: truth_or_number(item) for name, item in zip(columns.marked, items, strict=True)}


def _decide(columns: Columns, rows: Rows, report: ReadReport) -> Columns:
    """Decide whether cells name their labels, or mark all labels with 0 and 1; report a separator that may be wrong."""
    if len(columns.label) > 1:
        return columns
    (column,) = columns.label
    cells, names = [], set[str]()
    for row in rows():
        cell = row.get(column)
        if not is_missing(cell):
            try:
                items = [label_name(item) for item in list_items(cell, columns.separator)]
            except UnusableRow:
                continue
            cells.append(tuple(items))
            names.update(items if isinstance(cell, str) else ())
    if _are_marks(cells, has_names=bool(columns.names)):
        return _marked(columns, len(cells[0]), report)
    for sign in _SEPARATORS.replace(columns.separator, ""):
        if _may_separate(sign, names):
            shown = {"\t": r"$'\t'", "\n": r"$'\n'"}.get(sign, f"'{sign}'")
            report.note(f"labels contain {sign!r}; if it separates labels, use --columns.separator {shown}")
            break
    return columns


def _are_marks(cells: Sequence[tuple[str, ...]], *, has_names: bool) -> bool:
    """Whether all cells have the same number of 0 and 1 (or probabilities), which no list of names has.

    A list of names or indices has none twice. A single 0 or 1 in each cell is an index if there are names.
    """
    if len({len(cell) for cell in cells}) != 1 or not all(_is_mark(item) for cell in cells for item in cell):
        return False
    if len(cells[0]) == 1:
        return not has_names
    return any(len(set(cell)) < len(cell) or not set(cell) <= {"0", "1", "true", "false"} for cell in cells)


def _is_mark(name: str) -> bool:
    try:
        return name in ("true", "false") or 0 <= float(name) <= 1
    except ValueError:
        return False


def _marked(columns: Columns, number: int, report: ReadReport) -> Columns:
    (column,) = columns.label
    if number == 1:
        report.note(f"column {column!r} has only 0 and 1, so it is one label, {column!r}")
        return dataclasses.replace(columns, marked=(column,))
    if columns.names and len(columns.names) != number:
        raise InputError(f"column {column!r} has {number} numbers per row, but --labels has {len(columns.names)} names")
    hint = "" if columns.names else "; name the labels with --labels"
    report.note(f"each cell of {column!r} marks {number} labels with 0 and 1{hint}")
    return dataclasses.replace(columns, marked=columns.names or tuple(map(str, range(number))))


def _may_separate(sign: str, names: set[str]) -> bool:
    """Whether splitting names at a sign gives fewer names, or names that occur alone, too."""
    joined = {name for name in names if sign in name}
    parts = {part.strip() for name in joined for part in name.split(sign)}
    return len(parts) < len(joined) or bool(parts & (names - joined))


def _cells(
    columns: Columns, row: dict[str, Any], prediction: Any, probabilities: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {"prediction": list(prediction)} | probability_cells(probabilities)


MULTI_LABEL = RowParser(
    parse_multi_label,
    text_columns,
    label_columns,
    collect_label_sets,
    decide=_decide,
    cells=_cells,
    list_separator=lambda columns: columns.separator,
)
