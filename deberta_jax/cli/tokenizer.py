"""`deberta-jax tokenizer`: a SentencePiece vocabulary from text."""

import time
from dataclasses import dataclass
from pathlib import Path

from deberta_jax.data.sources import documents, find
from deberta_jax.errors import InputError
from deberta_jax.tokenizers.train import train_tokenizer


@dataclass(frozen=True)
class TokenizerConfig:
    """Train a vocabulary with v3's conventions on text files, and write it to `output`.

    `vocabulary` is the number of pieces; v3 has 128000. [MASK] comes after the last of them.
    """

    files: tuple[str, ...] = ()
    vocabulary: int = 32000
    output: Path = Path("spm.model")


OPTIONS = TokenizerConfig


def run(config: TokenizerConfig) -> None:
    """Read the text, train, write; a file that stands is not written over."""
    if not config.files:
        raise InputError("tokenizer: no text: name files or patterns with --files")
    if config.output.exists():
        raise InputError(f"{config.output} exists: delete it, or name another file with --output")
    find(config.files)
    started = time.perf_counter()
    tokenizer = train_tokenizer(documents(config.files), config.output, config.vocabulary)
    print(f"{config.output}: {tokenizer.vocab_size} tokens ({time.perf_counter() - started:.0f} s)")
