"""Faults at random moments of every kind of run: afterwards the same command gives the same bits, or one clear line.

`python benchmarks/faults.py FOLDER [NUMBER] [SEED]` injects NUMBER faults (default 200) into `prepare`, masked language
modeling, replaced-token detection and fine-tuning, with 1, 2 and 4 processes. Each result is a line of
FOLDER/faults.jsonl; run the same command again to continue. Prints a table, and fails if a run hangs, ends with a stack
trace, or ends with other bits. A run whose gradients are not finite completes without these steps. Read-only folders
need root, and are left out without. A command that ends with one line about a damaged file is repeated without this
file's folder.
"""

import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fault_kinds import FAULTS, NOT_FINITE, READ_ONLY, can_mount
from fault_runs import End, Processes, Run, all_runs, digest, make_inputs, skipped_steps

BAD = "hang", "stack trace", "other bits", "not complete", "no clear line"
# How often the same command is repeated after a fault.
_REPEATS = 4


def main(folder: Path, number: int = 200, seed: int = 0) -> int:
    inputs, results = folder / "inputs", folder / "faults.jsonl"
    if not (inputs / "model").exists():
        shutil.rmtree(inputs, ignore_errors=True)
        make_inputs(inputs)
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    references: dict[tuple[str, int], tuple[str, float]] = {}
    faults = [name for name in FAULTS if name != READ_ONLY or can_mount(inputs)]
    for count, (run, name) in enumerate(_plan(faults, number, seed)):
        if count < len(lines):
            continue
        key = run.name, run.processes
        if key not in references:
            references[key] = reference(run, inputs, folder)
        outcome = inject(run, name, inputs, folder / "case", references[key], random.Random(f"{seed} {count}"))
        lines.append({"run": run.name, "processes": run.processes, "fault": name} | outcome)
        with results.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        print(json.dumps(lines[-1]), flush=True)
    print("\n".join(table(lines)))
    return int(any(line["outcome"] in BAD for line in lines))


def _plan(faults: Sequence[str], number: int, seed: int) -> Iterator[tuple[Run, str]]:
    """Every kind of run and fault equally often, in random order."""
    pairs = [(run, name) for run in all_runs() for name in faults]
    pairs = [
        (run, name)
        for run, name in pairs
        if (run.processes > 1 or not FAULTS[name].needs_several) and (run.name, name) != ("prepare", NOT_FINITE)
    ]
    order: list[tuple[Run, str]] = []
    chance = random.Random(seed)
    while len(order) < number:
        order += chance.sample(pairs, len(pairs))
    yield from order[:number]


def reference(run: Run, inputs: Path, folder: Path) -> tuple[str, float]:
    """The digest and the seconds of an undisturbed run; a first one compiles its programs."""
    for _ in range(2):
        case = _fresh(inputs, folder / "case")
        start = time.monotonic()
        end = Processes(run, case).finish()
        seconds = time.monotonic() - start
        if set(end.codes) != {0}:
            raise SystemExit(f"{run.name} with {run.processes} processes: {end}")
    return digest(run, case), seconds


def inject(
    run: Run, name: str, inputs: Path, case: Path, expected: tuple[str, float], chance: random.Random
) -> dict[str, Any]:
    """Disturb a run, repeat its command, and say how it ended."""
    _fresh(inputs, case)
    processes = Processes(run, case, FAULTS[name].variables(case, chance))
    moment = chance.uniform(0, expected[1])
    time.sleep(moment)
    FAULTS[name].during(processes, chance)
    first = processes.finish()
    damaged = FAULTS[name].after(run, case, chance)
    details = {"moment": round(moment, 1), "codes": first.codes, "damaged": damaged, "errors": first.errors[:2]}
    if problem := _problem(first):
        return details | {"outcome": problem}
    if name == NOT_FINITE:
        complete = set(first.codes) == {0} and skipped_steps(case)
        return details | {"outcome": "steps skipped and recorded" if complete else "not complete"}
    for _ in range(_REPEATS):
        end = Processes(run, case).finish()
        if problem := _problem(end):
            return details | {"outcome": problem, "errors": end.errors[:2]}
        if set(end.codes) == {0}:
            same = digest(run, case) == expected[0]
            clear = "the same bits after one line" if details.get("line") else "the same bits"
            return details | {"outcome": clear if same else "other bits"}
        details["line"] = end.errors[0]
        if damaged:
            shutil.rmtree(case / run.folder)
    return details | {"outcome": "not complete"}


def _problem(end: End) -> str:
    """What is wrong with the end of a run; empty if it is complete or its error is clear."""
    if end.is_hanging:
        return "hang"
    if end.has_traceback:
        return "stack trace"
    failed = [code for code in end.codes if code and code > 0]
    return "no clear line" if failed and not end.errors else ""


def _fresh(inputs: Path, case: Path) -> Path:
    shutil.rmtree(case, ignore_errors=True)
    return Path(shutil.copytree(inputs, case))


def table(lines: list[dict[str, Any]]) -> list[str]:
    """The outcomes of each fault, in Markdown."""
    outcomes = sorted({line["outcome"] for line in lines})
    rows = ["| fault | " + " | ".join(outcomes) + " |", "|---" * (len(outcomes) + 1) + "|"]
    for name in FAULTS:
        counts = Counter(line["outcome"] for line in lines if line["fault"] == name)
        rows.append(f"| {name} | " + " | ".join(str(counts[outcome]) for outcome in outcomes) + " |")
    return rows


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
