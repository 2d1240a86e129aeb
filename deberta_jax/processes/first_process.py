"""Work that one process of a run does for all: writing shared files and printing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from deberta_jax.errors import InputError
from deberta_jax.processes.join import current_group


def on_first_process(action: Callable[[], object]) -> None:
    """Run `action` on the first process while the others wait; if it raises, the others end with that error."""

    def run() -> None:
        action()

    from_first_process(run)


def from_first_process(action: Callable[[], Any]) -> Any:
    """The result of `action`, a JSON value, which only the first process runs, as `on_first_process` does."""
    return action() if jax.process_count() == 1 else _group().from_first(action)


def check_shared(folder: Path) -> None:
    """Raise InputError if this host does not see a folder that the first process has created."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: the first process has created this folder, but this host does not see it; choose a folder on a "
            f"file system that all hosts share"
        )


def agree(values: Mapping[str, Any]) -> None:
    """End the run if these values are not the same in all processes, with a message that names them."""
    if jax.process_count() > 1:
        _group().agree(values)


def print_once(text: str) -> None:
    """Print on the first process only."""
    if jax.process_index() == 0:
        print(text, flush=True)


def _group() -> Any:
    group = current_group()
    if group is None:
        raise InputError("several processes: start them with --processes.join, or call `processes.join.join` first")
    return group
