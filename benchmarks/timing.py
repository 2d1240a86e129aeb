"""Alternating measurements: programs take turns, in one process or each in its own, on the same machine."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping


def seconds(run: Callable[[], object]) -> float:
    """The duration of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def alternate(measures: Mapping[str, Callable[[], float]], repetitions: int) -> dict[str, float]:
    """The median of each measure by name; the measures take turns."""
    values: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(repetitions):
        for name, measure in measures.items():
            values[name].append(measure())
    return {name: statistics.median(measured) for name, measured in values.items()}


def verdict(name: str, ok: bool) -> str:
    """A line for a bar."""
    return f"{'ok    ' if ok else 'MISSED'} {name}"


def table_row(*cells: object) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


class Worker:
    """A process that runs a script with the word "worker" and others, and answers requests of one line each."""

    def __init__(self, script: str, *words: str, threads: int, quiet: bool = True):
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1")
        if threads == 1:
            environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        self._process = subprocess.Popen(
            [sys.executable, script, "worker", *words],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            text=True,
        )
        while self._process.stdout.readline().strip() != "ready":
            if self._process.poll() is not None:
                raise RuntimeError(f"the worker ended with {self._process.returncode}: {script} {' '.join(words)}")

    def ask(self, request: str = "") -> str:
        self._process.stdin.write(f"{request}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def serve(answer: Callable[[str], object]) -> None:
    """The loop of a worker: print the answer to each line of the standard input."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(answer(line.strip()), flush=True)
