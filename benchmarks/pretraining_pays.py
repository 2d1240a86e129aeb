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
from collections.abc import Iterator
from pathlib import Path

from deberta_jax.files import make_folder, write_text

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
    if not text.exists():
        write_text(text, "\n\n".join(_documents(data)) + "\n")
    print(f"text: {text.stat().st_size / 1e6:.1f} MB", flush=True)
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


def _documents(data: Path) -> Iterator[str]:
    """Yield paragraphs of books and articles, contexts of SQuAD, and training sentences of GLUE and SuperGLUE."""
    for path in sorted((data / "gutenberg").glob("*.txt")):
        yield from _paragraphs(path.read_text(encoding="utf-8", errors="replace"))
    for name in ("wikitext-2/valid.txt", "wikitext-2/test.txt", "wikitext-103-part/wiki.train.tokens"):
        yield from _paragraphs((data / name).read_text(encoding="utf-8").replace(" @-@ ", "-").replace("\n", "\n\n"))
    for path in sorted((data / "squad").glob("*.json")):
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                yield " ".join(paragraph["context"].split())
    for name, columns in (("CoLA", (3,)), ("RTE", (1, 2)), ("SST-2", (0,)), ("STS-B", (7, 8))):
        lines = (data / f"glue/{name}/train.tsv").read_text(encoding="utf-8").splitlines()
        for line in lines[name != "CoLA" :]:
            fields = line.split("\t")
            yield from (fields[column].strip() for column in columns if fields[column].strip())
    for path in sorted((data / "superglue").glob("*/train.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            yield from (values[name] for name in ("premise", "hypothesis", "choice1", "choice2") if values.get(name))


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        words = paragraph.split()
        if len(words) > 5:
            yield " ".join(words)


def _run(command: str, recipe: str, options: dict[str, str], *flags: str) -> None:
    words = [word for option in options.items() for word in option]
    subprocess.run([sys.executable, "-m", "deberta_jax", command, recipe, *words, *flags], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
