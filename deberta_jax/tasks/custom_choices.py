"""How a row of a custom table becomes a text with choices."""

import dataclasses
import string
from collections.abc import Mapping
from typing import Any, NamedTuple

from deberta_jax.tasks.cells import cell_text, cell_value, is_empty, is_missing, label_name, list_items
from deberta_jax.tasks.columns import ChoiceLabel, Columns
from deberta_jax.tasks.custom import RowParser, Rows
from deberta_jax.tasks.examples import ChoiceExample, ReadReport
from deberta_jax.tasks.predicted_tables import probability_cells
from deberta_jax.tasks.rows import UnusableRow, text_in, unknown_label

# The fields of a choice in the format of ARC and CommonsenseQA.
_TEXT, _LABEL = "text", "label"
# How exports of data sets write that the correct choice is hidden.
_HIDDEN = "-1"
# The share of rows that a reading of the labels must fit.
_MOST = 0.95


class _Choices(NamedTuple):
    """The texts of the choices of a row, and their names: columns, letters, or what the data set says."""

    texts: list[str]
    names: list[str]


def parse_multiple_choice(row_id: str, row: dict[str, Any], columns: Columns) -> ChoiceExample:
    """A text with at least two choices; with a `pair`, each choice continues it."""
    text = text_in(row, columns.text)
    choices = _choices(row, columns)
    beginning = f"{cell_text(row[columns.pair], columns.pair)} " if columns.pair else ""
    label = _label(row, columns)
    index = None if label is None else _index(label, choices, columns.choice_label)
    if label is not None and index is None:
        raise unknown_label(label)
    pairs = tuple((text, f"{beginning}{choice}".strip()) for choice in choices.texts)
    return ChoiceExample(row_id, pairs, index)


def _choices(row: dict[str, Any], columns: Columns) -> _Choices:
    """Return the choices of a row; the last ones may be empty if each has a column."""
    if len(columns.choices) > 1:
        cells = [row[name] for name in columns.choices]
        while cells and is_empty(cells[-1]):
            cells.pop()
        names = list(columns.choices)
        numbers = [name[len(name.rstrip(string.digits)) :] for name in names]
        if all(numbers) and len({name.rstrip(string.digits) for name in names}) == 1:
            # Columns such as option1 and option2 are also called 1 and 2.
            names = numbers
    else:
        cells, names = _listed(row, columns.choices[0], columns.separator)
    if len(cells) < 2 or any(map(is_empty, cells)):
        raise UnusableRow("fewer than two choices")
    return _Choices([str(cell).strip() for cell in cells], names)


def _listed(row: dict[str, Any], name: str, separator: str) -> tuple[list[Any], list[str]]:
    """Return the choices of a cell with a list, with an object of two lists, or with a list of objects."""
    cell = row[name]
    value = cell_value(cell)
    names: list[Any] = []
    if isinstance(value, dict) and _TEXT in value:
        items, names = value[_TEXT], value.get(_LABEL) or []
    elif isinstance(value, dict):
        names, items = list(value), list(value.values())
    elif isinstance(value, list) and value and all(isinstance(item, dict) and _TEXT in item for item in value):
        items, names = [item[_TEXT] for item in value], [item.get(_LABEL) for item in value]
    else:
        items = list_items(cell, separator)
        if name.endswith(f".{_TEXT}"):
            names = list_items(row.get(f"{name.removesuffix(_TEXT)}{_LABEL}"), separator)
    if not isinstance(items, list):
        raise UnusableRow(f"{name!r} is no list of choices")
    return items, [label_name(item) for item in names] if len(names) == len(items) else []


def _label(row: Mapping[str, Any], columns: Columns) -> Any:
    cell = row.get(columns.label[0])
    return None if is_missing(cell) or label_name(cell) == _HIDDEN else cell


def _index(label: Any, choices: _Choices, reading: ChoiceLabel) -> int | None:
    """Return the index of the correct choice by one reading of its label, by any with "auto"; None if there is none."""
    name = label_name(label)
    if reading == "name":
        letters = string.ascii_uppercase[: len(choices.texts)]
        if name in choices.names[: len(choices.texts)]:
            return choices.names.index(name)
        return letters.index(name.upper()) if len(name) == 1 and name.upper() in letters else None
    if reading == "text":
        names = list(map(label_name, choices.texts))
        return names.index(name) if name in names else None
    if reading in ("index", "number"):
        position = int(name) - (reading == "number") if name.isdecimal() else -1
        return position if 0 <= position < len(choices.texts) else None
    return next((index for other in _READINGS if (index := _index(label, choices, other)) is not None), None)


# In the order in which they are tried.
_READINGS: tuple[ChoiceLabel, ...] = ("name", "text", "index", "number")


def _decide(columns: Columns, rows: Rows, report: ReadReport) -> Columns:
    """Decide what the labels are by all rows: the first reading that fits nearly all of them."""
    if columns.choice_label != "auto":
        return columns
    indices: dict[ChoiceLabel, list[int | None]] = {reading: [] for reading in _READINGS}
    for row in rows():
        try:
            choices, label = _choices(row, columns), _label(row, columns)
        except (UnusableRow, KeyError):
            continue
        if label is not None:
            for reading in _READINGS:
                indices[reading].append(_index(label, choices, reading))
    counts = {reading: sum(index is not None for index in column) for reading, column in indices.items()}
    total = len(indices["index"])
    fitting = [reading for reading in _READINGS if total and counts[reading] >= _MOST * total]
    if not fitting:
        return columns
    reading = fitting[0]
    if reading == "index" and counts["number"] > counts["index"]:
        reading = "number"
    others = [other for other in fitting if other != "number" and indices[other] != indices[reading]]
    if others or reading == "number":
        hint = f"; if they are not, use --columns.choice-label {others[0]}" if others else ""
        report.note(f"labels are read as {_MEANINGS[reading]}{hint}")
    return dataclasses.replace(columns, choice_label=reading)


_MEANINGS = {
    "name": "the names of choices",
    "text": "the texts of choices",
    "index": "indices of choices from 0",
    "number": "numbers of choices from 1",
}


def _choice_cells(
    columns: Columns, row: dict[str, Any], prediction: int, probabilities: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The prediction as the labels of the table are: a name, a text, an index or a number."""
    choices = _choices(row, columns)
    names = choices.names or list(string.ascii_uppercase[: len(choices.texts)])
    answers: dict[ChoiceLabel, Any] = {
        "name": names[prediction] if prediction < len(names) else prediction,
        "text": choices.texts[prediction],
        "number": prediction + 1,
    }
    named = {names[int(index)]: value for index, value in (probabilities or {}).items() if int(index) < len(names)}
    return {"prediction": answers.get(columns.choice_label, prediction)} | probability_cells(named)


MULTIPLE_CHOICE = RowParser(
    parse_multiple_choice,
    lambda columns: (columns.text, columns.pair, *columns.choices),
    lambda columns: columns.label,
    decide=_decide,
    cells=_choice_cells,
)
