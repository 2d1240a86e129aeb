"""Both demos as the README has them, each against its bars.

`python benchmarks/demos.py [FOLDER]` trains them in a new folder and prints wall time, processor time and what held-out
text says; it exits with 1 where a bar is missed.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MINUTES = {"mlm": 6, "rtd": 8}


def run(objective, folder):
    """The last held-out line of a demo, its minutes and its processor seconds."""
    program = "import sys; from deberta_jax.cli.main import main; sys.exit(main())"
    words = ["pretrain", "demo", "--objective", objective, "--folder", str(folder)]
    before, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run([sys.executable, "-c", program, *words], check=True, stdout=subprocess.PIPE, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return lines[-1], out, (time.perf_counter() - before) / 60, seconds


def main(folder):
    missed = False
    for objective, most in MINUTES.items():
        found, out, minutes, seconds = run(objective, folder / objective)
        print("".join(line for line in out.splitlines(keepends=True) if line.startswith("held-out")), end="")
        if objective == "mlm":
            guess = float(out.partition("majority-class baseline ")[2].partition("%")[0]) / 100
            bars = {f"accuracy over 3 times {guess:.3f}": found["accuracy"] > 3 * guess}
        else:
            bars = {"AUC over 0.70": found["auc"] > 0.70, "loss below the best constant's": found["gain"] > 0}
        bars[f"at most {most} minutes"] = minutes <= most
        print(f"{objective}: {minutes:.1f} minutes, {seconds:.0f} s of processor time")
        for bar, held in bars.items():
            print(f"  {'held' if held else 'MISSED'}: {bar}")
        missed |= not all(bars.values())
    return int(missed)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else made)))
