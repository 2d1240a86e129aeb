"""`classify` compared with Hugging Face transformers on two cores, v3-small geometry, float32.

`python benchmarks/predict.py [TEXT_FILE [REPETITIONS]]` classifies 2,000 sentences of the file, or of the documentation
of the installed packages. Both peers have the same weights and vocabulary. Hugging Face's eager model gets batches of
32 sentences padded to the longest, in the given order, as users write it, and again sorted by length. Ours uses its
default of 4,096 tokens per batch, including padding. Each peer runs in its own process, and they take turns. The first
run of each is reported separately; ours includes compilation. Needs the extra `reference`.
"""

import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from timing import Worker, serve, table_row

NUM_SENTENCES, BATCH_SIZE, CORES = 2000, 32, 2
VOCABULARY = 16_000
# Sentences per second relative to Hugging Face in the given order.
BAR = 1.5
# A run returns a probability per sentence; the second function counts the programs compiled so far.
Peer = tuple[Callable[[], list[float]], Callable[[], int]]


class Run(NamedTuple):
    """One run over all sentences: wall seconds, CPU seconds, programs compiled so far, probabilities."""

    seconds: float
    cpu_seconds: float
    programs: int
    scores: list[float]


def sentences(path: str | None) -> tuple[list[str], list[str]]:
    """Random sentences of 3 to 110 words, and the paragraphs that they are from."""
    if path is None:
        from deberta_jax.data.documentation import documentation

        paragraphs = [line for document in documentation() for line in document.splitlines()]
    else:
        with Path(path).open(encoding="utf-8") as file:
            paragraphs = [line.strip() for line in file if line.strip()][:40_000]
    parts = [part for paragraph in paragraphs for part in re.split(r"(?<=[.!?]) (?=[A-Z\"(])", paragraph)]
    fitting = [part for part in parts if 3 <= len(part.split()) <= 110]
    return random.Random(0).sample(fitting, NUM_SENTENCES), paragraphs


def prepare(folder: Path, path: str | None) -> None:
    """Write the sentences, and a model folder that both peers read."""
    import jax

    from deberta_jax.hub.pretrained import save_pretrained
    from deberta_jax.model.heads import SequenceClassification
    from deberta_jax.presets import PRESETS
    from deberta_jax.tokenizers.train import train_tokenizer

    texts, paragraphs = sentences(path)
    (folder / "texts.json").write_text(json.dumps(texts))
    tokenizer = train_tokenizer(paragraphs, folder / "spm.model", VOCABULARY)
    model = jax.jit(lambda key: SequenceClassification(PRESETS["v3-small"], key=key))(jax.random.key(0))
    save_pretrained(folder / "model", model, tokenizer)
    lengths = [len(tokenizer.encode(text)) + 2 for text in texts]
    ordered = sorted(lengths)
    quantiles = ", ".join(f"{q:.0%} {ordered[int(q * (len(ordered) - 1))]}" for q in (0.05, 0.25, 0.5, 0.75, 0.95, 1))
    batches = [lengths[start : start + BATCH_SIZE] for start in range(0, len(lengths), BATCH_SIZE)]
    padded = sum(len(batch) * max(batch) for batch in batches)
    print(f"{NUM_SENTENCES} sentences, {sum(lengths):,} tokens, {padded:,} with Hugging Face's padding")
    print(f"quantiles of the lengths: {quantiles}")


def hugging_face(folder: Path, texts: list[str]) -> Peer:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(CORES)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model", attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert tokenizer.is_fast

    def run() -> list[float]:
        scores = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH_SIZE):
                chunk = texts[start : start + BATCH_SIZE]
                batch = tokenizer(chunk, padding=True, truncation=True, max_length=512, return_tensors="pt")
                scores += model(**batch).logits.softmax(-1)[:, 0].tolist()
        return scores

    return run, lambda: 0


def hugging_face_sorted(folder: Path, texts: list[str]) -> Peer:
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    run_sorted, programs = hugging_face(folder, [texts[index] for index in order])

    def run() -> list[float]:
        return [score for _, score in sorted(zip(order, run_sorted(), strict=True))]

    return run, programs


def deberta_jax(folder: Path, texts: list[str]) -> Peer:
    from deberta_jax.hub.pretrained import from_pretrained
    from deberta_jax.inference.classification import class_logits, classify

    model, tokenizer = from_pretrained(folder / "model", "sequence_classification")

    def run() -> list[float]:
        return [result.scores["LABEL_0"] for result in classify(model, tokenizer, texts)]

    return run, class_logits._cache_size


PEERS = {"hugging_face": hugging_face, "hugging_face_sorted": hugging_face_sorted, "deberta_jax": deberta_jax}


def worker(peer: str, folder: Path) -> None:
    """Answer each request with a `Run` as JSON."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    run, programs = PEERS[peer](folder, json.loads((folder / "texts.json").read_text()))

    def measure(request: str) -> str:
        start, cpu_start = time.perf_counter(), time.process_time()
        scores = run()
        return json.dumps([time.perf_counter() - start, time.process_time() - cpu_start, programs(), scores])

    serve(measure)


def main(path: str | None = None, repetitions: int = 5) -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, path)
        workers = {peer: Worker(__file__, peer, str(folder), threads=CORES) for peer in PEERS}
        runs: dict[str, list[Run]] = {peer: [] for peer in PEERS}
        for _ in range(repetitions + 1):
            for peer, process in workers.items():
                runs[peer].append(Run(*json.loads(process.ask())))
        for process in workers.values():
            process.close()
    return report({peer: measured[0] for peer, measured in runs.items()}, {p: r[1:] for p, r in runs.items()})


def report(first: dict[str, Run], runs: dict[str, list[Run]]) -> int:
    """Print a table; returns 1 if the bar is missed."""
    wall = {peer: statistics.median(run.seconds for run in runs[peer]) for peer in PEERS}
    cpu = {peer: statistics.median(run.cpu_seconds for run in runs[peer]) for peer in PEERS}
    measured = {"sentences/s": wall, "CPU seconds": cpu, "first run, s": {p: run.seconds for p, run in first.items()}}
    print(table_row("peer", *(title for name in measured for title in (name, "ratio"))))
    print("|---|---|---|---|---|---|---|")
    for peer in PEERS:
        cells = []
        for name, values in measured.items():
            value = NUM_SENTENCES / values[peer] if name == "sentences/s" else values[peer]
            cells += [f"{value:.1f}", f"{values[peer] / values['deberta_jax']:.2f}"]
        print(table_row(peer, *cells))
    pairs = zip(first["hugging_face"].scores, first["deberta_jax"].scores, strict=True)
    difference = max(abs(a - b) for a, b in pairs)
    compilation = first["deberta_jax"].seconds - wall["deberta_jax"]
    programs = runs["deberta_jax"][-1].programs
    print(
        f"{programs} programs compiled in about {compilation:.1f} s; probabilities differ by at most {difference:.1e}"
    )
    ratio = wall["hugging_face"] / wall["deberta_jax"]
    print(f"bar: {BAR} times Hugging Face in the given order: {'reached' if ratio >= BAR else 'missed'} ({ratio:.2f})")
    return int(ratio < BAR)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None, int(sys.argv[2]) if len(sys.argv) > 2 else 5))
