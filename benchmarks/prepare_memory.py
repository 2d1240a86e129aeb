"""Memory of `prepare` by the amount of text: `python benchmarks/prepare_memory.py [MEGABYTES MEGABYTES]`.

Prepares 100 MB and 1 GB of generated documents with a SentencePiece tokenizer, each in a new process: keeping every
document, and removing near duplicates (every tenth document is a copy with some words changed). Prints the peak of the
resident memory and the speed, and fails if the peak of 1 GB is more than 5% above that of 100 MB, not counting the
bytes per document that the removal of duplicates holds.
"""

import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import table_row, verdict

from deberta_jax.data.documentation import documentation
from deberta_jax.data.prepare import prepare
from deberta_jax.data.selection import Selection
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.tokenizers.train import train_tokenizer

SIZES = 100, 1000
WORDS, WORDS_PER_FILE_DOCUMENT = 20_000, 350
# docs/pretraining.md, "Large corpora".
BYTES_PER_DOCUMENT = 60
TOLERANCE = 1.05


def write_text(path: Path, vocabulary: list[str], megabytes: int) -> None:
    """Documents of random words, one in ten almost a copy of an earlier one."""
    rng = np.random.default_rng(0)
    words = np.array(vocabulary)
    document: list[str] = []
    with path.open("w") as file:
        while file.tell() < megabytes * 1e6:
            if document and rng.random() < 0.1:
                document[int(rng.integers(len(document)))] = "changed"
            else:
                document = words[rng.zipf(1.3, WORDS_PER_FILE_DOCUMENT) % len(words)].tolist()
            file.write(" ".join(document) + "\n\n")


def measure(megabytes: int, deduplicate: str, folder: Path) -> None:
    """In a new process: prepare the text, and print peak memory in bytes, documents, dropped documents and seconds."""
    start = time.perf_counter()
    selection = Selection(deduplicate=deduplicate)
    tokenizer = Tokenizer(folder / "spm.model")
    output = folder / f"{megabytes}-{deduplicate}"
    report = prepare([str(folder / f"{megabytes}.txt")], output, tokenizer, length=512, selection=selection)
    # Not ru_maxrss, which a process inherits from its parent.
    peak = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
    dropped = sum(report.manifest.dropped.values())
    print(peak, report.manifest.documents + dropped, dropped, time.perf_counter() - start)


def main() -> None:
    import subprocess

    sizes = tuple(map(int, sys.argv[1:])) or SIZES
    results = {}
    print(table_row("documents", "text", "peak memory", "dropped", "MB/s"))
    print(table_row("---", "---", "---", "---", "---"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = list(documentation())
        vocabulary = sorted({word for document in text for word in document.split() if word.isalpha()})[:WORDS]
        train_tokenizer(text[:2000], folder / "spm.model", 8000)
        for megabytes in sizes:
            write_text(folder / f"{megabytes}.txt", vocabulary, megabytes)
        for deduplicate in ("none", "near"):
            for megabytes in sizes:
                command = [sys.executable, __file__, "measure", str(megabytes), deduplicate, name]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                peak, count, dropped, seconds = map(float, done.stdout.split())
                results[deduplicate, megabytes] = peak, count
                label = "all" if deduplicate == "none" else "without near duplicates"
                cells = f"{megabytes} MB, {count:,.0f}", f"{peak / 1e6:,.1f} MB", f"{dropped:,.0f}"
                print(table_row(label, *cells, f"{megabytes / seconds:.1f}"), flush=True)
    ok = True
    for deduplicate, allowance in (("none", 0), ("near", BYTES_PER_DOCUMENT)):
        (small, few), (large, many) = (results[deduplicate, megabytes] for megabytes in sizes)
        per_document = (large - small) / (many - few)
        is_flat = large - allowance * (many - few) <= TOLERANCE * small
        ok &= is_flat
        print(
            verdict(f"{deduplicate}: {large / small:.3f} of the memory, {per_document:.0f} bytes per document", is_flat)
        )
    sys.exit(not ok)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
    else:
        main()
