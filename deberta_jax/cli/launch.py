"""`deberta-jax launch -- COMMAND`: run a command as several processes on this machine, and restart them."""

import os
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro
from tyro.conf import Positional

from deberta_jax.errors import CommandFailed, InputError, check_at_least
from deberta_jax.processes.launch import environments, launch

_COMMANDS = "pretrain", "finetune"


@dataclass(frozen=True)
class LaunchConfig:
    """Run `pretrain` or `finetune` as several processes on this machine: `launch --processes 4 -- pretrain demo`.

    If a process dies, all are started again and resume from the latest checkpoint. On a machine with GPUs each process
    has an equal share of them. Clusters start the processes themselves (docs/scaling.md).
    """

    command: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="COMMAND ...")]]
    """The command and its options, after --."""
    processes: int = 2
    """Number of processes."""
    restarts: int = 3
    """How often all processes are started again after one of them has failed."""
    timeout: float = 60.0
    """Seconds after which a process that does not appear or respond has failed."""

    def __post_init__(self) -> None:
        for name, minimum in (("processes", 1), ("restarts", 0), ("timeout", 3)):
            check_at_least(name, getattr(self, name), minimum)
        if self.command[:1] not in [(name,) for name in _COMMANDS]:
            problem = f"launch cannot run {self.command[0]!r}" if self.command else "no command is given"
            raise InputError(f"{problem}; write {' or '.join(_COMMANDS)} with its options after --")
        if own := [word for word in self.command if word.startswith("--processes.")]:
            raise InputError(f"{own[0]} is an option that launch sets; omit it")


OPTIONS = LaunchConfig


def run(config: LaunchConfig) -> None:
    """Run the processes; raises CommandFailed with their exit code."""
    code = launch(
        config.command,
        environments(config.processes, dict(os.environ)),
        restarts=config.restarts,
        timeout=config.timeout,
        report=lambda line: print(f"deberta-jax launch: {line}", file=sys.stderr, flush=True),
    )
    if code:
        raise CommandFailed(code)
