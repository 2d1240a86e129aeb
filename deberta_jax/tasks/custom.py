"""A custom table as a task: which columns to use, and how its rows become examples."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax.compression import SUFFIXES
from deberta_jax.tasks.cells import is_empty
from deberta_jax.tasks.column_layouts import nested_cell, nested_names, with_layout
from deberta_jax.tasks.columns import Columns
from deberta_jax.tasks.examples import Examples, ReadReport
from deberta_jax.tasks.metrics import several_regression_scores
from deberta_jax.tasks.predicted_tables import label_cells, write_predicted_table
from deberta_jax.tasks.rows import ROW_NUMBERS, UnusableRow, is_test, read_rows
from deberta_jax.tasks.submissions import objects_writer
from deberta_jax.tasks.tables import SUFFIXES as TABLE_SUFFIXES
from deberta_jax.tasks.tables import TableOptions, check_columns, location, table_format, table_rows
from deberta_jax.tasks.task import Metrics, Probabilities, SourceRows, Task, no_labels, unchanged

GENERIC = "generic"
DESCRIPTION = "your own table: csv, tsv, jsonl, json, parquet or xlsx"
_FILE_NAMES = {"train": ("train",), "dev": ("dev", "valid", "validation", "val"), "test": ("test",)}
_COMPRESSED = "", *SUFFIXES
# Rows whose fields are the columns of a table in JSON.
_HEAD_ROWS = 100

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
    cells: Callable[[Columns, dict[str, Any], Any, Mapping[str, Any] | None], dict[str, Any]] = label_cells
    """(columns, row, prediction, probabilities) -> the cells that a predicted table has for the prediction."""
    list_separator: Callable[[Columns], str] = lambda columns: " "
    """What separates the items of a prediction in a table without lists."""


class _Table(NamedTuple):
    """How to read the tables of a task; `notes` are those on the columns if all files have decided on them."""

    columns: Columns
    parser: RowParser
    encoding: str | None = None
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
    encoding: str | None = None,
) -> Task:
    """Return the task of custom tables, which are named train, dev and test."""
    table = _Table(columns, parser, encoding)

    def fit(task: Task, splits: Mapping[str, Sequence[Path]]) -> Task:
        paths = list(dict.fromkeys(path for paths in splits.values() for path in paths))
        decided = _decide(table, paths)
        return dataclasses.replace(
            task,
            read=lambda path, split: _read(decided, path, split),
            labels=decided.columns.marked or task.labels,
            source_rows=_source_rows(decided),
        )

    return Task(
        name=GENERIC,
        kind=columns.kind,
        description=DESCRIPTION,
        files={
            split: tuple(
                f"{name}{part}.{suffix}{end}"
                for end in _COMPRESSED
                for part in ("", "-*-of-*")
                for name in names
                for suffix in TABLE_SUFFIXES
            )
            for split, names in _FILE_NAMES.items()
        },
        read=lambda path, split: _read(_decide(table, [path]), path, split),
        labels=_labels(columns),
        write=_write,
        metrics=several_regression_scores(columns.label) if _has_several_numbers(columns) else metrics,
        best_metric=best_metric,
        collect_labels=parser.collect_labels,
        adapt=parser.adapt,
        fit=fit,
    )


def _labels(columns: Columns) -> tuple[str, ...]:
    """The labels that the options name; empty if the data determine them."""
    if len(columns.label) > 1:
        return columns.label
    return columns.names if columns.kind in ("single_label", "multi_label") else ()


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
    names = [
        name
        for name in (*parser.input_columns(columns), *parser.answer_columns(columns), columns.group, columns.id)
        if name and "." in name
    ]

    def add(row: dict[str, Any]) -> dict[str, Any]:
        nested = {name: nested_cell(row, name) for name in names if name not in row}
        return row | {name: cell for name, cell in nested.items() if cell is not None}

    return add if names else lambda row: row


class _ExampleRow(NamedTuple):
    """An example, its row, and the numbers of the rows that it consists of."""

    example: Any
    row: dict[str, Any]
    numbers: Sequence[int]


def _read(table: _Table, path: Path, split: str) -> Examples:
    """Return the examples of a table in a split; raises InputError for a missing column."""
    rows, reports = _read_with_rows(table, path, split)
    return Examples([row.example for row in rows], reports)


def _read_with_rows(table: _Table, path: Path, split: str) -> Examples:
    """Return an `_ExampleRow` for each example.

    A row of JSON without one of the input columns is malformed. An example without an answer is counted.
    """
    columns, parser = table.columns, table.parser
    inputs = (*parser.input_columns(columns), columns.id)
    required = inputs if is_test(split) else (*inputs, *parser.answer_columns(columns), columns.group)
    add_nested = _with_nested(columns, parser)

    def rows(report: ReadReport) -> NumberedRows:
        for note in table.notes or ():
            report.note(note)
        names: dict[str, None] = {}
        for number, row in table_rows(path, report, table.options):
            row = add_nested(row)
            names |= dict.fromkeys(row)
            if table_format(path) not in ("json", "jsonl"):
                check_columns(path, names, required)
            yield number, row
        if names:
            check_columns(path, names, required)

    def parse(numbered: tuple[int, str, dict[str, Any]], report: ReadReport) -> Iterator[_ExampleRow]:
        number, row_id, row = numbered
        if missing := next(
            (name for name in parser.input_columns(columns) if name is not None and name not in row), None
        ):
            raise UnusableRow(f"no {missing!r}")
        example = parser.parse(row_id, row, columns)
        if example.answer is None and not is_test(split):
            report.unlabelled += 1
        yield _ExampleRow(example, row, row.get(ROW_NUMBERS, (number,)))

    def named(report: ReadReport) -> Iterator[tuple[str, tuple[int, str, dict[str, Any]]]]:
        for number, row in parser.group(rows(report), columns, report):
            row_id = str(row.get(columns.id, number)) if columns.id else str(number)
            yield location(path, number), (number, row_id, row)

    return read_rows(path, named, parse)


def _source_rows(table: _Table) -> SourceRows:
    def groups(path: Path, split: str) -> list[str] | None:
        name = table.columns.group
        if name is None:
            return None
        cells = [row.row.get(name) for row in _read_with_rows(table, path, split).examples]
        return ["" if is_empty(cell) else str(cell).strip() for cell in cells]

    def write(
        folder: Path, path: Path, split: str, predictions: Sequence[Any], probabilities: Sequence[Probabilities]
    ) -> Path:
        cells: dict[int, dict[str, Any]] = {}
        rows = _read_with_rows(table, path, split).examples
        for row, prediction, shares in zip(rows, predictions, probabilities, strict=True):
            # Of a sentence with one word per row, each row has its part.
            parts = prediction if ROW_NUMBERS in row.row else (prediction,)
            for number, part in zip(row.numbers, parts, strict=True):
                cells[number] = table.parser.cells(table.columns, row.row, part, shares)
        return write_predicted_table(folder, path, table.options, cells, table.parser.list_separator(table.columns))

    return SourceRows(groups, write)


_write = objects_writer(
    lambda split: f"predictions-{split}.jsonl",
    lambda example, prediction: {
        "id": example.id,
        "prediction": getattr(prediction, "text", prediction),
    },
)
