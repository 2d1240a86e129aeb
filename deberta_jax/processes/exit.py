"""The end of a process that other processes of its run may wait for."""

import contextlib
import os
import sys


def exit_process(code: int, message: str = "") -> None:
    """Print a message and end the process at once: its other threads, and JAX, would wait for the other processes."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        print(f"deberta-jax: {message}\n" if message else "", end="", file=sys.stderr, flush=True)
    os._exit(code)
