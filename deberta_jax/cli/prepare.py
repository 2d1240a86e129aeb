"""`deberta-jax prepare`: text to shards of tokenized rows, here or on a dask cluster."""

from dataclasses import dataclass
from pathlib import Path

from deberta_jax.data.prepare import prepare
from deberta_jax.errors import InputError
from deberta_jax.progress import counted
from deberta_jax.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class PrepareConfig:
    """Tokenize text into rows of `length` and write them as shards, which `pretrain --data.shards` takes.

    `workers` processes share the work, through dask if there are several, or those of a dask cluster whose `scheduler`
    has that address. The same command again makes what is missing.
    """

    files: tuple[str, ...] = ()
    tokenizer: Path = Path("spm.model")
    output: Path = Path("shards")
    length: int = 512
    shards: int | None = None
    workers: int = 1
    scheduler: str | None = None


OPTIONS = PrepareConfig


def run(config: PrepareConfig) -> None:
    """Prepare, and say how much and how fast."""
    if not config.files:
        raise InputError("prepare: no text: name files or patterns with --files")
    with counted("shards") as progress:
        report = prepare(
            config.files,
            config.output,
            Tokenizer(config.tokenizer),
            length=config.length,
            shards=config.shards,
            workers=config.workers,
            scheduler=config.scheduler,
            progress=progress,
        )
    manifest = report.manifest
    print(
        f"{config.output}: {manifest.documents:,} documents, {manifest.tokens:,} tokens in {manifest.rows:,} rows of "
        f"{manifest.length}, {len(manifest.shards)} shards ({report.seconds:.0f} s, "
        f"{report.megabytes_per_second:.1f} MB/s, {report.tokens_per_second:,.0f} tokens/s)"
    )
