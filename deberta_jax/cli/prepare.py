"""`deberta-jax prepare`: text files to shards of packed token sequences, on this machine or on a dask cluster."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from deberta_jax.data.masking import Masking, MaskingVocabulary
from deberta_jax.data.prepare import prepare
from deberta_jax.data.selection import Selection
from deberta_jax.data.text_options import TextOptions
from deberta_jax.errors import InputError
from deberta_jax.progress import progress_bar
from deberta_jax.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class PrepareConfig:
    """Tokenize text and write it as shards of packed sequences for pretraining.

    Run the same command again to resume an interrupted one; complete shards are kept. With --filter or --deduplicate,
    the text is read twice (docs/pretraining.md, "Large corpora").
    """

    files: tuple[str, ...] = ()
    """Text files, folders or patterns: text, JSON lines, parquet, arrow (docs/pretraining.md, "Formats of text")."""
    tokenizer: Path = Path("spm.model")
    """Tokenizer folder or vocabulary file."""
    output: Path = Path("shards")
    """Folder for the shards."""
    length: int = 512
    """Length of a sequence in tokens; documents are packed into sequences of this length."""
    text: Annotated[TextOptions, tyro.conf.arg(name="")] = field(default_factory=TextOptions)
    selection: Annotated[Selection, tyro.conf.arg(name="")] = field(default_factory=Selection)
    shards: int | None = None
    """Maximum number of shards; by default one for every 2 MiB of text, at most 1024."""
    workers: int = 1
    """Local worker processes; more than one requires dask.distributed."""
    scheduler: str | None = None
    """Address of a dask scheduler; its workers, which must see the same files, do the work."""


OPTIONS = PrepareConfig


def run(config: PrepareConfig) -> None:
    """Prepare the shards and print their number, their size, the throughput and the next command."""
    # Imported here, since `--help` does not need what reading shards needs.
    from deberta_jax.data.unspaced import unspaced_lines

    if not config.files:
        raise InputError("no text files given; name files or patterns with --files")
    tokenizer = Tokenizer(config.tokenizer)
    with progress_bar("shards") as progress:
        report = prepare(
            config.files,
            config.output,
            tokenizer,
            length=config.length,
            text=config.text,
            selection=config.selection,
            shards=config.shards,
            workers=config.workers,
            scheduler=config.scheduler,
            progress=progress,
        )
    manifest = report.manifest
    vocabulary = MaskingVocabulary(
        tokenizer.mask_id, tokenizer.vocab_size, tokenizer.special_ids, tokenizer.word_starts(), tokenizer.unspaced()
    )
    print(
        f"{config.output}: {manifest.documents:,} documents, {manifest.tokens:,} tokens in {manifest.sequences:,} "
        f"sequences of {manifest.length}, {len(manifest.shards)} shards ({report.speed()})"
    )
    if manifest.dropped:
        dropped = sum(manifest.dropped.values())
        counts = ", ".join(f"{reason} {count:,}" for reason, count in manifest.dropped.items())
        print(f"dropped: {dropped:,} of {manifest.documents + dropped:,} documents ({counts})")
    for line in unspaced_lines(config.output, vocabulary, Masking()):
        print(line)
    options = ["--data.shards", str(config.output), "--tokenizer", str(config.tokenizer)]
    print(f"next: deberta-jax pretrain v3-base {shlex.join(options)} --data.length {config.length}")
