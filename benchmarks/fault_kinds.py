"""The faults of `faults.py`: what happens to a run at a random moment, or to its files after it was killed then."""

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from fault_runs import HANG_SECONDS, TIMEOUT_SECONDS, Processes, Run

_KILL = signal.SIGKILL
NOT_FINITE, READ_ONLY = "non-finite gradients", "a read-only folder"


class Fault(NamedTuple):
    """A fault while processes run, and what is done to their folder after they have ended.

    `during` returns False if nothing could happen, and `after` the damaged file, relative to the folder, or "".
    """

    during: Callable[[Processes, random.Random], bool | None]
    after: Callable[[Run, Path, random.Random], str] | None = None
    needs_several: bool = False
    # Variables of the processes that are disturbed, from their folder.
    variables: Callable[[Path, random.Random], dict[str, str]] = lambda folder, chance: {}

    @property
    def damages(self) -> bool:
        return self.after is not None


def _signal_one(number: signal.Signals) -> Callable[[Processes, random.Random], None]:
    def act(processes: Processes, chance: random.Random) -> None:
        _send(chance.choice(processes.all), number)

    return act


def _kill_all(processes: Processes, chance: random.Random) -> None:
    for process in processes.all:
        _send(process, _KILL)


def _suspend(processes: Processes, chance: random.Random) -> None:
    """Suspend a process: alone it continues after a moment, of several it stays suspended until the others end."""
    victim = chance.choice(processes.all)
    processes.suspended = processes.all.index(victim)
    _send(victim, signal.SIGSTOP)
    others = [process for process in processes.all if process is not victim]
    limit = time.monotonic() + (4 * TIMEOUT_SECONDS if others else 1.0)
    while time.monotonic() < limit and not (others and all(process.poll() is not None for process in others)):
        time.sleep(0.1)
    _send(victim, signal.SIGCONT)


def _slow_down(processes: Processes, chance: random.Random) -> None:
    """Let a process run only a part of the time."""
    victim = chance.choice(processes.all)
    for _ in range(10):
        _send(victim, signal.SIGSTOP)
        time.sleep(0.3)
        _send(victim, signal.SIGCONT)
        time.sleep(0.2)


def _limit_files(processes: Processes, chance: random.Random) -> None:
    """From now on a process cannot write files that are larger than a random size, as on a full disk.

    The file with the printed lines of the process is smaller.
    """
    size = int(10 ** chance.uniform(3.5, 6))
    for process in chance.sample(processes.all, chance.randint(1, len(processes.all))):
        if process.poll() is None:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _read_only(processes: Processes, chance: random.Random) -> bool:
    """Let the folder of the run be read-only until the processes end."""
    folders = [path for name in ("run", "new_shards") if (path := processes.folder / name).exists()]
    if not folders or not processes.is_running:
        return False
    subprocess.run(["mount", "--bind", folders[0], folders[0]], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folders[0]], check=True)
        limit = time.monotonic() + HANG_SECONDS
        while processes.is_running and time.monotonic() < limit:
            time.sleep(0.1)
    finally:
        # A process that hangs still uses the folder.
        subprocess.run(["umount", "--lazy", folders[0]], check=True)
    return True


def can_mount(folder: Path) -> bool:
    """Whether this process may make a folder read-only by mounting it, which needs root."""
    mounted = subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode == 0
    if mounted:
        subprocess.run(["umount", folder], check=True)
    return mounted


def _files(run: Run, folder: Path) -> list[Path]:
    """What a run has written and reads again, and its shards."""
    folders = [folder / run.folder, *[folder / "shards"] * run.reads_shards]
    paths = (path for each in folders for path in each.rglob("*") if path.is_file() and path.stat().st_size)
    return sorted(path for path in paths if path.name != ".lock" and "tensorboard" not in path.parts)


def _truncate(run: Run, folder: Path, chance: random.Random) -> str:
    if not (paths := _files(run, folder)):
        return ""
    path = chance.choice(paths)
    os.truncate(path, chance.randrange(path.stat().st_size))
    return str(path.relative_to(folder))


def _flip_bit(run: Run, folder: Path, chance: random.Random) -> str:
    if not (paths := _files(run, folder)):
        return ""
    path = chance.choice(paths)
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    return str(path.relative_to(folder))


def _remove_shard(run: Run, folder: Path, chance: random.Random) -> str:
    paths = [path for path in _files(run, folder) if path.suffix == ".arrayrecord"]
    if not paths:
        return ""
    path = chance.choice(paths)
    path.unlink()
    return str(path.relative_to(folder))


# Python runs a module of this name when it starts.
_POISON = """
import numpy as np
from deberta_jax.training import step
place, calls = step.place, 0

def poisoned(batch, mesh):
    global calls
    calls += 1
    bad = {first} <= calls < {first} + {number}
    change = lambda x: x * np.float32("nan") if bad and x.dtype == np.float32 else x
    return place({{name: change(values) for name, values in batch.items()}}, mesh)

step.place = poisoned
"""


def _poison(folder: Path, chance: random.Random) -> dict[str, str]:
    """From a random batch on, one batch or several have weights that are not numbers, and so have the gradients.

    The first one is a batch of training: the fifth and sixth are those of the first evaluation.
    """
    (folder / "poison").mkdir()
    text = _POISON.format(first=chance.randint(1, 4), number=chance.randint(1, 3))
    (folder / "poison/sitecustomize.py").write_text(text)
    paths = [str(folder / "poison"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def _send(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(number)


FAULTS: Mapping[str, Fault] = {
    "SIGKILL to all": Fault(_kill_all),
    "a killed host": Fault(_signal_one(_KILL), needs_several=True),
    "SIGTERM": Fault(_signal_one(signal.SIGTERM)),
    "SIGSTOP": Fault(_suspend),
    "a slow host": Fault(_slow_down),
    "a limit of file sizes": Fault(_limit_files),
    "a truncated file": Fault(_kill_all, _truncate),
    "a flipped bit": Fault(_kill_all, _flip_bit),
    "a missing shard": Fault(_kill_all, _remove_shard),
    READ_ONLY: Fault(_read_only),
    NOT_FINITE: Fault(lambda processes, chance: None, variables=_poison),
}
