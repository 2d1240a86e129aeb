"""Tasks by name, including `generic`: a user's own table as a task of one of the kinds."""

import dataclasses
from collections.abc import Sequence

from deberta_jax.errors import InputError
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.tasks.catalogue import TASKS
from deberta_jax.tasks.columns import Columns
from deberta_jax.tasks.conll import WordColumns, conll_task
from deberta_jax.tasks.custom import GENERIC, custom_task
from deberta_jax.tasks.task import Task

_WORDS = "ner"


def find_task(
    name: str,
    columns: Columns,
    *,
    labels: Sequence[str] = (),
    encoding: str | None = None,
) -> Task:
    """The task of a name.

    `columns` describe a custom table, or select columns of CoNLL files by number. `labels` are the names of labels that
    a custom table gives as numbers, and `encoding` that of its text files.
    """
    if name == GENERIC:
        return generic_task(dataclasses.replace(columns, names=tuple(labels)), encoding=encoding)
    if labels:
        raise InputError(f"--labels is for the task {GENERIC}; the labels of {name} are known")
    if name == _WORDS:
        return conll_task(_word_columns(columns, encoding))
    if columns != Columns() or encoding is not None:
        option = "--encoding" if columns == Columns() else "--columns options"
        raise InputError(f"{option} are for the task {GENERIC}; the files of {name} have a fixed format")
    return TASKS[name]


def generic_task(columns: Columns, *, encoding: str | None = None) -> Task:
    """The task of a custom table; raises InputError for an unknown kind."""
    kind = KINDS.get(columns.kind)
    if kind is None or kind.table is None:
        names = ", ".join(kind.name for kind in KINDS.values() if kind.table is not None)
        raise InputError(f"columns.kind is {columns.kind!r}; it must be one of {names}")
    return custom_task(columns, *kind.table, encoding=encoding)


def _word_columns(columns: Columns, encoding: str | None) -> WordColumns:
    """The columns of CoNLL files, which have numbers."""
    numbers = {}
    for field in ("words", "tags"):
        value = getattr(columns, field)
        if value != getattr(Columns(), field):
            if not value.isdecimal():
                raise InputError(f"--columns.{field} is {value!r}; the columns of {_WORDS} have numbers from 1")
            numbers[field] = int(value)
    if dataclasses.replace(columns, words="words", tags="tags") != Columns():
        raise InputError(f"of the --columns options, {_WORDS} has words and tags: the numbers of columns from 1")
    return WordColumns(**numbers, encoding=encoding)
