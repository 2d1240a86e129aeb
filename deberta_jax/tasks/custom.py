"""A custom table as a task: which columns to use, and how its rows become examples."""

import dataclasses
import difflib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro

from deberta_jax.compression import SUFFIXES
from deberta_jax.errors import InputError, list_names
from deberta_jax.tasks.column_layouts import nested_cell, nested_names, with_layout
from deberta_jax.tasks.examples import Examples, ReadReport
from deberta_jax.tasks.metrics import several_regression_scores
from deberta_jax.tasks.rows import UnusableRow, is_test, read_rows
from deberta_jax.tasks.submissions import objects_writer
from deberta_jax.tasks.tables import FORMATS, TableOptions, table_format, table_rows
from deberta_jax.tasks.tagging import Tagging
from deberta_jax.tasks.task import Metrics, Task, no_labels, unchanged

GENERIC = "generic"
DESCRIPTION = "your own table: csv, tsv, jsonl, json, parquet or xlsx"
_FILE_NAMES = {"train": ("train",), "dev": ("dev", "valid", "validation", "val"), "test": ("test",)}
_COMPRESSED = "", *SUFFIXES
# One in this many rows of a single table becomes the development set.
_DEV_SHARE = 10
# Rows whose fields are the columns of a table in JSON.
_HEAD_ROWS = 100
# How exports of data sets write that a test set has no labels.
_HIDDEN_LABEL = "-1"
ChoiceLabel = Literal["auto", "name", "text", "index", "number"]


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of a custom table (task `generic`), or the numbers of the columns of CoNLL files (task `ner`)."""

    kind: str = "single_label"
    """What to predict: single_label, multi_label, regression, ordinal, token, extractive_qa, multiple_choice or
    seq2seq."""
    text: str = "text"
    """Column with the text."""
    pair: str | None = None
    """Column with a second text; for multiple_choice, with the beginning of each choice."""
    label: tuple[str, ...] = ("label",)
    """Column with the label, the labels, the number, or the correct choice. Several columns: the probability of each
    label (single_label), 0 or 1 for each label (multi_label), or several numbers (regression)."""
    id: str | None = None
    """Column with the name of a row; the row number by default."""
    separator: str = "|"
    """Separator of the labels in a cell that is not a list (multi_label)."""
    words: str = "words"
    """Column with the words: a list, a text with spaces, or one word per row (token). Its number for `ner`."""
    tags: str = "tags"
    """Column with one tag per word, in the same form (token). Its number for `ner`."""
    sentence: str | None = None
    """Column that names the sentence of a row with one word, or that is filled only where a sentence begins (token)."""
    spans: str | None = None
    """Column with the spans of entities in the text, as Doccano, Label Studio and Prodigy export them (token)."""
    tagging: Literal["auto", "prefixes", "types", "plain"] = "auto"
    """How tags mark entities: with prefixes such as B-, by types without prefixes, or not at all (token)."""
    question: str = "question"
    """Column with the question (extractive_qa)."""
    context: str = "context"
    """Column with the text that contains the answer (extractive_qa)."""
    answer: str = "answer"
    """Column with the answer; empty if the context has none (extractive_qa)."""
    answer_start: str | None = None
    """Column with the position of the answer in characters; the first occurrence by default (extractive_qa)."""
    source: str = "source"
    """Column with the text to read (seq2seq)."""
    target: str = "target"
    """Column with the text to write (seq2seq)."""
    choices: tuple[str, ...] = ("choices",)
    """One column with a list of choices, or one column per choice (multiple_choice)."""
    choice_label: ChoiceLabel = "auto"
    """What the label of a choice is: its name (the column, or a letter), its text, its index from 0, or its number from
    1 (multiple_choice)."""
    header: tuple[str, ...] = ()
    """Names of all columns of a csv or tsv file without a header line."""
    names: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The names of labels that the table gives as numbers from 0 (`--labels`)."""

    @property
    def known_tagging(self) -> Tagging:
        """How tags mark entities, once this is decided."""
        return "prefixes" if self.tagging == "auto" else self.tagging


# All rows of the files of a table, from the start.
Rows = Callable[[], Iterator[dict[str, Any]]]
NumberedRows = Iterator[tuple[int, dict[str, Any]]]


def decide_nothing(columns: Columns, rows: Rows, report: ReadReport) -> Columns:
    """For kinds whose rows can be read one by one."""
    return columns


def one_row_each(rows: NumberedRows, columns: Columns, report: ReadReport) -> NumberedRows:
    """For kinds whose examples are rows."""
    return rows


class RowParser(NamedTuple):
    """How the rows of a table become examples of one kind."""

    parse: Callable[[str, dict[str, Any], Columns], Any]
    """(row_id, row, columns) -> example; raises UnusableRow. The answer of the example is None if the row has none."""
    input_columns: Callable[[Columns], tuple[str | None, ...]]
    """The columns of the inputs; None for an option that is not set."""
    answer_columns: Callable[[Columns], tuple[str | None, ...]]
    """The columns of the answer, which a test set may lack."""
    collect_labels: Callable[[Sequence[Any]], tuple[str, ...]] = no_labels
    """Returns the classes of the training examples."""
    decide: Callable[[Columns, Rows, ReadReport], Columns] = decide_nothing
    """(columns, all rows, report) -> the columns with what only all rows can decide; notes go into the report."""
    group: Callable[[NumberedRows, Columns, ReadReport], NumberedRows] = one_row_each
    """Joins the rows of an example."""
    adapt: Callable[[Task, Sequence[Any]], Task] = unchanged
    """Returns the task with the metrics and options that fit its examples."""


class _Table(NamedTuple):
    """How to read the tables of a task; `notes` are those on the columns if all files have decided on them."""

    columns: Columns
    parser: RowParser
    encoding: str | None = None
    single_file: bool = False
    notes: tuple[str, ...] | None = None

    @property
    def options(self) -> TableOptions:
        return TableOptions(self.encoding, self.columns.header)


def custom_task(
    columns: Columns,
    parser: RowParser,
    metrics: Metrics,
    best_metric: str,
    *,
    single_file: bool = False,
    encoding: str | None = None,
) -> Task:
    """Return the task of custom tables, which are named train, dev and test.

    A `single_file` is both the training set and the development set, a tenth of the texts.
    """
    table = _Table(columns, parser, encoding, single_file)

    def fit(task: Task, splits: Mapping[str, Sequence[Path]]) -> Task:
        paths = list(dict.fromkeys(path for paths in splits.values() for path in paths))
        decided = _decide(table, paths)
        return dataclasses.replace(task, read=lambda path, split: _read(decided, path, split))

    return Task(
        name=GENERIC,
        kind=columns.kind,
        description=DESCRIPTION,
        files={
            split: tuple(f"{name}.{suffix}{end}" for name in names for suffix in FORMATS for end in _COMPRESSED)
            for split, names in _FILE_NAMES.items()
        },
        read=lambda path, split: _read(_decide(table, [path]), path, split),
        labels=columns.label if len(columns.label) > 1 else (),
        write=_write,
        metrics=several_regression_scores(columns.label) if _has_several_numbers(columns) else metrics,
        best_metric=best_metric,
        collect_labels=parser.collect_labels,
        adapt=parser.adapt,
        fit=fit,
    )


def _has_several_numbers(columns: Columns) -> bool:
    return columns.kind == "regression" and len(columns.label) > 1


def _decide(table: _Table, paths: Sequence[Path]) -> _Table:
    """Decide on the columns by all files."""
    report = ReadReport("")

    def rows() -> Iterator[dict[str, Any]]:
        for path in paths:
            for _, row in table_rows(path, ReadReport(str(path)), table.options):
                yield row

    names = list(dict.fromkeys(name for row in itertools.islice(rows(), _HEAD_ROWS) for name in nested_names(row)))
    columns = with_layout(table.columns, Columns(), names, report)
    columns = table.parser.decide(columns, lambda: map(_with_nested(columns, table.parser), rows()), report)
    return table._replace(columns=columns, notes=tuple(report.notes))


def _with_nested(columns: Columns, parser: RowParser) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function that adds the cells of nested objects to a row, such as "answers.text"."""
    names = [name for name in (*parser.input_columns(columns), *parser.answer_columns(columns)) if name and "." in name]

    def add(row: dict[str, Any]) -> dict[str, Any]:
        nested = {name: nested_cell(row, name) for name in names if name not in row}
        return row | {name: cell for name, cell in nested.items() if cell is not None}

    return add if names else lambda row: row


def _read(table: _Table, path: Path, split: str) -> Examples:
    """Return the examples of a table in a split; raises InputError for a missing column.

    A row of JSON without one of the input columns is malformed. An example without an answer is counted.
    """
    columns, parser = table.columns, table.parser
    inputs = (*parser.input_columns(columns), columns.id)
    required = inputs if is_test(split) else (*inputs, *parser.answer_columns(columns))
    add_nested = _with_nested(columns, parser)

    def rows(report: ReadReport) -> NumberedRows:
        for note in table.notes or ():
            report.note(note)
        names: dict[str, None] = {}
        for number, row in table_rows(path, report, table.options):
            row = add_nested(row)
            names |= dict.fromkeys(row)
            if table_format(path) not in ("json", "jsonl"):
                _check_columns(path, names, required)
            yield number, row
        if names:
            _check_columns(path, names, required)

    def parse(numbered: tuple[str, dict[str, Any]], report: ReadReport) -> Iterator[Any]:
        row_id, row = numbered
        if missing := next(
            (name for name in parser.input_columns(columns) if name is not None and name not in row), None
        ):
            raise UnusableRow(f"no {missing!r}")
        example = parser.parse(row_id, row, columns)
        if not (_in_share if table.single_file else _in_any)(example, split):
            raise UnusableRow(f"belongs to {'dev' if split == 'train' else 'train'}", malformed=False)
        if example.answer is None and not is_test(split):
            report.unlabelled += 1
        yield example

    def named(report: ReadReport) -> Iterator[tuple[int, tuple[str, dict[str, Any]]]]:
        for number, row in parser.group(rows(report), columns, report):
            yield number, (str(row.get(columns.id, number)) if columns.id else str(number), row)

    examples, reports = read_rows(path, named, parse)
    if is_test(split) and all(getattr(example, "label", None) == _HIDDEN_LABEL for example in examples):
        examples = [example._replace(label=None) for example in examples]
    return Examples(examples, reports)


def _check_columns(path: Path, names: Iterable[str], required: Sequence[str | None]) -> None:
    names = list(names)
    missing = next((name for name in required if name is not None and name not in names), None)
    if missing is not None:
        similar = difflib.get_close_matches(missing, names, 1)
        hint = f"; did you mean {similar[0]!r}?" if similar else ""
        if not hint and table_format(path) in ("csv", "tsv"):
            hint = "; if the first line is not a header, name all columns with --columns.header"
        raise InputError(f"{path}: no column {missing!r}; the columns are {list_names(names)}{hint}")


def _in_any(example: Any, split: str) -> bool:
    """A table of one split has no examples of others."""
    return True


def _in_share(example: Any, split: str) -> bool:
    """Whether an example of a single table is in a split.

    A hash of its inputs decides, so that examples with equal inputs are in the same split.
    """
    if split not in ("train", "dev"):
        return True
    digest = hashlib.sha256(json.dumps(example.inputs).encode()).digest()
    return (int.from_bytes(digest[:8]) % _DEV_SHARE == 0) == (split == "dev")


_write = objects_writer(
    lambda split: f"predictions-{split}.jsonl",
    lambda example, prediction: {
        "id": example.id,
        "prediction": getattr(prediction, "text", prediction),
    },
)
