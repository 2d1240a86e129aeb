"""The columns of well-known data sets, which are used where a table lacks the default columns."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from deberta_jax.errors import list_names
from deberta_jax.tasks.examples import ReadReport

Columns = TypeVar("Columns")
Layout = Mapping[str, str | tuple[str, ...]]

_TEXTS: tuple[Layout, ...] = (
    {"text": "sentence1", "pair": "sentence2"},
    {"text": "premise", "pair": "hypothesis"},
    {"text": "question1", "pair": "question2"},
    {"text": "sentence"},
)
# By kind; the first layout whose columns a table has.
LAYOUTS: Mapping[str, tuple[Layout, ...]] = {
    "single_label": _TEXTS,
    "multi_label": _TEXTS,
    "regression": _TEXTS,
    "ordinal": _TEXTS,
    "token": (
        {"words": "tokens", "tags": "ner_tags"},
        {"words": "tokens", "tags": "tags"},
        {"words": "tokens", "tags": "labels"},
        {"words": "Word", "tags": "Tag"},
        {"words": "word", "tags": "tag"},
        # Label Studio, Prodigy, Doccano.
        {"text": "data.text", "spans": "annotations"},
        {"text": "text", "spans": "spans"},
        {"text": "text", "spans": "entities"},
        {"text": "text", "spans": "label"},
        {"text": "text", "spans": "labels"},
        {"words": "tokens"},
    ),
    "extractive_qa": (
        {"answer": "answers"},
        {"answer": "answers.text", "answer_start": "answers.answer_start"},
    ),
    "multiple_choice": (
        # SWAG, HellaSwag.
        {"text": "sent1", "pair": "sent2", "choices": ("ending0", "ending1", "ending2", "ending3")},
        {"text": "ctx", "choices": ("endings",)},
        # ARC as AI2 publishes it; CommonsenseQA and ARC of the hub, also with flattened columns.
        {"text": "question.stem", "choices": ("question.choices",), "label": ("answerKey",)},
        {"text": "question", "choices": ("choices.text",), "label": ("answerKey",)},
        {"text": "question", "choices": ("choices",), "label": ("answerKey",)},
        # RACE, COPA, WinoGrande, PIQA.
        {"text": "article", "pair": "question", "choices": ("options",), "label": ("answer",)},
        {"text": "premise", "choices": ("choice1", "choice2")},
        {"text": "sentence", "choices": ("option1", "option2"), "label": ("answer",)},
        {"text": "goal", "choices": ("sol1", "sol2")},
        {"text": "prompt", "choices": ("A", "B", "C", "D", "E"), "label": ("answer",)},
    ),
}
# The fields of answers; a text without spans is no table of words.
_ANSWERS = "label", "answer", "answer_start", "tags"


def nested_names(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the columns of a row, and those of objects in them, as in "answers.text"."""
    for name, cell in row.items():
        yield name
        if isinstance(cell, dict):
            yield from (f"{name}.{key}" for key in cell)


def nested_cell(row: Mapping[str, Any], name: str) -> Any:
    """Return the cell "answers.text" of an object in a row; None if there is none."""
    cell: Any = row
    for key in name.split("."):
        cell = cell.get(key) if isinstance(cell, Mapping) else None
    return cell


def with_layout(columns: Columns, default: Columns, names: Sequence[str], report: ReadReport) -> Columns:
    """Return the columns of a well-known layout for the options that are not set, if the table lacks the default ones.

    The first layout applies whose columns the table has all, or else all except the answers, which a test set may lack.
    """
    unset = {field for field, value in vars(columns).items() if value == vars(default)[field]}
    for layout, optional in ((layout, some) for some in ((), _ANSWERS) for layout in _layouts(columns)):
        fields = {field: value for field, value in layout.items() if field in unset}
        required = [value for field, value in layout.items() if field not in optional]
        is_present = bool(required) and all(name in names for value in required for name in _names(value))
        agrees = all(vars(columns)[field] == value for field, value in layout.items() if field not in unset)
        is_missing = any(not set(_names(vars(columns)[field])) & set(names) for field in fields)
        if fields and agrees and is_present and is_missing and _needs(columns, unset, names):
            changed = {field: value for field, value in fields.items() if value != vars(columns)[field]}
            listed = list_names(
                f"--columns.{field.replace('_', '-')} {' '.join(_names(value))}" for field, value in changed.items()
            )
            report.note(f"columns by their names: {listed}")
            return dataclasses.replace(columns, **changed)  # type: ignore[type-var]
    return columns


def _layouts(columns: Any) -> tuple[Layout, ...]:
    return LAYOUTS.get(columns.kind, ())


def _needs(columns: Any, unset: set[str], names: Sequence[str]) -> bool:
    """Whether a token table lacks its words; the other kinds always need the columns that they lack."""
    return columns.kind != "token" or (columns.spans is None and columns.words not in names)


def _names(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value or ()
