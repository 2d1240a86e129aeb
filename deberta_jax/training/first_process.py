"""Work that one process of a multi-process run does for all: writing shared files and printing."""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from deberta_jax.errors import InputError


def on_first_process(action: Callable[[], object]) -> None:
    """Run `action` on the first process while the others wait; if it raises, the others raise InputError."""
    error: BaseException | None = None
    if jax.process_index() == 0:
        try:
            action()
        except BaseException as caught:
            error = caught
    failed = error is not None
    if jax.process_count() > 1:
        failed = bool(multihost_utils.broadcast_one_to_all(np.asarray(failed)))
    if error is not None:
        raise error
    if failed:
        raise InputError("the first process failed; see its output for the error")


def print_once(text: str) -> None:
    """Print on the first process only."""
    if jax.process_index() == 0:
        print(text, flush=True)
