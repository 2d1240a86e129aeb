"""A user's own table as a task: which columns hold what."""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.tasks.conll import scheme_of, to_iob2, well_formed
from deberta_jax.tasks.examples import (
    ChoiceExample,
    Examples,
    Kind,
    ReadReport,
    SpanExample,
    TaskData,
    TextExample,
    WordsExample,
)
from deberta_jax.tasks.submissions import write_objects
from deberta_jax.tasks.tables import FORMATS, table_rows

KINDS: tuple[Kind, ...] = ("single_label", "regression", "multi_label", "token", "extractive_qa", "multiple_choice")
_NAMES = {"train": ("train",), "dev": ("dev", "valid", "validation", "val"), "test": ("test",)}
# One row in so many is held out of a table that stands alone.
_HELD_OUT = 10


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what (for `generic`).

    `kind`: one of several labels of a text or a pair ("labels"), a number ("number"), any of several labels
    ("several"), a tag for each word ("tags"), a stretch of a context that answers a question ("span"), one of several
    choices ("choice").
    """

    kind: Kind = "single_label"
    text: str = "text"
    pair: str | None = None
    label: str = "label"
    """The label, number, labels, or the right choice by its place from 0 or its text."""
    id: str | None = None
    separator: str = "|"
    """Between the labels of a text (several), where the column is no list."""
    words: str = "words"
    """Words between spaces, or a list (tags)."""
    tags: str = "tags"
    """As many tags."""
    question: str = "question"
    context: str = "context"
    answer: str = "answer"
    """Empty where the context has none (span)."""
    answer_start: str | None = None
    """Characters before the answer; by default it is looked for."""
    choices: tuple[str, ...] = ("choices",)
    """A column with a list, or a column for each choice."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"columns.kind is {self.kind!r}; there are {', '.join(KINDS)}")


class _Skipped(Exception):
    """Why a row becomes no example, in a few words."""


def own_task(columns: Columns, *, alone: bool = False) -> TaskData:
    """The task of tables named train, dev and test, or of one that stands `alone`; labels are found in the data."""
    files = {
        split: tuple(f"{name}.{ending}" for name in names for ending in FORMATS) for split, names in _NAMES.items()
    }

    def read(path: Path, split: str) -> Examples:
        return read_table(path, split, columns, alone=alone)

    return TaskData(columns.kind, files, read, (), _write)


def read_table(path: Path, split: str, columns: Columns, *, alone: bool = False) -> Examples:
    """The examples of a table; of one that stands `alone` a tenth of the texts is for `dev`, the others for `train`.

    Which tenth follows from the text, so that a text that stands there twice is on one side.
    """
    account = ReadReport(str(path))
    make = _EXAMPLES[columns.kind]
    shared = alone and split in ("train", "dev")
    tested = split == "test"
    examples = []
    wanted = _wanted(columns)
    for number, row in table_rows(path, account):
        if number_missing := [name for name in wanted if name not in row]:
            missing = [name for name in number_missing if not (tested and name in _answers(columns))]
            if missing:
                near = difflib.get_close_matches(missing[0], list(row), 1)
                raise InputError(
                    f"{path}: no column {missing[0]!r}; there are {', '.join(row)}"
                    + (f"; did you mean {near[0]!r}?" if near else "")
                )
        try:
            name = str(row[columns.id]) if columns.id else str(number)
            example = make(name, row, columns, tested)
        except _Skipped as error:
            account.skip(str(error), number)
            continue
        if shared and (_side(example) == 0) != (split == "dev"):
            account.skip("held out" if split == "train" else "not held out", number, malformed=False)
            continue
        account.use()
        examples.append(example)
    account.check()
    return Examples(_as_iob2(examples) if columns.kind == "token" else examples, [account])


def _as_iob2(examples: list[WordsExample]) -> list[WordsExample]:
    """Tags that mark entities, of whatever scheme, as IOB2; others, such as parts of speech, as they are."""
    tags = [example.tags for example in examples if example.tags is not None]
    if not all(well_formed(tag) for its in tags for tag in its):
        return examples
    scheme = scheme_of(tags)
    return [
        example if example.tags is None else example._replace(tags=tuple(to_iob2(example.tags, scheme)))
        for example in examples
    ]


def _side(example: Any) -> int:
    """0 for one in ten."""
    parts = [value for name, value in zip(example._fields, example, strict=True) if name in _READ]
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8]) % _HELD_OUT


_READ = "text", "pair", "words", "question", "context", "pairs"


def _wanted(columns: Columns) -> list[str]:
    its = {
        "single_label": (columns.text, columns.pair, columns.label),
        "regression": (columns.text, columns.pair, columns.label),
        "multi_label": (columns.text, columns.pair, columns.label),
        "token": (columns.words, columns.tags),
        "extractive_qa": (columns.question, columns.context, columns.answer, columns.answer_start),
        "multiple_choice": (columns.text, *columns.choices, columns.label),
    }[columns.kind]
    return [name for name in (*its, columns.id) if name is not None]


def _answers(columns: Columns) -> tuple[str | None, ...]:
    return columns.label, columns.tags, columns.answer, columns.answer_start


def _text(row: dict[str, Any], name: str) -> str:
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise _Skipped(f"no text in {name}")
    return value.strip()


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value != value


def _given(row: dict[str, Any], name: str, tested: bool) -> Any:
    """The answer; None where a test table has none, which another one must have."""
    value = row.get(name)
    if _blank(value):
        if tested:
            return None
        raise _Skipped(f"no {name}")
    return value


def label_name(value: Any) -> str:
    """One name for a label however the table writes it: 1, 1.0 and "1" are the same."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    name = str(value).strip()
    whole, point, rest = name.partition(".")
    return whole if point and whole.lstrip("-").isdecimal() and not rest.strip("0") else name


def _labelled(name: str, row: dict[str, Any], columns: Columns, tested: bool) -> TextExample:
    label = _given(row, columns.label, tested)
    pair = _text(row, columns.pair) if columns.pair else None
    return TextExample(name, _text(row, columns.text), pair, None if label is None else label_name(label))


def _numbered(name: str, row: dict[str, Any], columns: Columns, tested: bool) -> TextExample:
    value = _given(row, columns.label, tested)
    pair = _text(row, columns.pair) if columns.pair else None
    try:
        number = None if value is None else float(value)
    except (TypeError, ValueError):
        raise _Skipped(f"{str(value)[:20]!r} is no number") from None
    if number is not None and not abs(number) < float("inf"):
        raise _Skipped("infinite number")
    return TextExample(name, _text(row, columns.text), pair, number)


def _several(name: str, row: dict[str, Any], columns: Columns, tested: bool) -> TextExample:
    """Without labels none of them holds."""
    value = row.get(columns.label)
    pair = _text(row, columns.pair) if columns.pair else None
    if tested and _blank(value):
        return TextExample(name, _text(row, columns.text), pair, None)
    labels = tuple(sorted({label_name(label) for label in _list(value, columns.separator) if not _blank(label)}))
    return TextExample(name, _text(row, columns.text), pair, labels)


def _list(value: Any, separator: str | None) -> list[Any]:
    if isinstance(value, list | tuple):
        return list(value)
    if _blank(value):
        return []
    text = str(value).strip()
    if text.startswith("[") and text.endswith("]"):
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if isinstance(found, list):
            return found
    return text.split(separator)


def _tagged(name: str, row: dict[str, Any], columns: Columns, tested: bool) -> WordsExample:
    words = tuple(str(word) for word in _list(row[columns.words], None))
    if not words or not all(word.strip() for word in words):
        raise _Skipped(f"no words in {columns.words}")
    tags = _given(row, columns.tags, tested)
    its = None if tags is None else tuple(label_name(tag) for tag in _list(tags, None))
    if its is not None and len(its) != len(words):
        raise _Skipped("another number of tags than of words")
    return WordsExample(name, words, its, (len(words),))


def _span(name: str, row: dict[str, Any], columns: Columns, tested: bool) -> SpanExample:
    question, context = _text(row, columns.question), row[columns.context]
    if not isinstance(context, str) or not context.strip():
        raise _Skipped(f"no text in {columns.context}")
    if columns.answer not in row:
        return SpanExample(name, question, context, None)
    answer = row[columns.answer]
    if _blank(answer):
        return SpanExample(name, question, context, ())
    text = str(answer).strip()
    start = -1
    if columns.answer_start and not _blank(row[columns.answer_start]):
        try:
            start = int(row[columns.answer_start])
        except (TypeError, ValueError):
            raise _Skipped(f"no number in {columns.answer_start}") from None
    if not context.startswith(text, start) or start < 0:
        start = context.find(text)
    if start < 0:
        raise _Skipped("answer that is not in the context")
    return SpanExample(name, question, context, ((text, start),))


def _chosen(name: str, row: dict[str, Any], columns: Columns, tested: bool) -> ChoiceExample:
    text = _text(row, columns.text)
    if len(columns.choices) == 1:
        choices = [str(choice) for choice in _list(row[columns.choices[0]], columns.separator)]
    else:
        choices = [str(row[column]) for column in columns.choices]
    if len(choices) < 2 or not all(choice.strip() for choice in choices):
        raise _Skipped("fewer than two choices")
    label = _given(row, columns.label, tested)
    place: int | None = None
    if label is not None:
        named = label_name(label)
        if named in choices:
            place = choices.index(named)
        elif named.isdecimal() and int(named) < len(choices):
            place = int(named)
        else:
            raise _Skipped(f"label {named[:20]!r}")
    return ChoiceExample(name, tuple((text, choice) for choice in choices), place)


_EXAMPLES: dict[Kind, Callable[[str, dict[str, Any], Columns, bool], Any]] = {
    "single_label": _labelled,
    "regression": _numbered,
    "multi_label": _several,
    "token": _tagged,
    "extractive_qa": _span,
    "multiple_choice": _chosen,
}


def _write(folder: Path, split: str, examples: Sequence[Any], predictions: Sequence[Any]) -> list[Path]:
    """Lines of id and prediction."""

    def lines() -> Iterator[dict[str, Any]]:
        for example, prediction in zip(examples, predictions, strict=True):
            value = prediction.text if hasattr(prediction, "text") else prediction
            yield {"id": example.id, "prediction": value}

    return write_objects(folder / f"predictions-{split}.jsonl", lines())
