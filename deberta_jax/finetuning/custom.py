"""Tasks by name, including `generic`: a user's own table as a task of one of the kinds."""

from deberta_jax.errors import InputError
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.tasks.catalogue import TASKS
from deberta_jax.tasks.custom import GENERIC, Columns, custom_task
from deberta_jax.tasks.task import Task


def find_task(name: str, columns: Columns, *, single_file: bool = False) -> Task:
    """The task of a name; `columns` describe a custom table, and `single_file` means one file for all splits."""
    if name == GENERIC:
        return generic_task(columns, single_file=single_file)
    if columns != Columns():
        raise InputError(f"--columns options are for the task {GENERIC}; the files of {name} have a fixed format")
    return TASKS[name]


def generic_task(columns: Columns, *, single_file: bool = False) -> Task:
    """The task of a custom table; raises InputError for an unknown kind."""
    kind = KINDS.get(columns.kind)
    if kind is None or kind.table is None:
        names = ", ".join(kind.name for kind in KINDS.values() if kind.table is not None)
        raise InputError(f"columns.kind is {columns.kind!r}; it must be one of {names}")
    return custom_task(columns, *kind.table, single_file=single_file)
