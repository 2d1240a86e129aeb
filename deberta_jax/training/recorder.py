"""What a run leaves behind to be read: a progress bar, `metrics.jsonl`, TensorBoard events, `loss.png`."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deberta_jax.errors import InputError
from deberta_jax.training.plot import plot_losses

LINE_EVERY_SECONDS = 10


class Recorder:
    """Records steps, each once, in a run's folder; on processes other than the first it only fetches metrics.

    Lines of steps after `start`, written by a run that was stopped before it saved them, are dropped. `flops` are those
    of a step, `peak` what all devices could do in a second; with both, model FLOP utilisation (MFU) is shown.
    """

    def __init__(self, folder: Path, steps: int, start: int, flops: int = 0, peak: float = 0.0):
        self.latest: dict[str, float] = {}
        self.latest_step = start
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self._former: float | None = None
        self._speed: float | None = None
        self._printed = 0.0
        self._active = jax.process_index() == 0
        if not self._active:
            return
        self._folder, self._steps, self._flops, self._peak = folder, steps, flops, peak
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "metrics.jsonl"
        kept = _drop_after(self._path, start)
        self._evaluated = {line["step"] for line in kept if line["split"] == "held_out"}
        # Unbuffered: a line is on its way once written, and closing writes nothing more.
        self._file = self._path.open("ab", buffering=0)
        self._events = _event_writer(folder / "tensorboard", start)
        self._console = Console(stderr=True)
        self._bar = _progress(self._console)
        self._task = self._bar.add_task("", total=steps, completed=start, status="compiling")
        if self._console.is_terminal:
            self._bar.start()

    def step(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Take the metrics of step number `step` (the first is 1) and record those taken before.

        So the devices never wait for the host that waits for them. `latest` is what was recorded last.
        """
        self._record_pending()
        self._pending = step, metrics

    def evaluation(self, step: int, metrics: Mapping[str, float] | None) -> None:
        """Metrics on held-out text after step number `step`, None if stopped; each step's are written once.

        The time it took counts for no step.
        """
        self._record_pending()
        if not self._active or metrics is None or step in self._evaluated:
            return
        self._evaluated.add(step)
        self._write("held_out", step, metrics)
        self.say(f"step {step}: held-out " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
        self._former = time.perf_counter() if self._former else None

    def say(self, line: str) -> None:
        """A line above the progress bar."""
        if self._active:
            self._console.print(line, highlight=False, soft_wrap=True)

    def flush(self) -> None:
        """Wait for all that was taken to be on the disk."""
        self._record_pending()
        if self._active:
            os.fsync(self._file.fileno())
            self._events.flush()

    def plot(self) -> None:
        """Draw `loss.png`."""
        self._record_pending()
        if self._active:
            plot_losses(read_metrics(self._path), self._folder / "loss.png")

    def close(self) -> None:
        """End the progress bar and the files."""
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
        if self._former is not None:
            self.latest |= self._pace(now - self._former)
        self._former = now
        self._write("train", step, self.latest)
        self._show(step)

    def _pace(self, seconds: float) -> dict[str, float]:
        pace = {"seconds": seconds, "tokens_per_second": self.latest["tokens"] / seconds}
        if self._flops and self._peak:
            pace["mfu"] = self._flops / seconds / self._peak
        former = self._speed or pace["tokens_per_second"]
        self._speed = 0.9 * former + 0.1 * pace["tokens_per_second"]
        return pace

    def _write(self, split: str, step: int, metrics: Mapping[str, float]) -> None:
        # JSON has no NaN: what is not finite is null.
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        try:
            self._file.write((json.dumps({"step": step, "split": split} | finite) + "\n").encode())
        except OSError as error:
            raise InputError(f"cannot write {self._path}: {error.strerror}; the last checkpoint is intact") from error
        for name, value in metrics.items():
            self._events.add_scalar(f"{split}/{name}", value, step)

    def _show(self, step: int) -> None:
        # A run of two models has two losses.
        losses = [name for name in self.latest if name.endswith("_loss")] or ["loss"]
        status = "  ".join(f"{name.replace('_', ' ')} {self.latest[name]:.4f}" for name in losses)
        if self._speed:
            status += f"  {self._speed:,.0f} tokens/s"
        if "mfu" in self.latest:
            status += f"  MFU {self.latest['mfu']:.1%}"
        self._bar.update(self._task, completed=step, status=status)
        now = time.monotonic()
        if not self._console.is_terminal and (now - self._printed > LINE_EVERY_SECONDS or step == self._steps):
            self._printed = now
            left = self._bar.tasks[0].time_remaining
            self.say(f"step {step}/{self._steps}  {status}" + (f"  {left:.0f} s left" if left else ""))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a `metrics.jsonl`."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _drop_after(path: Path, step: int) -> list[dict[str, Any]]:
    """The lines that are kept."""
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    os.replace(partial, path)
    return kept


def _event_writer(folder: Path, start: int) -> Any:
    """A TensorBoard writer, imported late; readers drop the events of purged steps."""
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder), purge_step=start + 1)


def _progress(console: Console) -> Progress:
    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )
