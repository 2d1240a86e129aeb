"""Signals as exceptions, so that a command removes its temporary files and says how to continue."""

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

    An import in progress is completed first: interrupting an extension while it initializes, or initializing it twice,
    crashes the process. The same holds for Ctrl-C, which raises KeyboardInterrupt. Python drops an exception that is
    raised in a destructor or in a callback of its garbage collector; it is then raised again. A signal in the last
    moment before the end may be dropped. The training loop replaces the handlers while it runs, and JAX that of SIGTERM
    in a run of several processes. Handlers of the caller stay as they are.
    """
    # Python allows only the main thread to set signal handlers.
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    process, imports = os.getpid(), _imports(sys._getframe())
    report, timers = sys.unraisablehook, []

    def send_again(number: int) -> None:
        timers.append(threading.Timer(_MOMENT, os.kill, (process, number)))
        timers[-1].start()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked worker ends as usual
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if _imports(frame) > imports:
            send_again(number)
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_IGN)
        raise Terminated

    def raise_again(dropped: Any) -> None:
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            report(dropped)
            return
        number = signal.SIGINT
        if isinstance(dropped.exc_value, Terminated):
            number = signal.SIGTERM
            signal.signal(number, handle)
        # After a moment, in which the destructor or the callback ends.
        send_again(number)

    interrupt = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGTERM, handle)
    if interrupt is signal.default_int_handler:
        signal.signal(signal.SIGINT, handle)
    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        sys.unraisablehook = report
        for timer in timers:
            timer.cancel()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if interrupt is signal.default_int_handler:
            signal.signal(signal.SIGINT, interrupt)


def _imports(frame: FrameType | None) -> int:
    """The number of imports that are in progress in a frame and its callers."""
    count = 0
    while frame is not None:
        count += frame.f_code.co_name == "_find_and_load" and "importlib" in frame.f_code.co_filename
        frame = frame.f_back
    return count
