"""SIGTERM as an exception, so that a command removes its temporary files and says how to continue."""

import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Seconds.
_MOMENT = 0.05


class Terminated(KeyboardInterrupt):
    """SIGTERM has arrived; derived from KeyboardInterrupt because no code takes that for an ordinary error."""

    def __init__(self) -> None:
        super().__init__("stopped; to continue, run the same command again")


@contextmanager
def terminable() -> Generator[None, None, None]:
    """While entered, the first SIGTERM raises Terminated in the main thread, and others are ignored.

    Python drops an exception that is raised in a destructor or in a callback of its garbage collector; Terminated, or
    KeyboardInterrupt by Ctrl-C, is then raised again. The training loop replaces the handler while it runs, as JAX does
    in a run of several processes. A handler of the caller stays as it is.
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

    report, timers = sys.unraisablehook, []

    def raise_again(dropped: Any) -> None:
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            report(dropped)
            return
        number = signal.SIGINT
        if isinstance(dropped.exc_value, Terminated):
            number = signal.SIGTERM
            signal.signal(number, handle)
        # After a moment, in which the destructor or the callback ends.
        timers.append(threading.Timer(_MOMENT, os.kill, (process, number)))
        timers[-1].start()

    signal.signal(signal.SIGTERM, handle)
    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        sys.unraisablehook = report
        for timer in timers:
            timer.cancel()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
