"""Runs on disks of 1 to 14 MB: one line when a disk is full, and the bits of an undisturbed run on a larger one.

`python benchmarks/full_disk.py FOLDER` trains tiny models (masked language modeling, replaced-token detection,
fine-tuning) in run folders that are file systems of each size. If a run does not fit, it must end with one line and
exit code 2; then the file system is enlarged, and the same command must complete with the bits of a run on a large
disk. Checkpoints are written in the background. Prints a table, and exits with 1 if a run ends in another way. Needs
root.
"""

import subprocess
import sys
from pathlib import Path

from fault_runs import Processes, Run, all_runs, copy_inputs, digests, make_inputs
from faults import reference

SIZES = range(1, 15)


def main(folder: Path) -> int:
    inputs = folder / "inputs"
    make_inputs(inputs)
    runs = [run for run in all_runs() if run.processes == 1 and run.name != "prepare"]
    print(f"| MB | {' | '.join(run.name for run in runs)} |\n|---|{'---|' * len(runs)}", flush=True)
    failed = False
    for size in SIZES:
        outcomes = [outcome(run, size, inputs, folder) for run in runs]
        failed |= any(not text.startswith(("full", "fits")) for text in outcomes)
        print(f"| {size} | {' | '.join(outcomes)} |", flush=True)
    return int(failed)


def outcome(run: Run, size: int, inputs: Path, folder: Path) -> str:
    """What happened on a disk of this size."""
    expected = reference(run, inputs, folder)
    case = copy_inputs(inputs, folder / "case")
    disk = case / run.folder
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(disk)], check=True)
    try:
        first = Processes(run, case).finish()
        subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
        if first.has_traceback or first.codes not in ([0], [2]) or len(first.errors) != bool(first.codes[0]):
            return f"FAILED: {first}"
        last = Processes(run, case).finish()
        if last.codes != [0]:
            return f"NOT COMPLETE: {last}"
        if digests(run, case) != expected.digests:
            return "OTHER BITS"
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return "full, one line, then the same bits" if first.codes == [2] else "fits"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
