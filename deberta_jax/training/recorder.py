"""The records of a run: a progress bar, `metrics.jsonl`, TensorBoard events and `loss.png`."""

import itertools
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deberta_jax.errors import InputError
from deberta_jax.files import make_folder, write_all, write_text
from deberta_jax.printing import printable
from deberta_jax.training.events import EventFile
from deberta_jax.training.plot import Curve, Curves, plot_losses

LINE_EVERY_SECONDS = 10
# (split, step, metrics): takes the metrics that are recorded.
Log = Callable[[str, int, Mapping[str, float]], None]
_NO_CURVE = Curve("", "")
_log = logging.getLogger(__name__)


def no_log(split: str, step: int, metrics: Mapping[str, float]) -> None:
    """For metrics that are recorded in the folder of the run only."""


class Recorder:
    """Writes the metrics of each step once into the folder of a run; all other processes only fetch them.

    Lines of steps after `start` are dropped: a previous process wrote them, but stopped before its next checkpoint. If
    no line is left, the previous file is renamed, and this is logged. `curves` says which metrics are plotted and
    how. With the FLOPs of each step, from 1, and the peak FLOP/s of all devices together (0: unknown), the model
    FLOP utilization (MFU) is recorded. `log` gets everything that is recorded, too.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        start: int,
        curves: Curves,
        *,
        flops: Callable[[int], int] = lambda step: 0,
        peak_flops: float = 0.0,
        log: Log = no_log,
    ):
        self.latest: dict[str, float] = {}
        self.latest_step = start
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self._last_time: float | None = None
        self._tokens_per_second: float | None = None
        self._last_printed = 0.0
        self._log = log
        self._active = jax.process_index() == 0
        if not self._active:
            return
        self._folder, self._steps, self._curves = make_folder(folder), steps, curves
        self._flops, self._peak_flops = flops, peak_flops
        self._path = folder / "metrics.jsonl"
        lines = _drop_lines_after(self._path, start) if start else _start_over(self._path)
        self._evaluated = {line["step"] for line in lines if line["split"] == "held_out"}
        # Unbuffered: each line is written at once, and closing writes nothing more.
        self._file = self._path.open("ab", buffering=0)
        try:
            self._events = EventFile(folder / "tensorboard", start)
        except OSError as error:
            self._file.close()
            raise self._write_error(error) from error
        self._console = _console()
        self._bar = _progress(self._console)
        self._task = self._bar.add_task("", total=steps, completed=start, status="compiling")
        if self._console.is_terminal:
            self._bar.start()

    def step(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Take the metrics of step number `step` (from 1), and record the metrics taken before.

        The delay of one step keeps the devices busy while the host waits for metrics. `latest` holds the last
        recorded metrics.
        """
        self._record_pending()
        self._pending = step, metrics

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics on held-out data after step number `step`; a repeated evaluation is not recorded again.

        The time of the evaluation does not count as time of a step.
        """
        self._record_pending()
        if not self._active or step in self._evaluated:
            return
        self._evaluated.add(step)
        self._write("held_out", step, metrics)
        values = (f"{name} {self._curves.get(name, _NO_CURVE).text(value)}" for name, value in metrics.items())
        self.print(f"step {step}: held-out {', '.join(values)}")
        self._last_time = time.perf_counter() if self._last_time else None

    def print(self, line: str) -> None:
        """Print a line above the progress bar."""
        if self._active:
            # Not markup: data may contain brackets.
            self._console.print(printable(line), markup=False, emoji=False, highlight=False, soft_wrap=True)

    def flush(self) -> None:
        """Record the last metrics, and wait until they are on disk."""
        self._record_pending()
        if self._active:
            try:
                os.fsync(self._file.fileno())
                self._events.flush()
            except OSError as error:
                raise self._write_error(error) from error

    def plot(self) -> None:
        """Draw `loss.png`."""
        self._record_pending()
        if self._active:
            plot_losses(read_metrics(self._path), self._folder / "loss.png", self._curves)

    def close(self) -> None:
        """Stop the progress bar and close the files."""
        if not self._active:
            return
        if self._console.is_terminal:
            self._bar.stop()
        self._file.close()
        self._events.close()

    def _record_pending(self) -> None:
        if not self._pending:
            return
        (step, metrics), self._pending = self._pending, None
        self.latest = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self.latest_step = step
        if not self._active:
            return
        now = time.perf_counter()
        if self._last_time is not None:
            self.latest |= self._speed(now - self._last_time)
        self._last_time = now
        self._write("train", step, self.latest)
        self._show_status(step)

    def _speed(self, seconds: float) -> dict[str, float]:
        speed = {"seconds": seconds, "tokens_per_second": self.latest["tokens"] / seconds}
        flops = self._flops(self.latest_step)
        if flops and self._peak_flops:
            speed["mfu"] = flops / seconds / self._peak_flops
        previous = self._tokens_per_second or speed["tokens_per_second"]
        self._tokens_per_second = 0.9 * previous + 0.1 * speed["tokens_per_second"]
        return speed

    def _write(self, split: str, step: int, metrics: Mapping[str, float]) -> None:
        # JSON has no NaN and no infinity: null.
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        try:
            write_all(self._file, (json.dumps({"step": step, "split": split} | finite) + "\n").encode())
            self._events.write(split, step, metrics)
        except OSError as error:
            raise self._write_error(error) from error
        self._log(split, step, metrics)

    def _write_error(self, error: OSError) -> InputError:
        return InputError(f"cannot write {self._path}: {error.strerror}; the last checkpoint is intact")

    def _show_status(self, step: int) -> None:
        losses = [name for name in self._curves if name.endswith("loss") and name in self.latest]
        status = "  ".join(f"{name.replace('_', ' ')} {self.latest[name]:.4f}" for name in losses)
        if self._tokens_per_second:
            status += f"  {self._tokens_per_second:,.0f} tokens/s"
        if "mfu" in self.latest:
            status += f"  MFU {self.latest['mfu']:.1%}"
        self._bar.update(self._task, completed=step, status=status)
        now = time.monotonic()
        due = now - self._last_printed > LINE_EVERY_SECONDS or step == self._steps
        if due and not self._console.is_terminal:
            self._last_printed = now
            left = self._bar.tasks[0].time_remaining
            self.print(f"step {step}/{self._steps}  {status}" + (f"  {left:.0f} s left" if left else ""))


def _console() -> Console:
    """Standard error; plain text in a notebook, where rich would write HTML."""
    console = Console(stderr=True)
    return Console(stderr=True, force_jupyter=False, force_terminal=False) if console.is_jupyter else console


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a `metrics.jsonl`, none if there is no such file; damaged lines are counted in the log."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    metrics = [_parse_line(line) for line in lines]
    valid = [line for line in metrics if line is not None]
    if len(valid) < len(lines):
        _log.warning("%s: %d of %d lines are damaged and were dropped", path, len(lines) - len(valid), len(lines))
    return valid


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """The metrics of a line, None if it is damaged."""
    try:
        metrics = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(metrics, dict) or type(metrics.get("step")) is not int:
        return None
    values = (value for name, value in metrics.items() if name != "split")
    is_valid = isinstance(metrics.get("split"), str) and all(
        type(value) in (int, float, type(None)) for value in values
    )
    return metrics if is_valid else None


def _drop_lines_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Remove the lines of later steps and an incomplete last line; returns the remaining lines, and logs a gap."""
    lines = [line for line in read_metrics(path) if line["step"] <= step]
    last = max((line["step"] for line in lines), default=0)
    if last < step:
        _log.warning("%s ends at step %d and the run continues after step %d: metrics are lost", path, last, step)
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    return lines


def _start_over(path: Path) -> list[dict[str, Any]]:
    """Rename the metrics of an earlier run without a checkpoint, if there are any, and log it; returns no lines."""
    steps = [line["step"] for line in read_metrics(path)]
    if steps:
        previous = next(name for n in itertools.count(1) if not (name := path.with_name(f"{path.name}.{n}")).exists())
        path.rename(previous)
        _log.warning(
            "%s: metrics up to step %d, but no checkpoint after step 0: starting over; these metrics are now in %s",
            path, max(steps), previous.name,
        )  # fmt: skip
    write_text(path, "")
    return []


def _progress(console: Console) -> Progress:
    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}", markup=False),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )
