"""The gain from pretraining: a small model fine-tuned on 2,000 sentences of SST-2, with and without it.

`python benchmarks/pretraining_pays.py DATA FOLDER`: DATA contains `glue`, `gutenberg`, `squad`, `superglue`,
`wikitext-2` and `wikitext-103-part`. Run the same command again to resume. `deberta-jax pretrain` trains on about 15 MB
of text, without text of SST-2's development and test sets; `deberta-jax finetune` trains on the first 2,000 sentences
with three seeds. Prints the accuracies on the development set.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from pretraining_text import write_documents

from deberta_jax.files import make_folder

EXAMPLES, SEEDS = 2000, 3
# Options of the two commands.
PRETRAIN = {
    "--data.length": "64",
    "--data.masking.max-ngram": "1",
    "--batch-size": "64",
    "--steps": "4000",
    "--optimizer.learning-rate": "1e-3",
    "--evaluate-every": "1000",
    "--checkpoint-every": "500",
    "--keep": "1",
}
FINETUNE = {
    "--epochs": "5",
    "--batch-size": "32",
    "--max-length": "64",
    "--optimizer.learning-rate": "6e-4",
    "--seeds": str(SEEDS),
}


def main(data: Path, folder: Path) -> None:
    make_folder(folder)
    text = folder / "text.txt"
    write_documents(data, text)
    _run("pretrain", "mini", PRETRAIN | {"--data.files": str(text), "--folder": str(folder / "pretrained")})
    subset = make_folder(folder / "sst-2")
    rows = (data / "glue/SST-2/train.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    (subset / "train.tsv").write_text("".join(rows[: EXAMPLES + 1]), encoding="utf-8")
    (subset / "dev.tsv").write_bytes((data / "glue/SST-2/dev.tsv").read_bytes())
    medians = {}
    for name, flags in (("pretrained", ()), ("random", ("--from-scratch",))):
        run = folder / f"finetuned-{name}"
        paths = {"--data": str(subset), "--model": str(folder / "pretrained/model"), "--folder": str(run)}
        _run("finetune", "sst-2", FINETUNE | paths, *flags)
        accuracies = [seed["accuracy"] for seed in json.loads((run / "seeds.json").read_text())]
        medians[name] = statistics.median(accuracies)
        print(f"{name}: median {medians[name]:.1%} ({', '.join(f'{accuracy:.1%}' for accuracy in accuracies)})")
    gain = medians["pretrained"] - medians["random"]
    print(f"pretraining adds {100 * gain:.1f} points of accuracy on {EXAMPLES:,} sentences")


def _run(command: str, recipe: str, options: dict[str, str], *flags: str) -> None:
    words = [word for option in options.items() for word in option]
    subprocess.run([sys.executable, "-m", "deberta_jax", command, recipe, *words, *flags], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
