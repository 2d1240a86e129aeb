"""SIGTERM and Ctrl-C as requests to stop after the current step."""

import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from deberta_jax.errors import StopRequested


class Preemption:
    """While entered, SIGTERM and the first Ctrl-C request a stop; a second Ctrl-C raises KeyboardInterrupt.

    With several processes JAX's preemption service handles SIGTERM, so that all processes stop after the same step, and
    Ctrl-C raises KeyboardInterrupt.
    """

    def __enter__(self) -> "Preemption":
        self._signal: int | None = None
        self._previous_handlers: dict[int, Any] = {}
        # Python allows only the main thread to set signal handlers.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous_handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        # A signal after the last check of the loop is for what follows the loop.
        if kind is None and self._signal is not None and callable(self._previous_handlers[self._signal]):
            signal.raise_signal(self._signal)

    def check_step(self, step: int) -> None:
        """Raise StopRequested if all processes are to stop after `step`; every process calls this once per step."""
        if jax.process_count() == 1:
            self.check(step)
        elif multihost_utils.reached_preemption_sync_point(step):
            raise StopRequested(signal.SIGTERM, step)

    def check(self, step: int) -> None:
        """Raise StopRequested if a signal has arrived; with several processes never, as they must agree on a step."""
        if self._signal is not None:
            raise StopRequested(self._signal, step)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self._signal = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
