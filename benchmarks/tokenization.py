"""Text to ids against Hugging Face's fast tokenizer, MB per second: `python benchmarks/tokenization.py [TEXT [GPT2]]`.

TEXT is a file of English lines; without one the documentation of the installed packages is taken. The unigram tokenizer
of v3 is trained on it, with up to 32,000 pieces. GPT2 is a folder with `vocab.bpe` and `encoder.json`; without one
v1's byte pairs are trained, too. Both peers have all cores and take turns; medians
of REPETITIONS. Needs the extra `reference`. Prints a table in Markdown; fails where we are slower.
"""

import json
import pickle
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer
from transformers import AutoTokenizer
from transformers.utils import logging

from deberta_jax import InputError, Tokenizer
from deberta_jax.data.documentation import write_documentation
from deberta_jax.tokenizers.byte_pair import BPE_ENCODER
from deberta_jax.tokenizers.train import train_tokenizer

REPETITIONS = 7
TOKENS = 32000
MOST_BYTES = 5_000_000


def unigram(text: str, folder: Path) -> Tokenizer:
    """As many pieces as the text allows, 32,000 at most."""
    try:
        return train_tokenizer([text], folder / "spm.model", 32000)
    except InputError as error:
        return train_tokenizer([text], folder / "spm.model", int(re.search(r"<= (\d+)", str(error))[1]))


def byte_pair(text: str, folder: Path, gpt2: Path | None) -> Tokenizer:
    """Of GPT-2's files, or trained on the text; in Microsoft's form."""
    if gpt2:
        encoder = json.loads((gpt2 / "encoder.json").read_text("utf-8"))
        merges = (gpt2 / "vocab.bpe").read_text("utf-8")
    else:
        trained = ByteLevelBPETokenizer()
        trained.train_from_iterator(text.split("\n"), TOKENS, show_progress=False)
        trained.save_model(str(folder))
        encoder = json.loads((folder / "vocab.json").read_text("utf-8"))
        merges = (folder / "merges.txt").read_text("utf-8")
        (folder / "vocab.json").unlink()
    counts = [(str(index), 1) for index in encoder.values()]
    contents = {"dict_map": counts, "vocab": merges, "encoder": encoder}
    (folder / BPE_ENCODER).write_bytes(pickle.dumps(contents, protocol=2))
    return Tokenizer(folder)


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main(path: str | None = None, gpt2: str | None = None) -> int:
    logging.set_verbosity_error()
    missed = 0
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        source = Path(path) if path else write_documentation(scratch)[0]
        lines = [line for line in source.read_text("utf-8")[:MOST_BYTES].split("\n") if line.strip()]
        size = sum(len(line.encode()) for line in lines) / 1e6
        print(f"{len(lines)} lines, {size:.1f} MB\n")
        print(
            "| vocabulary | tokens | deberta_jax | transformers | its `encode_batch` | ratio to the faster | same ids |"
        )
        print("|---|---|---|---|---|---|---|")
        for name in ("v3", "v1"):
            folder = scratch / name
            folder.mkdir()
            text = "\n".join(lines)
            ours = unigram(text, folder) if name == "v3" else byte_pair(text, folder, Path(gpt2) if gpt2 else None)
            ours.save(folder / "saved")
            theirs = AutoTokenizer.from_pretrained(folder / "saved")
            plain = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
            runs = {
                "ours": lambda ours=ours: ours.encode_many(lines),
                "call": lambda theirs=theirs, plain=plain: theirs(lines, **plain),
                "batch": lambda theirs=theirs: theirs._tokenizer.encode_batch(lines, add_special_tokens=False),
            }
            same = [ids.tolist() for ids in runs["ours"]()] == runs["call"]()["input_ids"]
            times = {peer: [] for peer in runs}
            for _ in range(REPETITIONS):
                for peer, run in runs.items():
                    times[peer].append(seconds(run))
            speed = {peer: size / statistics.median(taken) for peer, taken in times.items()}
            ratio = speed["ours"] / max(speed["call"], speed["batch"])
            missed += ratio < 1
            print(
                f"| {name} | {ours.vocab_size} | {speed['ours']:.1f} | {speed['call']:.1f} | {speed['batch']:.1f} "
                f"| {ratio:.1f}{'' if ratio >= 1 else ' missed'} | {'yes' if same else 'no'} |",
                flush=True,
            )
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
