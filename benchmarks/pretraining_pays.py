"""What pretraining is worth: a small model fine-tuned on 2,000 sentences of SST-2, with and without it.

`python benchmarks/pretraining_pays.py DATA FOLDER`: DATA holds `glue`, `gutenberg`, `squad`, `superglue`, `wikitext-2`
and `wikitext-103-part`; all that is made stands in FOLDER, and the same command goes on with it. Pretraining is the
project's own command on about 15 MB of text (no text of a development or test set of SST-2); fine-tuning takes the
first 2,000 training sentences and is repeated with three seeds. Prints the accuracies on the development set.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

EXAMPLES, SEEDS = 2000, 3
PRETRAIN = [
    "pretrain",
    "mini",
    "--data.length",
    "64",
    "--batch-size",
    "64",
    "--steps",
    "4000",
    "--data.masking.max-ngram",
    "1",
    "--evaluate-every",
    "1000",
    "--checkpoint-every",
    "500",
    "--optimizer.learning-rate",
    "1e-3",
    "--keep",
    "1",
]
FINETUNE = [
    "finetune",
    "sst-2",
    "--epochs",
    "5",
    "--optimizer.learning-rate",
    "6e-4",
    "--batch-size",
    "32",
    "--max-length",
    "64",
]


def main(data: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "text.txt"
    if not text.exists():
        documents = list(_documents(data))
        partial = text.with_suffix(".partial")
        partial.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
        partial.replace(text)
    print(f"text: {text.stat().st_size / 1e6:.1f} MB", flush=True)
    _run(*PRETRAIN, "--data.files", str(text), "--folder", str(folder / "pretrained"))
    few = folder / "sst-2"
    few.mkdir(exist_ok=True)
    rows = (data / "glue/SST-2/train.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    (few / "train.tsv").write_text("".join(rows[: EXAMPLES + 1]), encoding="utf-8")
    (few / "dev.tsv").write_bytes((data / "glue/SST-2/dev.tsv").read_bytes())
    found = {}
    for name, more in (("pretrained", ()), ("random", ("--from-scratch",))):
        to = folder / f"finetuned-{name}"
        model = str(folder / "pretrained/model")
        _run(*FINETUNE, "--data", str(few), "--model", model, "--folder", str(to), "--seeds", str(SEEDS), *more)
        found[name] = [seed["accuracy"] for seed in json.loads((to / "seeds.json").read_text())]
    for name, accuracies in found.items():
        listed = ", ".join(f"{accuracy:.1%}" for accuracy in accuracies)
        print(f"{name}: median {statistics.median(accuracies):.1%} ({listed})")
    gain = statistics.median(found["pretrained"]) - statistics.median(found["random"])
    print(f"pretraining is worth {100 * gain:.1f} points of accuracy on {EXAMPLES:,} sentences")


def _documents(data: Path) -> Iterator[str]:
    """Books and articles by paragraphs in runs, contexts of SQuAD, training sentences of GLUE and SuperGLUE."""
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


def _run(*words: str) -> None:
    command = [sys.executable, "-c", "import sys; from deberta_jax.cli.main import main; sys.exit(main())", *words]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
