"""What Orbax prints about a failed save or load, beside the error that it raises."""

import logging
import sys
import threading
from typing import Any

_SECONDS = 10


class OrbaxOutput:
    """Silences warnings and stack traces of Orbax from its creation to `restore`.

    The error itself is raised, and we report it.

    `error` is the first error that a thread of Orbax logs. With several processes Orbax raises it only after all others
    have saved, for which they wait in vain.

    Each thread of Orbax logs the error, and the writes that end later find the event loop of their thread closed, which
    Python reports as an exception that nobody handles. Both may come after the error was raised. A load reads all
    arrays at once and raises the first error; asyncio logs the others.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._log = logging.getLogger("absl")
        self._tasks = logging.getLogger("asyncio")
        self._log.addFilter(self._is_other)
        self._tasks.addFilter(self._is_other_task)
        self._previous_hook, self._hook = sys.unraisablehook, self._report_other
        sys.unraisablehook = self._hook

    def restore(self) -> None:
        """Print everything again."""
        self._log.removeFilter(self._is_other)
        self._tasks.removeFilter(self._is_other_task)
        if sys.unraisablehook is self._hook:
            sys.unraisablehook = self._previous_hook

    def end_threads(self) -> None:
        """End the threads of a failed save, which may still write, and wait for them.

        Those that wait for another thread's signal, which failed, would wait for ten minutes. They end if they get the
        signal after they were cancelled.
        """
        threads: list[Any] = [t for t in threading.enumerate() if type(t).__module__.startswith("orbax.")]
        for thread in threads:
            thread.cancel()
        for thread in threads:
            thread._send_signals = thread._receive_signals
            thread._set_signals()
        for thread in threads:
            # Their own `join` raises the error again.
            threading.Thread.join(thread, _SECONDS)

    def _is_other(self, record: logging.LogRecord) -> bool:
        if "orbax" not in record.pathname:
            return True
        if record.levelno >= logging.ERROR and record.exc_info and self.error is None:
            self.error = record.exc_info[1]
        return record.levelno < logging.WARNING

    def _is_other_task(self, record: logging.LogRecord) -> bool:
        return record.exc_info is None or "tensorstore_spec" not in str(record.exc_info[1])

    def _report_other(self, unraisable: Any) -> None:
        if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
            self._previous_hook(unraisable)
