"""SIGTERM as an exception, so that a command removes its temporary files and says how to continue."""

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM has arrived; derived from KeyboardInterrupt because no code takes that for an ordinary error."""

    def __init__(self) -> None:
        super().__init__("stopped; to continue, run the same command again")


@contextmanager
def terminable() -> Generator[None, None, None]:
    """While entered, the first SIGTERM raises Terminated in the main thread, and others are ignored.

    The training loop replaces the handler while it runs, as JAX does in a run of several processes. A handler of the
    caller stays as it is.
    """
    # Python allows only the main thread to set signal handlers.
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    process = os.getpid()

    def handle(number: int, _: FrameType | None) -> None:
        if os.getpid() != process:  # a forked worker ends as usual
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        signal.signal(number, signal.SIG_IGN)
        raise Terminated

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
