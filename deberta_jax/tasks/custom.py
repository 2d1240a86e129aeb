"""A custom table as a task: which columns to use, and how its rows become examples."""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax.errors import InputError, list_names
from deberta_jax.tasks.examples import Examples, ReadReport
from deberta_jax.tasks.rows import UnusableRow, is_test, read_rows
from deberta_jax.tasks.submissions import objects_writer
from deberta_jax.tasks.tables import FORMATS, table_rows
from deberta_jax.tasks.task import Metrics, Task, no_labels, unchanged

GENERIC = "generic"
DESCRIPTION = "your own table: csv, tsv, jsonl, json, parquet or xlsx"
_FILE_NAMES = {"train": ("train",), "dev": ("dev", "valid", "validation", "val"), "test": ("test",)}
# One in this many rows of a single table becomes the development set.
_DEV_SHARE = 10


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of a custom table (task `generic`)."""

    kind: str = "single_label"
    """What to predict: single_label, multi_label, regression, token, extractive_qa, multiple_choice or seq2seq."""
    text: str = "text"
    """Column with the text."""
    pair: str | None = None
    """Column with a second text."""
    label: str = "label"
    """Column with the label, the labels, the number, or the correct choice (its text, or its index from 0)."""
    id: str | None = None
    """Column with the name of a row; the row number by default."""
    separator: str = "|"
    """Separator of the labels in a cell that is not a list (multi_label)."""
    words: str = "words"
    """Column with the words: a list, or a text with spaces (token)."""
    tags: str = "tags"
    """Column with one tag per word: a list, or a text with spaces (token)."""
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


class RowParser(NamedTuple):
    """How the rows of a table become examples of one kind."""

    parse: Callable[[str, dict[str, Any], Columns, bool], Any]
    """(row_id, row, columns, is_test) -> example; raises UnusableRow. Only a row of a test set may lack its answer."""
    input_columns: Callable[[Columns], tuple[str | None, ...]]
    """The columns of the inputs; None for an option that is not set."""
    answer_columns: Callable[[Columns], tuple[str | None, ...]]
    """The columns of the answer, which a test set may lack."""
    collect_labels: Callable[[Sequence[Any]], tuple[str, ...]] = no_labels
    """Returns the classes of the training examples."""
    finish: Callable[[list[Any]], list[Any]] = list
    """Applied to all examples of a file."""
    adapt: Callable[[Task, Sequence[Any]], Task] = unchanged
    """Returns the task with the metrics and options that fit its examples."""


def custom_task(
    columns: Columns, parser: RowParser, metrics: Metrics, best_metric: str, *, single_file: bool = False
) -> Task:
    """Return the task of custom tables, which are named train, dev and test.

    A `single_file` is both the training set and the development set, a tenth of the texts.
    """

    def read(path: Path, split: str) -> Examples:
        return read_table(path, split, columns, parser, in_split=_in_share if single_file else _in_any)

    return Task(
        name=GENERIC,
        kind=columns.kind,
        description=DESCRIPTION,
        files={
            split: tuple(f"{name}.{suffix}" for name in names for suffix in FORMATS)
            for split, names in _FILE_NAMES.items()
        },
        read=read,
        labels=(),
        write=_write,
        metrics=metrics,
        best_metric=best_metric,
        collect_labels=parser.collect_labels,
        adapt=parser.adapt,
    )


def read_table(
    path: Path,
    split: str,
    columns: Columns,
    parser: RowParser,
    *,
    in_split: Callable[[Any, str], bool],
) -> Examples:
    """Return the examples of a table for which `in_split(example, split)`; raises InputError for a missing column."""
    inputs = (*parser.input_columns(columns), columns.id)
    required = inputs if is_test(split) else (*inputs, *parser.answer_columns(columns))

    def rows(report: ReadReport) -> Iterator[tuple[int, tuple[str, dict[str, Any]]]]:
        for number, row in table_rows(path, report):
            _check_columns(path, row, required)
            yield number, (str(row[columns.id]) if columns.id else str(number), row)

    def parse(row: tuple[str, dict[str, Any]], report: ReadReport) -> Iterator[Any]:
        example = parser.parse(*row, columns, is_test(split))
        if not in_split(example, split):
            raise UnusableRow(f"belongs to {'dev' if split == 'train' else 'train'}", malformed=False)
        yield example

    examples, reports = read_rows(path, rows, parse)
    return Examples(parser.finish(examples), reports)


def _check_columns(path: Path, row: Mapping[str, Any], required: Sequence[str | None]) -> None:
    missing = next((name for name in required if name is not None and name not in row), None)
    if missing is not None:
        similar = difflib.get_close_matches(missing, list(row), 1)
        raise InputError(
            f"{path}: no column {missing!r}; the columns are {list_names(row)}"
            + (f"; did you mean {similar[0]!r}?" if similar else "")
        )


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
