"""Texts of twice the sequence length whose label depends on their second half: truncated, in windows, at full length.

`python benchmarks/long_texts.py [FOLDER]` fine-tunes a random model with relative positions and two layers on 1,280
such texts, and prints the accuracy on 200 others for each way to read them. A constant answer has an accuracy of 0.5.
"""

import contextlib
import csv
import io
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import jax

from deberta_jax.cli.main import main
from deberta_jax.config import DebertaConfig
from deberta_jax.hub.pretrained import save_pretrained
from deberta_jax.model.deberta import Deberta
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.tokenizers.train import train_tokenizer

LENGTH = 16
TRAIN, DEV = 1280, 200
FILLERS = "report meeting agenda minutes section annex table figure budget project office member".split()  # noqa: SIM905
ANSWERS = {"no": "rejected", "yes": "accepted"}
WAYS = {
    "truncated": ("--max-length", str(LENGTH)),
    **{
        f"windows, {pooling}": ("--max-length", str(LENGTH), "--long", "windows", "--window-pooling", pooling)
        for pooling in ("mean", "max", "attention")
    },
    # A half may have a few tokens more than a window.
    "full length": ("--max-length", str(3 * LENGTH)),
}
OPTIONS = (
    *("--epochs", "5", "--batch-size", "32", "--optimizer.learning-rate", "5e-3", "--evaluate-every", "40"),
    *("--attention", "xla", "--mesh.data", "1", "--checkpoint-every", "1000"),
)


def half(rng: random.Random, tokenizer: Tokenizer, *words: str) -> str:
    """A text with at least as many tokens as a window, which contains these words."""
    text = list(words)
    while len(tokenizer.encode(" ".join(text))) < LENGTH - 2:
        text.append(rng.choice(FILLERS))
    rng.shuffle(text)
    return " ".join(text)


def write_data(folder: Path, tokenizer: Tokenizer) -> None:
    """`train.csv` and `dev.csv`; only the second half of a text has the word of its label."""
    for split, count, seed in (("train", TRAIN, 0), ("dev", DEV, 1)):
        rng = random.Random(seed)
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("text", "label"))
            for number in range(count):
                label = list(ANSWERS)[number % 2]
                rows.writerow((f"{half(rng, tokenizer)} {half(rng, tokenizer, ANSWERS[label])}", label))


def write_model(folder: Path) -> Tokenizer:
    """A random model, and a tokenizer of the words of the texts."""
    folder.mkdir()
    words = [*FILLERS, *ANSWERS.values()]
    texts = [" ".join(random.Random(seed).choices(words, k=40)) for seed in range(200)]
    tokenizer = train_tokenizer(texts, folder / "spm.model", 290)
    config = DebertaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=LENGTH,
        position_buckets=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.1,
    )
    save_pretrained(folder, jax.jit(lambda key: Deberta(config, key=key))(jax.random.key(0)), tokenizer)
    return tokenizer


def accuracy(folder: Path, name: str, options: tuple[str, ...]) -> float:
    """The accuracy on the development set after fine-tuning."""
    run = folder / name.replace(", ", "-").replace(" ", "-")
    words = ("--data", str(folder), "--model", str(folder / "model"), "--folder", str(run), *OPTIONS, *options)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        if main(["finetune", "generic", *words]):
            raise SystemExit(f"{name} failed: {output.getvalue()}")
    return float(json.loads((run / "metrics.json").read_text())["dev"]["accuracy"])


def compare(folder: Path) -> None:
    """Print a line for each way."""
    write_data(folder, write_model(folder / "model"))
    for name, options in WAYS.items():
        start = time.perf_counter()
        print(f"{name:20} {accuracy(folder, name, options):.3f}  ({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True)
        compare(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            compare(Path(temporary))
