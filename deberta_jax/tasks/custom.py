"""A user's own table as a task: which columns to use, and how its rows become examples."""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax.errors import InputError
from deberta_jax.tasks.examples import Examples, ReadReport
from deberta_jax.tasks.submissions import write_objects
from deberta_jax.tasks.tables import FORMATS, table_rows
from deberta_jax.tasks.task import Metrics, Task, no_labels, unchanged

GENERIC = "generic"
DESCRIPTION = "your own table: csv, tsv, jsonl, json or parquet"
_FILE_NAMES = {"train": ("train",), "dev": ("dev", "valid", "validation", "val"), "test": ("test",)}
# One in this many rows of a single table becomes the development set.
_DEV_SHARE = 10


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of your own table (task `generic`)."""

    kind: str = "single_label"
    """What to predict: single_label, multi_label, regression, token, extractive_qa or multiple_choice."""
    text: str = "text"
    """Column with the text."""
    pair: str | None = None
    """Column with a second text."""
    label: str = "label"
    """Column with the label, the labels (multi_label), the number (regression), or the correct choice as its text or
    its index from 0 (multiple_choice)."""
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
    choices: tuple[str, ...] = ("choices",)
    """One column with a list of choices, or one column per choice (multiple_choice)."""


class UnusableRow(Exception):
    """The reason why a row cannot become an example, in a few words."""


class RowParser(NamedTuple):
    """How the rows of a table become examples of one kind."""

    parse: Callable[[str, dict[str, Any], Columns, bool], Any]
    """(id, row, columns, is_test) -> example; raises UnusableRow. Only a row of a test set may lack its answer."""
    columns: Callable[[Columns], tuple[str | None, ...]]
    """The columns that must exist; None for an option that is not set."""
    collect_labels: Callable[[Sequence[Any]], tuple[str, ...]] = no_labels
    """Returns the classes of the training examples."""
    finish: Callable[[list[Any]], list[Any]] = list
    """Applied to all examples of a file."""
    adapt: Callable[[Task, Sequence[Any]], Task] = unchanged
    """Returns the task with the metrics and options that fit its examples."""


def custom_task(
    columns: Columns, parser: RowParser, metrics: Metrics, best_metric: str, *, single_file: bool = False
) -> Task:
    """Return the task of a user's own tables, named train, dev and test.

    Of a `single_file` a tenth is the development set.
    """
    ...
