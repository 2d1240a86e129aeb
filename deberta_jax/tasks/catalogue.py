"""The table of tasks, and what follows from a task and its data: files, examples, labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.tasks.examples import Examples
from deberta_jax.tasks.task import Task

TASKS: dict[str, Task]
# The names of all tasks and of `generic`, with one line each.
DESCRIPTIONS: dict[str, str]


def find_splits(task: Task, data: Path) -> dict[str, list[Path]]:
    """Return the files of each split in a folder, or in its subfolder with the task's name, for training.

    One file is a user's own table, which is both the training and the development set.
    """
    ...


def find_evaluation_splits(task: Task, data: Path) -> dict[str, list[Path]]:
    """Return the files of each split except the training set; one file is a test set."""
    ...


def load(task: Task, paths: Sequence[Path], split: str) -> Examples:
    """Read the files of a split, in order."""
    ...


def labels_of(task: Task, examples: Sequence[Any]) -> tuple[str, ...]:
    """Return the labels for a model: the task's labels, or those of its training examples."""
    ...


def with_data(task: Task, *splits: Sequence[Any]) -> Task:
    """Return the task with the metrics and options that fit its examples (custom tables only)."""
    ...


def check_labels(labels: Sequence[str], splits: Mapping[str, Examples]) -> None:
    """Raise InputError for an example of a text whose label is not one of `labels`."""
    ...


def fit_to_model(task: Task, labels: Sequence[str], model: str) -> Task:
    """Return the task for a model with these labels, with a `label_map` if needed; raises InputError if they differ."""
    ...
