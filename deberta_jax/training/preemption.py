"""SIGTERM and Ctrl-C as a wish to stop after this step."""

import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from deberta_jax.errors import StopRequested as StopRequested


class Preemption:
    """While entered, SIGTERM and the first Ctrl-C ask the loop to stop; the second Ctrl-C interrupts as ever.

    With several processes JAX's own preemption service listens, so that all stop after the same step, and `asked`, what
    this process was told, stays False.
    """

    def __enter__(self) -> "Preemption":
        self.asked = False
        self._former: dict[signal.Signals, Any] = {}
        # Python lets only the main thread listen to signals.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._former[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def reached(self, step: int) -> bool:
        """Whether to stop after `step`; the same answer on every process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.asked

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.asked = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
