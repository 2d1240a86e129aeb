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

NUMBER, ROWS, CORES = 2000, 32, 2
PEERS = ("hugging_face", "hugging_face_sorted", "deberta_jax")
# Sentences per second, ours over Hugging Face's in the order given.
BAR = 1.5
VOCABULARY = 16_000


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

    from deberta_jax.config import PRESETS
    from deberta_jax.hub.pretrained import save_pretrained
    from deberta_jax.hub.train_tokenizer import train_tokenizer
    from deberta_jax.model.heads import SequenceClassification

    texts, paragraphs = sentences(path)
    (folder / "texts.json").write_text(json.dumps(texts))
    tokenizer = train_tokenizer(paragraphs, folder / "spm.model", VOCABULARY)
    model = jax.jit(lambda key: SequenceClassification(PRESETS["v3-small"], key=key))(jax.random.key(0))
    save_pretrained(folder / "model", model, tokenizer)
    lengths = sorted(len(tokenizer.encode(text)) + 2 for text in texts)
    ranks = ", ".join(f"{share:.0%} {lengths[int(share * (NUMBER - 1))]}" for share in (0.05, 0.25, 0.5, 0.75, 0.95, 1))
    given = sum(
        ROWS * max(len(tokenizer.encode(text)) + 2 for text in texts[at : at + ROWS]) for at in range(0, NUMBER, ROWS)
    )
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
    from deberta_jax.inference.labels import class_logits, classify

    model, tokenizer = from_pretrained(folder / "model", "sequence_classification")

    def run() -> list[float]:
        return [result.scores["LABEL_0"] for result in classify(model, tokenizer, texts)]

    return run, class_logits._cache_size


def worker(peer: str, folder: Path) -> None:
    """For each line that is read, print the seconds of one run, the number of programs and, once, the scores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    texts = json.loads((folder / "texts.json").read_text())
    if peer == "deberta_jax":
        run, programs = deberta_jax(folder, texts)
    else:
        run, programs = hugging_face(folder, texts, ordered=peer == "hugging_face_sorted")
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        scores = run()
        print(json.dumps([time.perf_counter() - start, programs(), scores]), flush=True)


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


def ask(process: subprocess.Popen) -> tuple[float, int, list[float]]:
    process.stdin.write("\n")
    process.stdin.flush()
    seconds, programs, scores = json.loads(process.stdout.readline())
    print(f"{seconds:.1f} s", file=sys.stderr, flush=True)
    return seconds, programs, scores


def main(path: str | None = None, repetitions: int = 5) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, path)
        processes = {peer: start(peer, folder) for peer in PEERS}
        first = {peer: ask(process) for peer, process in processes.items()}
        times = {peer: [] for peer in PEERS}
        for _ in range(repetitions):
            for peer, process in processes.items():
                seconds, programs, _ = ask(process)
                times[peer].append(seconds)
                if peer == "deberta_jax":
                    compiled = programs
        for process in processes.values():
            process.stdin.close()
            process.wait()
    medians = {peer: statistics.median(times[peer]) for peer in PEERS}
    print("| peer | sentences/s | ours over it | first run, s | sentences/s of the first run | ours over it |")
    print("|---|---|---|---|---|---|")
    for peer in PEERS:
        warm, cold = medians[peer], first[peer][0]
        print(
            f"| {peer} | {NUMBER / warm:.1f} | {warm / medians['deberta_jax']:.2f} | {cold:.1f} "
            f"| {NUMBER / cold:.1f} | {cold / first['deberta_jax'][0]:.2f} |"
        )
    apart = max(abs(a - b) for a, b in zip(first["hugging_face"][2], first["deberta_jax"][2], strict=True))
    compiling = first["deberta_jax"][0] - medians["deberta_jax"]
    print(f"programs compiled: {compiled}, in about {compiling:.1f} s; largest difference of a probability {apart:.1e}")
    ratio = medians["hugging_face"] / medians["deberta_jax"]
    print(f"bar: {BAR} times Hugging Face in the order given: {'reached' if ratio >= BAR else 'missed'} ({ratio:.2f})")
    return int(ratio < BAR)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None, int(sys.argv[2]) if len(sys.argv) > 2 else 5))
