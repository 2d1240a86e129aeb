"""Tokens per second that one host's input delivers: `python benchmarks/input_speed.py [REPETITIONS]`.

Batches of 64 sequences of 512 tokens, of random text in a vocabulary of 128,000, with v3's masking (rtd) and with
n-grams of whole words (mlm), from a folder of shards and from a mixture of three, by threads of this process and by 1
and 2 worker processes. Measurements take turns. "Per CPU second" divides by the CPU time of the process instead, which
depends less on what else the machine does.

Prints what a v3-base step (rtd) consumes: on this CPU at most the speed of its matrix products over the FLOPs of a
token, and on a v5e-256 at 40% of the peak; and how many cores deliver that. Fails below 20 times the former.
"""

import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from timing import alternate, table_row, verdict

from deberta_jax.data.batches import MakeRow, MaskSequence, TrainingBatches
from deberta_jax.data.masking import MaskingVocabulary
from deberta_jax.data.mixture import Shards, Source
from deberta_jax.data.prepare import prepare
from deberta_jax.pretraining.recipes import Selection, recipe
from deberta_jax.pretraining.run import describe
from deberta_jax.training.flops import peak_flops

LENGTH, BATCH_SIZE, BATCHES = 512, 64, 40
VOCABULARY = 128_000
SPECIAL = (0, 1, 2, 3, VOCABULARY - 1)
CHIPS, UTILIZATION, HOSTS = 256, 0.4, {"4 chips": 64, "8 chips": 32}
TARGET = 20


class NumberTokenizer:
    """Reads documents of numbers, the ids of their tokens."""

    sha256, vocab_size, pad_id, cls_id, sep_id = "0" * 64, VOCABULARY, 0, 1, 2

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        return [np.array(text.split(), np.int32) for text in texts]


def write_shards(folder: Path, documents: int = 12_000) -> Path:
    """About 4 million tokens in documents of lognormal length."""
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(5.5, 0.8, documents).astype(int).clip(10, 4000)
    # Frequencies as in text: the r-th token has a frequency of about 1/r.
    ids = np.minimum(4 + np.exp(rng.random(lengths.sum()) * np.log(VOCABULARY - 5)).astype(int), VOCABULARY - 2)
    parts = np.split(ids, np.cumsum(lengths)[:-1])
    text = folder / "text.txt"
    text.write_text("\n\n".join(" ".join(map(str, part)) for part in parts))
    prepare([str(text)], folder / "shards", NumberTokenizer(), length=LENGTH)
    return folder / "shards"


def tokens_per_second(shards: Shards, rows: MakeRow, workers: int) -> tuple[float, float]:
    """By wall time, and by CPU time of this process, after the first batches."""
    with TrainingBatches(shards, rows, batch_size=BATCH_SIZE, seed=0, workers=workers) as batches:
        for _ in range(max(4, 4 * workers)):
            next(batches)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(BATCHES):
            next(batches)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    tokens = BATCHES * BATCH_SIZE * LENGTH
    return tokens / wall, tokens / cpu


def matmul_flops(size: int = 3072) -> float:
    """FLOP/s of a float32 matrix product on this CPU."""
    x = jnp.ones((size, size))
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))
    product(x, x).block_until_ready()
    durations = []
    for _ in range(5):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        durations.append(time.perf_counter() - start)
    return 2 * size**3 / min(durations)


def flops_per_token() -> float:
    """FLOPs of a training step of v3-base (rtd), by token."""
    text = describe(recipe("v3-base", Selection("rtd")))
    step, tokens = re.search(r"([\d,.]+) TFLOP per step", text)[1], re.search(r"([\d,]+) tokens\n", text)[1]
    return float(step.replace(",", "")) * 1e12 / int(tokens.replace(",", ""))


def measurements(shards: Path) -> Iterator[tuple[str, Callable[[], float]]]:
    """The name of each measurement, and the measurement by wall time; CPU time is measured without workers."""
    starts = np.random.default_rng(1).random(VOCABULARY) < 0.7
    vocabulary = MaskingVocabulary(VOCABULARY - 1, VOCABULARY, SPECIAL, starts)
    mixture = [Source(name, shards, weight) for name, weight in (("a", 0.6), ("b", 0.3), ("c", 0.1))]
    for objective in ("mlm", "rtd"):
        rows = MaskSequence(vocabulary, recipe("v3-base", Selection(objective)).data.masking)
        for workers in (0, 1, 2):
            yield f"{objective}, {workers} workers", lambda r=rows, w=workers: tokens_per_second(shards, r, w)[0]
        yield f"{objective}, per CPU second", lambda r=rows: tokens_per_second(shards, r, 0)[1]
        yield f"{objective}, mixture, per CPU second", lambda r=rows: tokens_per_second(mixture, r, 0)[1]


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(Path(folder))
        speeds = alternate(dict(measurements(shards)), repetitions)
    print(table_row("input", "tokens/s"))
    print(table_row("---", "---"))
    for name, speed in speeds.items():
        print(table_row(name, f"{speed:,.0f}"))
    cost, products = flops_per_token(), matmul_flops()
    here = products / cost
    slice_tokens = CHIPS * peak_flops("TPU v5 lite") * UTILIZATION / cost
    print(f"v3-base: {cost / 1e9:.2f} GFLOP per token; matrix products here: {products / 1e9:,.0f} GFLOP/s")
    print(f"a step consumes at most {here:,.0f} tokens/s here, and {slice_tokens:,.0f} on a v5e-{CHIPS} at 40% MFU")
    cores = slice_tokens / speeds["rtd, per CPU second"]
    hosts = ", ".join(f"{cores / number:.1f} on each of {number} hosts with {chips}" for chips, number in HOSTS.items())
    print(f"a v5e-{CHIPS} needs {cores:.0f} CPU cores for its input: {hosts}")
    ratio = min(speeds.values()) / here
    ok = ratio >= TARGET
    print(verdict(f"the slowest input is {ratio:,.0f} times as fast as a step here, at least {TARGET}", ok))
    sys.exit(not ok)


if __name__ == "__main__":
    main()
