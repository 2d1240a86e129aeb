"""Weights & Biases: the metrics of a run are also sent there, by a thread that never stops or delays the run."""

import importlib.util
import json
import logging
import math
import netrc
import os
import queue
import re
import secrets
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import jax

from deberta_jax.errors import InputError, shorten
from deberta_jax.files import make_folder, write_json
from deberta_jax.training.recorder import read_metrics

# The id of the W&B run of a folder.
RUN_FILE = "wandb.json"
_PROJECT = r"([\w.-]+/)?[\w. -]{1,128}"
# Metrics that wait for a slow connection; more are dropped, as `metrics.jsonl` has all of them.
_MAX_WAITING = 100_000
# The end of a run waits this long for what is not sent yet.
_SECONDS_TO_FINISH = 60.0
_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where the metrics of a run are sent beside its folder."""

    def log(self, split: str, step: int, metrics: Mapping[str, float]) -> None: ...
    def summarize(self, metrics: Mapping[str, float]) -> None: ...


def check_wandb(project: str | None) -> None:
    """Raise InputError if a run is to be tracked, but the package or the API key is missing, or the name is invalid.

    Without an API key, W&B would wait for one to be typed in. `WANDB_MODE=offline` needs none.
    """
    if project is None:
        return
    if not re.fullmatch(_PROJECT, project):
        raise InputError(f"wandb is {project!r}; write a project, or entity/project, of letters, digits and -_.")
    if importlib.util.find_spec("wandb") is None:
        raise InputError("wandb is not installed; install the extra: pip install 'deberta-jax[wandb]'")
    if os.environ.get("WANDB_MODE", "online") == "online" and not _has_key():
        raise InputError("wandb: no API key; run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline")


def _has_key() -> bool:
    """Whether W&B has a key in its variables, in its settings files (or they select a mode), or in a netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    folder = Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser()
    for path in (folder / "settings", Path("wandb/settings")):
        if path.is_file() and re.search(r"^\s*(api_key|mode)\s*=", path.read_text(errors="replace"), re.MULTILINE):
            return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    return any(_is_in_netrc(host, path) for path in (os.environ.get("NETRC", "~/.netrc"), "~/_netrc"))


def _is_in_netrc(host: str, path: str) -> bool:
    try:
        return netrc.netrc(Path(path).expanduser()).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


@contextmanager
def tracking(project: str | None, folder: Path, settings: Mapping[str, Any]) -> Generator[Tracker, None, None]:
    """Send what is logged in a `with` block to W&B; nothing without a project, and on all but the first process.

    A folder has one W&B run, whose id is in `wandb.json`: a resumed run continues it, and steps that are already in
    `metrics.jsonl` are not sent again. `settings` are its config. The first error of W&B is logged in one line, and the
    run continues without it.
    """
    if project is None or jax.process_index() > 0:
        yield _Untracked()
        return
    tracker = _WandbRun(project, folder, settings)
    try:
        yield tracker
    except BaseException:
        tracker.close(exit_code=1)
        raise
    tracker.close(exit_code=0)


class _Untracked:
    def log(self, split: str, step: int, metrics: Mapping[str, float]) -> None:
        """Send nothing."""

    def summarize(self, metrics: Mapping[str, float]) -> None:
        """Send nothing."""


class _WandbRun:
    """One W&B run. All calls of W&B are made by one thread, which takes them from a queue."""

    def __init__(self, project: str, folder: Path, settings: Mapping[str, Any]):
        self._folder, self._settings = make_folder(folder), json.loads(json.dumps(settings, default=str))
        self._entity, _, self._project = project.rpartition("/")
        self._sent: dict[str, int] = {}
        self._id = self._run_id()
        self._waiting: queue.Queue[Callable[[Any], object] | None] = queue.Queue(_MAX_WAITING)
        self._failed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def log(self, split: str, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of a step, unless an earlier process has sent them."""
        if step > self._sent.get(split, -1):
            values = {f"{split}/{name}": float(value) for name, value in metrics.items() if math.isfinite(value)}
            self._put(lambda run: run.log({"step": step, **values}))

    def summarize(self, metrics: Mapping[str, float]) -> None:
        """Set the final metrics of the run."""
        values = {f"best/{name}": float(value) for name, value in metrics.items() if math.isfinite(value)}
        self._put(lambda run: run.summary.update(values))

    def close(self, exit_code: int) -> None:
        """Send what is waiting, for a limited time; 0 marks the run as finished."""
        self._put(lambda run: run.finish(exit_code=exit_code))
        self._put(None)
        self._thread.join(_SECONDS_TO_FINISH)
        if self._thread.is_alive() and not self._failed.is_set():
            self._fail(TimeoutError(f"not all metrics were sent within {_SECONDS_TO_FINISH:.0f} s"))

    def _run_id(self) -> str:
        """The id of the run of this folder; a new one is stored at once, before anything is sent."""
        path = self._folder / RUN_FILE
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))["id"]
        except (OSError, ValueError, KeyError, TypeError):
            stored = None
        if isinstance(stored, str):
            for line in read_metrics(self._folder / "metrics.jsonl"):
                self._sent[line["split"]] = max(line["step"], self._sent.get(line["split"], -1))
            return stored
        identifier = secrets.token_hex(4)
        write_json(path, {"id": identifier, "project": self._project})
        return identifier

    def _put(self, action: Callable[[Any], object] | None) -> None:
        if self._failed.is_set():
            return
        try:
            self._waiting.put_nowait(action)
        except queue.Full:
            self._fail(TimeoutError("the connection is too slow"))

    def _work(self) -> None:
        try:
            run = self._start()
            while (action := self._waiting.get()) is not None and not self._failed.is_set():
                action(run)
        except BaseException as error:
            # W&B raises errors of many kinds, and ends its threads with SystemExit.
            self._fail(error)

    def _start(self) -> Any:
        import wandb

        # Without what could contain secrets or describes the machine: the command, the environment, the code.
        quiet = wandb.Settings(
            silent=True, console="off", save_code=False, disable_git=True, init_timeout=60, login_timeout=5
        )
        for name in ("x_disable_meta", "x_disable_machine_info", "x_disable_stats", "disable_job_creation"):
            if hasattr(quiet, name):
                setattr(quiet, name, True)
        run = wandb.init(
            entity=self._entity or None,
            project=self._project,
            dir=str(self._folder),
            id=self._id,
            resume="allow",
            name="/".join(self._folder.resolve().parts[-2:]),
            config=self._settings,
            settings=quiet,
        )
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run

    def _fail(self, error: BaseException) -> None:
        if not self._failed.is_set():
            self._failed.set()
            lines = str(error).strip().splitlines() or [type(error).__name__]
            _log.warning("wandb: %s; the run continues without it, and its folder has all metrics", shorten(lines[0]))
