"""Starting the processes of a run on one machine, and restarting them after a failure."""

import contextlib
import io
import math
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError

# How long processes may take to end after one has failed, beyond the timeout after which they notice it.
_GRACE_SECONDS = 15.0
_POLL_SECONDS = 0.1
# Exit codes after which the same command would fail again, or that the user wants.
_FINAL_CODES = {2, 128 + signal.SIGINT}

Environment = dict[str, str]


def launch(
    command: Sequence[str],
    environments: Sequence[Environment],
    *,
    restarts: int,
    timeout: float,
    report: Callable[[str], None],
    program: Sequence[str] = (sys.executable, "-m", "deberta_jax"),
) -> int:
    """Run a command as one process for each environment, and return the exit code that all agree on.

    The command gets the options `--processes.*`. If a process fails, the others end too, and all are started again, at
    most `restarts` times, unless the failure is an error of the input. SIGTERM is forwarded.
    """
    with _terminable() as stop:
        for attempt in range(restarts + 1):
            codes = _run([*program, *command], environments, timeout, stop)
            failed = [index for index, code in enumerate(codes) if code]
            if not failed or stop.is_set():
                # SIGTERM kills a process that has no handler yet: this is no error.
                errors = [codes[index] for index in failed if codes[index] != -signal.SIGTERM]
                return max(errors[0], 1) if errors else 0
            first = min(failed, key=lambda index: _severity(codes[index]))
            reason = f"process {first} {_describe(codes[first])}"
            if codes[first] in _FINAL_CODES or attempt == restarts:
                report(f"{reason}; all processes have ended")
                return max(codes[first], 1)
            report(f"{reason}; starting all processes again ({attempt + 1} of {restarts} restarts)")
    return 1


def _run(
    command: Sequence[str], environments: Sequence[Environment], timeout: float, stop: threading.Event
) -> list[int]:
    """The exit code of each process; negative for one that a signal has killed."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    options = ["--processes.join", "--processes.coordinator", address, "--processes.count", str(len(environments))]
    options += ["--processes.timeout", f"{timeout:g}"]
    with ExitStack() as stack:
        processes = []
        for index, environment in enumerate(environments):
            # The others have nothing to print but errors.
            pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} if index else {}
            words = [*command, *options, "--processes.index", str(index)]
            process = subprocess.Popen(words, env=environment, text=True, errors="replace", **pipes)
            processes.append(process)
            if isinstance(process.stderr, io.TextIOWrapper):
                copier = threading.Thread(target=_copy, args=(process.stderr, index), daemon=True)
                copier.start()
                stack.callback(copier.join, _GRACE_SECONDS)
            stack.callback(_kill, process)
        try:
            _wait(processes, timeout, stop)
        except KeyboardInterrupt:
            # The terminal sends Ctrl-C to all processes.
            _wait(processes, 0, threading.Event())
            raise
    return [process.wait() for process in processes]


def _wait(processes: Sequence["subprocess.Popen[str]"], timeout: float, stop: threading.Event) -> None:
    """Wait until all have ended, or one has failed and the others had time to end."""
    is_forwarded, limit = False, math.inf
    while any(process.poll() is None for process in processes):
        if stop.is_set() and not is_forwarded:
            is_forwarded = True
            for process in processes:
                process.terminate()
        if limit == math.inf and any(process.poll() for process in processes):
            limit = time.monotonic() + timeout + _GRACE_SECONDS
        if time.monotonic() > limit:
            return
        time.sleep(_POLL_SECONDS)


def _kill(process: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(OSError):
        process.kill()
    process.wait()


def _copy(source: io.TextIOWrapper, index: int) -> None:
    with source:
        for line in source:
            print(f"[{index}] {line}", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _terminable() -> Generator[threading.Event, None, None]:
    """An event that SIGTERM sets."""
    event = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, previous)


def _severity(code: int) -> int:
    """The order in which exit codes explain a failure: errors of the input, signals, the ends that follow them."""
    return 0 if code in _FINAL_CODES else 1 if code < 0 else 2


def _describe(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def environments(count: int, environment: Environment) -> list[Environment]:
    """The environment of each process: on a machine with GPUs each has an equal share of them.

    Raises InputError if the GPUs cannot be shared equally, and on a TPU host, where one process has all chips.
    """
    if environment.get("JAX_PLATFORMS") == "cpu":
        return [environment] * count
    gpus = _gpus(environment)
    if not gpus and count > 1 and (Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists()):
        raise InputError("launch: a TPU host runs one process; start the command itself, on every host")
    if not gpus:
        return [environment] * count
    if len(gpus) % count:
        raise InputError(f"launch: {len(gpus)} GPUs cannot be shared equally by {count} processes; change --processes")
    share = len(gpus) // count
    return [
        environment | {"CUDA_VISIBLE_DEVICES": ",".join(gpus[index * share : (index + 1) * share])}
        for index in range(count)
    ]


def _gpus(environment: Environment) -> list[str]:
    """The visible NVIDIA GPUs."""
    if (visible := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name]
    if (program := shutil.which("nvidia-smi")) is None:
        return []
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)
    return [str(index) for index, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]
