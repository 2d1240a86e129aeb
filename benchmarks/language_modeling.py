"""Perplexity of language models with and without absolute positions, and trained with masked sequences too.

`python benchmarks/language_modeling.py DATA FOLDER [MODEL STEPS SEEDS]`: DATA contains `wikitext-103-part` (training)
and `wikitext-2` (development and test). Run the same command again to resume. Every variant sees the same number of
auto-regressive tokens. DeBERTa-MT sees as many masked sequences beside them (He et al. 2021, appendix A.4): in twice as
many steps of the same size, or in as many steps of twice the size. Prints perplexities per token and per word of
WikiText-2, means and standard deviations over the seeds.
"""

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax.files import make_folder, write_text

BATCH_SIZE, LENGTH, VOCABULARY = 16, 128, 8000
_MIXED = [
    *("--objective", "mt", "--absolute-positions", "none", "--mt.masked-share", "0.5"),
    *("--mt.directions.left-to-right", "1", "--mt.directions.right-to-left", "0"),
    *("--mt.directions.sequence-to-sequence", "0"),
]


class Variant(NamedTuple):
    """Options of a model, its batch size, and its steps relative to the others."""

    options: list[str]
    batch_size: int = BATCH_SIZE
    steps: int = 1


VARIANTS: dict[str, Variant] = {
    "DeBERTa": Variant(["--objective", "clm", "--absolute-positions", "none"]),
    "DeBERTa-AP": Variant(["--objective", "clm", "--absolute-positions", "input"]),
    # Half of the sequences are auto-regressive.
    "DeBERTa-MT": Variant(_MIXED, steps=2),
    "DeBERTa-MT, large batches": Variant(_MIXED, batch_size=2 * BATCH_SIZE),
    # As many updates as DeBERTa-MT, as many tokens as DeBERTa.
    "DeBERTa, small batches": Variant(["--objective", "clm", "--absolute-positions", "none"], BATCH_SIZE // 2, steps=2),
}
# The numbers that the result files and the table contain.
MEASURES = "valid per token", "valid per word", "test per token", "test per word"
# The title of an article: a line with one = on each side.
_TITLE = re.compile(r"^ = [^=].*[^=] = $")


def main(data: Path, folder: Path, model: str = "tiny", steps: int = 400, seeds: int = 3) -> None:
    texts = write_articles(data, make_folder(folder))
    runs = [(name, seed) for seed in range(seeds) for name in VARIANTS]
    folders = {run: folder / f"{re.sub('[^a-z]+', '-', run[0].lower())}-{run[1]}" for run in runs}
    for (name, seed), run in folders.items():
        variant = VARIANTS[name]
        size = ["--steps", str(variant.steps * steps), "--batch-size", str(variant.batch_size)]
        train(model, texts, folder, run, [*variant.options, *size, "--seed", str(seed)])
    results: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for (name, seed), run in folders.items():
        results[name].append(evaluate(run, texts))
        print(f"{name}, seed {seed}: {results[name][-1]}", flush=True)
    print("\n".join(table(results)))


def write_articles(data: Path, folder: Path) -> dict[str, Path]:
    """The texts as JSON lines, one article each."""
    sources = {
        "train": data / "wikitext-103-part/wiki.train.tokens",
        "valid": data / "wikitext-2/valid.txt",
        "test": data / "wikitext-2/test.txt",
    }
    paths = {}
    for name, source in sources.items():
        paths[name] = folder / f"{name}.jsonl"
        if not paths[name].exists():
            lines = [json.dumps({"text": article}) for article in articles(source.read_text(encoding="utf-8"))]
            write_text(paths[name], "\n".join(lines) + "\n")
    return paths


def articles(text: str) -> Iterator[str]:
    """The articles of a WikiText file, with their titles and all lines."""
    article: list[str] = []
    for line in text.split("\n"):
        if _TITLE.match(line) and any(map(str.strip, article)):
            yield "\n".join(article)
            article = []
        article.append(line)
    yield "\n".join(article)


def train(model: str, texts: dict[str, Path], folder: Path, run: Path, options: list[str]) -> None:
    """Pretrain one model; the first run makes the tokenizer and the shards of all."""
    shared = folder / "shared"
    command = ["--data.length", str(LENGTH), "--data.evaluate-batches", "40", "--data.held-out", str(texts["valid"])]
    if not (shared / "shards").exists():
        words = ["--data.files", str(texts["train"]), "--folder", str(shared), "--vocabulary", str(VOCABULARY)]
        _run("pretrain", model, *command, *words, "--objective", "clm", "--batch-size", "16", "--steps", "1")
    command += ["--tokenizer", str(shared / "tokenizer"), "--data.shards", str(shared / "shards/train")]
    command += ["--folder", str(run), "--optimizer.learning-rate", "2e-3"]
    _run("pretrain", model, *command, "--evaluate-every", "200", "--checkpoint-every", "200", "--keep", "1", *options)


def evaluate(run: Path, texts: dict[str, Path]) -> dict[str, float]:
    """The perplexities of a trained model, stored beside it."""
    path = run / "perplexities.json"
    if not path.exists():
        from deberta_jax.hub.pretrained import from_pretrained
        from deberta_jax.inference.perplexity import perplexity

        model, tokenizer = from_pretrained(run / "model", head="masked_lm")
        measured: dict[str, float] = {}
        for name in ("valid", "test"):
            documents = [json.loads(line)["text"] for line in texts[name].read_text(encoding="utf-8").splitlines()]
            result = perplexity(model, tokenizer, documents, max_length=LENGTH, stride=LENGTH // 2)
            measured |= {f"{name} per token": result.per_token, f"{name} per word": result.per_word}
        write_text(path, json.dumps(measured) + "\n")
    return json.loads(path.read_text())


def table(results: dict[str, list[dict[str, float]]]) -> list[str]:
    """Means and standard deviations as a table in Markdown."""
    lines = ["| | " + " | ".join(MEASURES) + " |", "|---" * (len(MEASURES) + 1) + "|"]
    for name, runs in results.items():
        cells = [_cell([run[measure] for run in runs]) for measure in MEASURES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _cell(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


def _run(command: str, *words: Any) -> None:
    subprocess.run([sys.executable, "-m", "deberta_jax", command, *map(str, words)], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:4], *map(int, sys.argv[4:6]))
