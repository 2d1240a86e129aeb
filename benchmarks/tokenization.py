"""Text to token ids compared with Hugging Face's fast tokenizer: `python benchmarks/tokenization.py [TEXT [GPT2]]`.

TEXT is a file of English lines, by default the documentation of the installed packages. v3's unigram tokenizer is
trained on it with up to 32,000 pieces. GPT2 is a folder with `vocab.bpe` and `encoder.json`; by default v1's byte-pair
vocabulary is trained, too. Then v3's `tokenizer.json` as transformers 5 saves it, and a WordPiece `vocab.txt`. Both
peers use all cores and take turns. Prints a Markdown table of MB per second, medians of REPETITIONS, and fails if ours
is slower. Needs the extra `reference`.
"""

import functools
import json
import os
import pickle
import re
import sys
import tempfile
from pathlib import Path

from timing import alternate, seconds, table_row
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
from transformers import AutoTokenizer
from transformers.utils import logging

from deberta_jax import InputError, Tokenizer
from deberta_jax.data.documentation import write_documentation
from deberta_jax.tokenizers.byte_pair import BPE_ENCODER
from deberta_jax.tokenizers.train import train_tokenizer

REPETITIONS = 7
VOCABULARY = 32000
MAX_BYTES = 5_000_000
# What is measured, with its column title.
SPEEDS = {"ours": "deberta_jax", "call": "transformers", "batch": "`encode_batch`"}


def unigram(text: str, folder: Path) -> Tokenizer:
    """Train as many pieces as the text allows, at most 32,000."""
    try:
        return train_tokenizer([text], folder / "spm.model", VOCABULARY)
    except InputError as error:
        return train_tokenizer([text], folder / "spm.model", int(re.search(r"<= (\d+)", str(error))[1]))


def byte_pair(text: str, folder: Path, gpt2: Path | None) -> Tokenizer:
    """Read GPT-2's files, or train on the text; either is converted to Microsoft's format."""
    if gpt2:
        encoder = json.loads((gpt2 / "encoder.json").read_text("utf-8"))
        merges = (gpt2 / "vocab.bpe").read_text("utf-8")
    else:
        trained = ByteLevelBPETokenizer()
        trained.train_from_iterator(text.split("\n"), VOCABULARY, show_progress=False)
        trained.save_model(str(folder))
        encoder = json.loads((folder / "vocab.json").read_text("utf-8"))
        merges = (folder / "merges.txt").read_text("utf-8")
        (folder / "vocab.json").unlink()
    counts = [(str(index), 1) for index in encoder.values()]
    contents = {"dict_map": counts, "vocab": merges, "encoder": encoder}
    (folder / BPE_ENCODER).write_bytes(pickle.dumps(contents, protocol=2))
    return Tokenizer(folder)


def of_transformers_5(text: str, folder: Path) -> Tokenizer:
    """The vocabulary of v3 in the only file that transformers 5 saves."""
    original = folder / "original"
    original.mkdir()
    unigram(text, original)
    (original / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "DebertaV2Tokenizer"}))
    AutoTokenizer.from_pretrained(original).save_pretrained(folder)
    return Tokenizer(folder)


def word_piece(text: str, folder: Path) -> Tokenizer:
    """Train a `vocab.txt`."""
    trained = BertWordPieceTokenizer()
    trained.train_from_iterator(text.split("\n"), VOCABULARY, show_progress=False)
    trained.save_model(str(folder))
    return Tokenizer(folder)


def compare(ours: Tokenizer, folder: Path, lines: list[str]) -> tuple[dict[str, float], bool]:
    """The seconds of our tokenizer, of a call of transformers' and of its `encode_batch`, and whether the ids agree."""
    ours.save(folder)
    reference = AutoTokenizer.from_pretrained(folder)
    options = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
    runs = {
        "ours": lambda: ours.encode_many(lines),
        "call": lambda: reference(lines, **options),
        "batch": lambda: reference._tokenizer.encode_batch(lines, add_special_tokens=False),
    }
    same = [ids.tolist() for ids in runs["ours"]()] == runs["call"]()["input_ids"]
    return alternate({name: lambda run=run: seconds(run) for name, run in runs.items()}, REPETITIONS), same


def main(path: str | None = None, gpt2: str | None = None) -> int:
    logging.set_verbosity_error()
    missed = 0
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        source = Path(path) if path else write_documentation(scratch)[0]
        lines = [line for line in source.read_text("utf-8")[:MAX_BYTES].split("\n") if line.strip()]
        size = sum(len(line.encode()) for line in lines) / 1e6
        print(f"{len(lines)} lines, {size:.1f} MB\n")
        print(table_row("vocabulary", "tokens", *SPEEDS.values(), "ratio to the faster", "same ids"))
        print("|---|---|---|---|---|---|---|")
        vocabularies = {
            "v3": unigram,
            "v1": functools.partial(byte_pair, gpt2=Path(gpt2) if gpt2 else None),
            "v3, `tokenizer.json` of transformers 5": of_transformers_5,
            "`vocab.txt`": word_piece,
        }
        for name, make in vocabularies.items():
            folder = scratch / str(len(os.listdir(scratch)))
            folder.mkdir()
            ours = make("\n".join(lines), folder)
            medians, same = compare(ours, folder / "saved", lines)
            speed = {peer: size / median for peer, median in medians.items()}
            ratio = speed["ours"] / max(speed["call"], speed["batch"])
            missed += ratio < 1
            speeds = [f"{speed[peer]:.1f}" for peer in SPEEDS]
            verdict = f"{ratio:.1f}{' missed' * (ratio < 1)}"
            print(table_row(name, ours.vocab_size, *speeds, verdict, "yes" if same else "no"), flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
