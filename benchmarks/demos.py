"""Both demos of the README with their bars.

`python benchmarks/demos.py [FOLDER]` trains them in a new folder, and prints wall time, CPU time and held-out metrics.
It exits with 1 if a bar is missed.
"""

import json
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import seconds, verdict

MAX_MINUTES = {"mlm": 6, "rtd": 8}


def run(objective: str, folder: Path) -> str:
    """Train a demo; returns its output."""
    words = ["pretrain", "demo", "--objective", objective, "--folder", str(folder)]
    command = [sys.executable, "-m", "deberta_jax", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def cpu_seconds() -> float:
    """The CPU time of the processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(folder: Path) -> int:
    missed = False
    for objective, max_minutes in MAX_MINUTES.items():
        output: list[str] = []
        cpu_start = cpu_seconds()
        minutes = seconds(lambda name=objective, output=output: output.append(run(name, folder / name))) / 60
        lines = [json.loads(line) for line in (folder / objective / "metrics.jsonl").read_text().splitlines()]
        metrics = lines[-1]
        print("".join(line for line in output[0].splitlines(keepends=True) if line.startswith("held-out")), end="")
        if objective == "mlm":
            baseline = float(re.search(r"majority-class baseline ([\d.]+)%", output[0])[1]) / 100
            bars = {f"accuracy above 3 times {baseline:.3f}": metrics["accuracy"] > 3 * baseline}
        else:
            bars = {"AUC above 0.70": metrics["auc"] > 0.70, "loss below the best constant's": metrics["gain"] > 0}
        bars[f"at most {max_minutes} minutes"] = minutes <= max_minutes
        print(f"{objective}: {minutes:.1f} minutes, {cpu_seconds() - cpu_start:.0f} s of CPU time")
        for name, ok in bars.items():
            print(verdict(name, ok))
        missed |= not all(bars.values())
    return int(missed)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else temporary)))
