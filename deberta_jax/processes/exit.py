"""The end of a process that other processes of its run may wait for."""

import contextlib
import os
import sys
from typing import NoReturn

from deberta_jax.printing import print_message


def exit_process(code: int, message: str = "") -> NoReturn:
    """Print a message and end the process at once: its other threads, and JAX, would wait for the other processes."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        if message:
            print_message(f"deberta-jax: {message}")
        sys.stderr.flush()
    os._exit(code)
