"""Faults at random moments of every kind of run: afterwards the same command gives the same bits, or one clear line.

`python benchmarks/faults.py FOLDER [NUMBER] [SEED] [MINUTES]` injects NUMBER faults (200), or as many as fit into
MINUTES, into `prepare`, masked language modeling, replaced-token detection and fine-tuning, with 1, 2 and 4 processes.
After each fault the same command runs again, and most runs are disturbed several times before they complete. Each fault
is a line of FOLDER/faults.jsonl; run the same command again to continue. Prints a table, and fails if a run hangs, ends
with a stack trace, crashes, or ends with other bits. A run whose gradients are not finite completes without these
steps. Read-only folders need root, and are left out without. After a line about a damaged file the command is repeated
with an intact copy of an input, else without the folder of the run.
"""

import json
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fault_kinds import FAULTS, NOT_FINITE, READ_ONLY, can_mount
from fault_runs import (
    METRICS,
    End,
    Processes,
    Run,
    all_runs,
    copy_inputs,
    differing_files,
    digests,
    make_inputs,
    skipped_steps,
)  # fmt: skip

BAD = "hang", "stack trace", "crash", "other bits", "not complete", "no clear line"
_CRASHES = {-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE}
# How often the same command is repeated after the last fault, and the largest number of faults in a run.
_REPEATS, _FAULTS = 4, 4


class Reference(NamedTuple):
    """An undisturbed run: the digests of its results, and how long it takes."""

    digests: dict[str, list[str]]
    seconds: float


def main(folder: Path, number: int = 200, seed: int = 0, minutes: int = 24 * 60) -> int:
    # So that a folder does not stay mounted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    end = time.monotonic() + 60 * minutes
    inputs, results = folder / "inputs", folder / "faults.jsonl"
    make_inputs(inputs)
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    faults = [name for name in FAULTS if name != READ_ONLY or can_mount(inputs)]
    tries = 0
    while len(lines) < number and time.monotonic() < end:
        tries += 1
        chance = random.Random(f"{seed} {len(lines)} {tries}")
        run, names = _draw(faults, chance)
        new = inject(run, names, inputs, folder / "case", reference(run, inputs, folder), chance)
        lines += new
        with results.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in new)
        print(*map(json.dumps, new), sep="\n", flush=True)
    print("\n".join(table(lines)))
    return int(any(line["outcome"] in BAD for line in lines))


def _draw(faults: Sequence[str], chance: random.Random) -> tuple[Run, list[str]]:
    """A random run, those of few processes more often because they need much less time, and what happens to it."""
    (run,) = chance.choices(all_runs(), [16 // run.processes**2 for run in all_runs()])
    possible = [name for name in faults if run.processes > 1 or not FAULTS[name].needs_several]
    if run.name == "prepare":
        possible.remove(NOT_FINITE)
    last = chance.choice(possible)
    if last == NOT_FINITE:
        # Another fault may repeat the skipped steps.
        return run, [last]
    # After a damaged file the command may end with one line about it: damage comes last.
    others = [name for name in possible if name not in (last, NOT_FINITE) and not FAULTS[name].damages]
    return run, [*chance.sample(others, chance.randint(1, _FAULTS - 1)), last]


def reference(run: Run, inputs: Path, folder: Path) -> Reference:
    """An undisturbed run, once per folder; a first one compiles its programs."""
    path = folder / f"reference-{run.name}-{run.processes}.json"
    if path.exists():
        return Reference(*json.loads(path.read_text()))
    for _ in range(2):
        case = copy_inputs(inputs, folder / "case")
        start = time.monotonic()
        end = Processes(run, case).finish()
        seconds = time.monotonic() - start
        if set(end.codes) != {0}:
            raise SystemExit(f"{run.name} with {run.processes} processes: {end}")
    value = Reference(digests(run, case), seconds)
    path.write_text(json.dumps(value))
    return value


def inject(
    run: Run, names: Sequence[str], inputs: Path, case: Path, expected: Reference, chance: random.Random
) -> list[dict[str, Any]]:
    """Disturb a run, and repeat its command with the next fault and at last without any; a line for each fault."""
    copy_inputs(inputs, case)
    lines: list[dict[str, Any]] = []
    damaged = ""
    for name in names:
        processes = Processes(run, case, FAULTS[name].variables(case, chance))
        moment = chance.uniform(0, expected.seconds)
        time.sleep(moment)
        was_running = processes.is_running
        happened = FAULTS[name].during(processes, chance) is not False and was_running
        end = processes.finish()
        if damage := FAULTS[name].after:
            damaged = damage(run, case, chance)
            happened = happened and bool(damaged)
        problem = _problem(end, processes.suspended)
        line = {"run": run.name, "processes": run.processes, "fault": name, "moment": round(moment, 1)}
        line |= {"codes": end.codes, "damaged": damaged, "errors": end.errors[:2]}
        # A repeated command may end before the fault, and there may be nothing to damage yet: this is none.
        if happened or problem:
            lines.append(line)
        if problem:
            return _with_outcome(lines, problem)
    if names == [NOT_FINITE]:
        complete = set(end.codes) == {0} and skipped_steps(case)
        return _with_outcome(lines, "steps skipped and recorded" if complete else "not complete")
    return _with_outcome(lines, _finish(run, inputs, case, damaged, expected))


def _finish(run: Run, inputs: Path, case: Path, damaged: str, expected: Reference) -> str:
    """Repeat the command until it completes; the outcome.

    After a line about a damaged file, the file is copied again if it is an input, else the folder of the run removed.
    Damage to the metrics costs their lines, or changes one. `prepare` compares the sizes of complete shards, not their
    content: training checks that when it reads them.
    """
    outcome = "the same bits"
    for _ in range(_REPEATS):
        end = Processes(run, case).finish()
        if problem := _problem(end):
            return problem
        if set(end.codes) == {0}:
            differing = differing_files(expected.digests, digests(run, case))
            if differing == {METRICS} == {Path(damaged).name}:
                return f"{outcome}, but metrics are lost"
            if run.name == "prepare" and differing == {Path(damaged).name}:
                return "a shard stays damaged"
            return "other bits" if differing else outcome
        outcome = "the same bits after one line"
        if damaged and (inputs / damaged).exists():
            shutil.copy(inputs / damaged, case / damaged)
        elif damaged:
            shutil.rmtree(case / run.folder, ignore_errors=True)
    return "not complete"


def _problem(end: End, suspended: int | None = None) -> str:
    """What is wrong with the end of a run; empty if it is complete or its error is clear.

    JAX aborts a suspended process that continues after the others have ended (docs/reliability.md).
    """
    if end.is_hanging:
        return "hang"
    if end.has_traceback:
        return "stack trace"
    for index, code in enumerate(end.codes):
        if code in _CRASHES and not (code == -signal.SIGABRT and index == suspended and len(end.codes) > 1):
            return "crash"
    failed = [code for code in end.codes if code and code > 0]
    return "no clear line" if failed and not end.errors else ""


def _with_outcome(lines: list[dict[str, Any]], outcome: str) -> list[dict[str, Any]]:
    return [line | {"outcome": outcome} for line in lines]


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
