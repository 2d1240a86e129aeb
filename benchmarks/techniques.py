"""Techniques for fine-tuning compared with the plain recipe, on a part of SST-2 and a few seeds.

`python benchmarks/techniques.py SST-2 MODEL FOLDER` samples 2,000 training examples, fine-tunes MODEL on them with each
configuration and three seeds, and prints a Markdown table: the accuracy on the development set after the last step, and
its difference from the plain recipe with the same seed. `--examples`, `--seeds` and `--only NAME...` make it smaller;
further options are those of `deberta-jax finetune`, for all configurations. Finished runs in FOLDER are kept.
"""

import argparse
import json
import random
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from deberta_jax.cli.main import main as deberta_jax

PLAIN = "plain"
CONFIGURATIONS: Mapping[str, tuple[str, ...]] = {
    PLAIN: (),
    "EMA": ("--ema", "0.999"),
    "re-initialized top layer": ("--reinitialize-layers", "1"),
    "FGM": ("--fgm.epsilon", "0.1"),
}
METRIC = "accuracy"


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[name for name in CONFIGURATIONS if name != PLAIN])
    options, recipe = parser.parse_known_args(words)
    if options.seeds < 2:
        parser.error("a standard deviation needs --seeds 2 or more")
    data = sample(options.data, options.folder / f"data-{options.examples}", options.examples)
    scores = {}
    for name, technique in CONFIGURATIONS.items():
        if options.only and name not in (PLAIN, *options.only):
            continue
        folder = options.folder / name
        finetune(data, options.model, folder, options.seeds, [*technique, *recipe])
        scores[name] = [metrics[METRIC] for metrics in json.loads((folder / "seeds.json").read_text())]
    print("\n".join(table(scores)))


def sample(source: Path, target: Path, count: int) -> Path:
    """A folder with a random sample of the training rows, and all of the development rows."""
    target.mkdir(parents=True, exist_ok=True)
    header, *rows = source.joinpath("train.tsv").read_text(encoding="utf-8").splitlines()
    if len(rows) < count:
        sys.exit(f"{source / 'train.tsv'} has {len(rows)} rows, fewer than --examples {count}")
    rows = random.Random(0).sample(rows, count)
    (target / "train.tsv").write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    shutil.copy(source / "dev.tsv", target / "dev.tsv")
    return target


def finetune(data: Path, model: Path, folder: Path, seeds: int, options: Sequence[str]) -> None:
    """Fine-tune with each seed. The only evaluation is after the last step, so that no epoch is selected."""
    command = ["finetune", "sst-2", "--data", data, "--model", model, "--folder", folder, "--seeds", seeds]
    if code := deberta_jax([*map(str, command), "--evaluate-every", "1000000", *options]):
        sys.exit(code)


def table(scores: Mapping[str, Sequence[float]]) -> list[str]:
    """The lines of a Markdown table; the difference is paired by seed."""
    seeds = len(scores[PLAIN])
    lines = [
        f"| configuration | {METRIC}, mean of {seeds} seeds | standard deviation | difference from plain, paired | "
        "standard deviation of the difference |",
        "|---|---|---|---|---|",
    ]
    for name, values in scores.items():
        differences = [100 * (a - b) for a, b in zip(values, scores[PLAIN], strict=True)]
        cells = [f"{100 * statistics.mean(values):.2f}", f"{100 * statistics.stdev(values):.2f}"]
        if name == PLAIN:
            cells += ["–", "–"]
        else:
            cells += [f"{statistics.mean(differences):+.2f}", f"{statistics.stdev(differences):.2f}"]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return lines


if __name__ == "__main__":
    main(sys.argv[1:])
