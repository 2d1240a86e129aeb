"""The table of tasks, and what follows from a task and its data: files, examples, labels."""

import dataclasses
import fnmatch
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError, list_names
from deberta_jax.tasks.conll import CONLL
from deberta_jax.tasks.custom import DESCRIPTION, GENERIC
from deberta_jax.tasks.examples import MAX_MALFORMED, Examples, TextExample
from deberta_jax.tasks.glue import GLUE
from deberta_jax.tasks.labels import ENTAILMENT_LABELS, NLI_LABELS, case_variants
from deberta_jax.tasks.multiple_choice import MULTIPLE_CHOICE
from deberta_jax.tasks.nli import NLI
from deberta_jax.tasks.rows import is_test
from deberta_jax.tasks.squad import SQUAD
from deberta_jax.tasks.superglue import SUPERGLUE
from deberta_jax.tasks.task import Task

# The rows of training and development files without a label.
UNLABELLED = "unlabelled"
_log = logging.getLogger(__name__)

TASKS: dict[str, Task] = {
    task.name: task for tasks in (GLUE, SUPERGLUE, SQUAD, MULTIPLE_CHOICE, CONLL, NLI) for task in tasks
}
# The names of all tasks and of `generic`, with one line each.
DESCRIPTIONS: dict[str, str] = {name: task.description for name, task in TASKS.items()} | {GENERIC: DESCRIPTION}


def find_splits(task: Task, data: Path) -> dict[str, list[Path]]:
    """Return the files of each split in a folder, or in its subfolder with the task's name.

    A file is a custom table, which is the training set. Raises InputError if there is no file of the task.
    """
    if not data.exists():
        raise InputError(f"{data}: no such file or folder")
    if data.is_file():
        if task.name != GENERIC:
            raise InputError(f"{data}: expected a folder with {task.file_names('train')}")
        return {"train": [data]}
    for folder in (data, *_subfolders(task.name, data)):
        splits = {split: _first_match(folder, patterns) for split, patterns in task.files.items()}
        if any(splits.values()):
            if task.name == GENERIC:
                _warn_of_other_tables(task, folder, splits)
            return {split: paths for split, paths in splits.items() if paths}
    expected = "; ".join(f"{split}: {task.file_names(split)}" for split in task.files)
    raise InputError(
        f"{data}: no file of {task.name} in this folder; expected {expected[:400]}; it contains "
        f"{list_names(sorted(path.name for path in data.iterdir())) or 'nothing'}"
    )


def find_evaluation_splits(task: Task, data: Path) -> dict[str, list[Path]]:
    """Return the files of each split except the training set; one file, of any task, is a test set."""
    if data.is_file():
        return {"test": [data]}
    return {split: paths for split, paths in find_splits(task, data).items() if split != "train"}


def data_name(task: Task, data: Path) -> str:
    """Return the name of a data set for a title: the task's, or that of a custom table or of its folder."""
    return data.resolve().name if task.name == GENERIC else task.name


def _subfolders(name: str, data: Path) -> Iterable[Path]:
    """Return the subfolders named after a task, regardless of case and hyphens."""
    plain = name.removeprefix("superglue-").replace("-", "")
    return sorted(path for path in data.iterdir() if path.is_dir() and path.name.lower().replace("-", "") == plain)


def _first_match(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the paths that match the first pattern with a match; exactly, or else except for case."""
    if paths := next((paths for pattern in patterns if (paths := sorted(folder.glob(pattern)))), []):
        return paths
    names = {path.name.lower(): path for path in sorted(folder.iterdir())}
    matches = (fnmatch.filter(names, pattern.lower()) for pattern in patterns)
    return [names[name] for name in next(filter(None, matches), [])]


def _warn_of_other_tables(task: Task, folder: Path, splits: Mapping[str, Sequence[Path]]) -> None:
    """Log the tables of a split that are not read, because another one is."""
    for split, paths in splits.items():
        others = {path.name for pattern in task.files[split] for path in folder.glob(pattern)} - {p.name for p in paths}
        if others and paths:
            _log.warning("%s: %s is read, not %s", folder, paths[0].name, list_names(sorted(others)))


def load(task: Task, paths: Sequence[Path], split: str, max_malformed: float = MAX_MALFORMED) -> Examples:
    """Read the files of a split, in order; raises InputError if a larger share of the rows of one is malformed."""
    parts = [task.read(path, split) for path in paths]
    for part in parts:
        for report in part.reports:
            report.check(max_malformed)
    return Examples(
        [example for part in parts for example in part.examples], [report for part in parts for report in part.reports]
    )


def separate_unlabelled(splits: Mapping[str, Examples]) -> dict[str, Examples]:
    """Move the unlabelled examples of the splits except test sets into the split "unlabelled", which is only predicted.

    Raises InputError if the training set or the development set has no label at all.
    """
    separated: dict[str, Examples] = {}
    others: list[Any] = []
    for split, (examples, reports) in splits.items():
        labelled = examples if is_test(split) else [example for example in examples if example.answer is not None]
        if not labelled and examples:
            raise InputError(f"{reports[0].file}: none of {len(examples):,} rows has a label")
        if not is_test(split):
            others += [example for example in examples if example.answer is None]
        separated[split] = Examples(labelled, reports)
    return separated | ({UNLABELLED: Examples(others, [])} if others else {})


def without_placeholders(splits: Mapping[str, Examples], labels: Sequence[str]) -> dict[str, Examples]:
    """Remove the labels of a test set of texts if all are the same unknown one, such as "?" or -1; this is logged.

    Of numbers, an unknown one is outside of those of the training set.
    """
    train = [example.answer for example in splits["train"].examples] if "train" in splits else []
    hidden = dict(splits)
    for split, (examples, reports) in splits.items():
        values = list({example.label for example in examples if isinstance(example, TextExample)})
        if is_test(split) and len(values) == 1 and _is_placeholder(values[0], labels, train):
            _log.warning("%s: the label of all rows is %s, so they are only predicted", split, values[0])
            hidden[split] = Examples([example._replace(label=None) for example in examples], reports)
    return hidden


def _is_placeholder(value: Any, labels: Sequence[str], train: Sequence[Any]) -> bool:
    if isinstance(value, str):
        return value not in labels
    if isinstance(value, float):
        numbers = [number for number in train if isinstance(number, float)]
        return bool(numbers) and not min(numbers) <= value <= max(numbers)
    return isinstance(value, tuple) and bool(value) and all(isinstance(v, str) and v not in labels for v in value)


def labels_of(task: Task, examples: Sequence[Any]) -> tuple[str, ...]:
    """Return the labels for a model: the task's labels, or those of its training examples.

    Labels that differ only in case are logged. Raises InputError if the training examples have too few.
    """
    labels = task.labels or task.collect_labels(examples)
    if variants := case_variants(labels):
        # Accents and invisible characters are shown by their codes.
        listed = list_names(
            "/".join(label.encode("ascii", "backslashreplace").decode() for label in g) for g in variants
        )
        _log.warning(
            "labels that differ only in case or spaces are different labels: %s; if they are one, edit the table",
            listed,
        )
    return labels


def with_data(task: Task, *splits: Sequence[Any]) -> Task:
    """Return the task with the metrics and options that fit its examples.

    Tags of a custom table that do not mark entities are scored by accuracy; a custom table of questions may lack
    answers.
    """
    return task.adapt(task, [example for examples in splits for example in examples])


def check_labels(labels: Sequence[str], splits: Mapping[str, Examples]) -> None:
    """Raise InputError for a text with a label that the model does not have."""
    known = set(labels)
    for split, examples in splits.items():
        for example in examples.examples:
            if isinstance(example, TextExample):
                values = example.label if isinstance(example.label, tuple) else (example.label,)
                if unknown := [value for value in values if isinstance(value, str) and value not in known]:
                    is_unnamed = all(label == f"LABEL_{number}" for number, label in enumerate(labels))
                    hint = "; it has no label names, like a model that was not fine-tuned" if is_unnamed else ""
                    raise InputError(
                        f"{split}, example {example.id}: label {unknown[0]!r} is not one of the model's labels: "
                        f"{list_names(labels)}{hint}"
                    )


def fit_to_model(task: Task, labels: Sequence[str], model: str) -> Task:
    """Return the task for a model with these labels, with a `label_map` if needed; raises InputError if they differ.

    A model with the three labels of MNLI serves tasks with two: both other labels mean that there is no entailment.
    """
    if not task.labels or set(labels) == set(task.labels):
        return task
    if set(task.labels) == set(ENTAILMENT_LABELS) and set(labels) == set(NLI_LABELS):
        return dataclasses.replace(task, label_map=dict.fromkeys(("contradiction", "neutral"), "not_entailment"))
    raise InputError(
        f"{model}: its labels are {list_names(labels)}, but those of {task.name} are {', '.join(task.labels)}"
    )
