"""`deberta-jax tokenizer`: train a SentencePiece vocabulary on text."""

import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from deberta_jax.data.sources import documents, find_files
from deberta_jax.data.text_options import TextOptions
from deberta_jax.errors import InputError
from deberta_jax.files import lock_output
from deberta_jax.tokenizers.train import train_tokenizer


@dataclass(frozen=True)
class TokenizerConfig:
    """Train a SentencePiece vocabulary with the conventions of DeBERTa v3."""

    files: tuple[str, ...] = ()
    """Text files, folders or patterns: text, JSON lines, parquet, arrow (docs/pretraining.md, "Formats of text")."""
    text: Annotated[TextOptions, tyro.conf.arg(name="")] = field(default_factory=TextOptions)
    vocabulary: int = 32000
    """Number of pieces, without [MASK]; the released v3 models have 128000."""
    keep_whitespace: bool = False
    """Keep tabs, line ends, repeated spaces and every other character, for code; by default text is normalized."""
    output: Path = Path("spm.model")
    """File to write; an existing file is not overwritten."""


OPTIONS = TokenizerConfig


def run(config: TokenizerConfig) -> None:
    """Train the vocabulary and print its size, the time and the next command."""
    if not config.files:
        raise InputError("no text files given; name files or patterns with --files")
    _check_output(config.output)
    find_files(config.files, config.text)
    started = time.perf_counter()
    with lock_output(config.output, ".training"):
        # Another process may have written it before this one got the lock.
        _check_output(config.output)
        texts = documents(config.files, config.text)
        tokenizer = train_tokenizer(texts, config.output, config.vocabulary, keep_whitespace=config.keep_whitespace)
    print(f"{config.output}: {tokenizer.vocab_size:,} tokens ({time.perf_counter() - started:.0f} s)")
    options = ["--files", *config.files, "--tokenizer", str(config.output)]
    print(f"next: deberta-jax prepare {shlex.join(options)}{config.text.words()}")


def _check_output(path: Path) -> None:
    if path.exists():
        raise InputError(f"{path}: this file exists; delete it, or name another file with --output")
