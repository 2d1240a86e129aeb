"""Texts in, labels out: `classify` against Hugging Face transformers on two cores, v3-small geometry, float32.

`python benchmarks/predict.py [TEXT_FILE [REPETITIONS]]` takes 2,000 sentences of the file, else of the documentation of
the packages installed here. Both have the same weights and the same vocabulary. Hugging Face's eager model gets batches
of 32 sentences padded to their longest, in the order given as users write it, and again sorted by length; ours has its
default of 4,096 tokens a batch, padding included. Each peer lives in a process of its own and they take turns;
medians; a run of each goes before, which is ours with compilation. Needs the extra `reference`.
"""

import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

NUMBER, ROWS, CORES = 2000, 32, 2
PEERS = ("hugging_face", "hugging_face_sorted", "deberta_jax")
# Sentences per second, ours over Hugging Face's in the order given.
BAR = 1.5
VOCABULARY = 16_000


class Run(NamedTuple):
    """Of one run over all sentences: seconds, seconds of its cores, programs compiled so far, probabilities."""

    seconds: float
    busy: float
    programs: int
    scores: list[float]


def sentences(path: str | None) -> tuple[list[str], list[str]]:
    """2,000 sentences of 3 to 110 words, and the paragraphs they were drawn from."""
    if path is None:
        from deberta_jax.data.documentation import documentation

        paragraphs = [line for document in documentation() for line in document.splitlines()]
    else:
        with Path(path).open(encoding="utf-8") as file:
            paragraphs = [line.strip() for line in file if line.strip()][:40_000]
    parts = [part for paragraph in paragraphs for part in re.split(r"(?<=[.!?]) (?=[A-Z\"(])", paragraph)]
    fitting = [part for part in parts if 3 <= len(part.split()) <= 110]
    return random.Random(0).sample(fitting, NUMBER), paragraphs


def prepare(folder: Path, path: str | None) -> None:
    """Write the sentences, and a model folder that both read."""
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
    counts = [len(tokenizer.encode(text)) + 2 for text in texts]
    lengths = sorted(counts)
    ranks = ", ".join(f"{share:.0%} {lengths[int(share * (NUMBER - 1))]}" for share in (0.05, 0.25, 0.5, 0.75, 0.95, 1))
    groups = [counts[at : at + ROWS] for at in range(0, len(counts), ROWS)]
    given = sum(len(group) * max(group) for group in groups)
    print(f"{NUMBER} sentences, {sum(lengths):,} tokens; lengths: {ranks}; {given:,} with Hugging Face's padding")


def hugging_face(folder: Path, texts: list[str], *, ordered: bool):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(CORES)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model", attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert tokenizer.is_fast
    order = list(range(len(texts)))
    if ordered:
        order.sort(key=lambda place: -len(texts[place]))

    def run() -> list[float]:
        found = [0.0] * len(texts)
        with torch.inference_mode():
            for start in range(0, len(order), ROWS):
                places = order[start : start + ROWS]
                batch = tokenizer(
                    [texts[place] for place in places],
                    padding=True,
                    truncation=True,
                    max_length=512,
                    return_tensors="pt",
                )
                scores = model(**batch).logits.softmax(-1)[:, 0].tolist()
                for place, score in zip(places, scores, strict=True):
                    found[place] = score
        return found

    return run, lambda: 0


def deberta_jax(folder: Path, texts: list[str]):
    from deberta_jax.hub.pretrained import from_pretrained
    from deberta_jax.inference.classification import class_logits, classify

    model, tokenizer = from_pretrained(folder / "model", "sequence_classification")

    def run() -> list[float]:
        return [result.scores["LABEL_0"] for result in classify(model, tokenizer, texts)]

    return run, class_logits._cache_size


def worker(peer: str, folder: Path) -> None:
    """For each line that is read, print a `Run`."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    texts = json.loads((folder / "texts.json").read_text())
    if peer == "deberta_jax":
        run, programs = deberta_jax(folder, texts)
    else:
        run, programs = hugging_face(folder, texts, ordered=peer == "hugging_face_sorted")
    print("ready", flush=True)
    for _ in sys.stdin:
        start, busy = time.perf_counter(), time.process_time()
        scores = run()
        elapsed = time.perf_counter() - start, time.process_time() - busy
        print(json.dumps([*elapsed, programs(), scores]), flush=True)


def start(peer: str, folder: Path) -> subprocess.Popen:
    environment = dict(os.environ, OMP_NUM_THREADS=str(CORES), JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1")
    process = subprocess.Popen(
        [sys.executable, __file__, "worker", peer, str(folder)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    while (line := process.stdout.readline()) and line.strip() != "ready":
        pass
    return process


def ask(process: subprocess.Popen) -> Run:
    process.stdin.write("\n")
    process.stdin.flush()
    run = Run(*json.loads(process.stdout.readline()))
    print(f"{run.seconds:.1f} s", file=sys.stderr, flush=True)
    return run


def main(path: str | None = None, repetitions: int = 5) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, path)
        processes = {peer: start(peer, folder) for peer in PEERS}
        first = {peer: ask(process) for peer, process in processes.items()}
        runs = {peer: [] for peer in PEERS}
        for _ in range(repetitions):
            for peer, process in processes.items():
                runs[peer].append(ask(process))
        for process in processes.values():
            process.stdin.close()
            process.wait()
    medians = {peer: statistics.median(run.seconds for run in runs[peer]) for peer in PEERS}
    busy = {peer: statistics.median(run.busy for run in runs[peer]) for peer in PEERS}
    ours, cold = medians["deberta_jax"], first["deberta_jax"].seconds
    print("| peer | sentences/s | ours over it | seconds of cores | ours over it | first run, s | ours over it |")
    print("|---|---|---|---|---|---|---|")
    for peer in PEERS:
        print(
            f"| {peer} | {NUMBER / medians[peer]:.1f} | {medians[peer] / ours:.2f} | {busy[peer]:.1f} "
            f"| {busy[peer] / busy['deberta_jax']:.2f} | {first[peer].seconds:.1f} | {first[peer].seconds / cold:.2f} |"
        )
    pairs = zip(first["hugging_face"].scores, first["deberta_jax"].scores, strict=True)
    apart = max(abs(one - other) for one, other in pairs)
    programs = runs["deberta_jax"][-1].programs
    print(f"programs compiled: {programs}, in about {cold - ours:.1f} s; probabilities differ by {apart:.1e} at most")
    ratio = medians["hugging_face"] / ours
    print(f"bar: {BAR} times Hugging Face in the order given: {'reached' if ratio >= BAR else 'missed'} ({ratio:.2f})")
    return int(ratio < BAR)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None, int(sys.argv[2]) if len(sys.argv) > 2 else 5))
