"""What `pretrain` trains on: text, a tokenizer and shards, each found or made in the run's folder."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from deberta_jax.data.documentation import write_documentation
from deberta_jax.data.manifest import read_manifest
from deberta_jax.data.prepare import prepare
from deberta_jax.data.sources import documents, find_files
from deberta_jax.data.split import split_held_out
from deberta_jax.errors import InputError
from deberta_jax.hub.download import resolve
from deberta_jax.pretraining.config import PretrainConfig
from deberta_jax.progress import progress_bar
from deberta_jax.tokenizers.formats import has_tokenizer
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.tokenizers.train import train_tokenizer

FEWEST_SHARDS = 40


def check_inputs(config: PretrainConfig) -> None:
    """What can be refused before anything is written."""
    if named := [*config.data.files, *config.data.held_out]:
        find_files(named)
    if named_tokenizer(config) is None and config.data.shards:
        raise InputError("--data.shards needs the tokenizer they were made with: --tokenizer")


def named_tokenizer(config: PretrainConfig) -> Tokenizer | None:
    """The tokenizer that is named, or that of the model to start from; None where one is to be trained."""
    if config.tokenizer:
        return Tokenizer(config.tokenizer)
    if config.start is None:
        if config.generator:
            raise InputError(f"{config.generator}: a generator without --start needs its tokenizer: --tokenizer")
        return None
    folder = resolve(config.start)
    if not has_tokenizer(folder):
        raise InputError(f"{config.start}: holds no tokenizer; name the model's own with --tokenizer")
    return Tokenizer(folder)


class Text:
    """The files of a run, found or written."""

    def __init__(self, config: PretrainConfig):
        self.files, self.held_out = config.data.files, config.data.held_out
        self.shards = config.data.shards
        if not self.files and not self.shards:
            before = time.perf_counter()
            on_first(lambda: write_documentation(config.folder / "text"))
            written = config.folder / "text" / "train.txt", config.folder / "text" / "held_out.txt"
            self.files, self.held_out = ((str(path),) for path in written)
            size = written[0].stat().st_size / 1e6
            say(f"text: {size:.1f} MB of documentation installed here ({time.perf_counter() - before:.0f} s)")

    def held_out_documents(self) -> list[str]:
        """Documents to show masks of, a thousand at most."""
        named = self.held_out or self.files
        source = documents(named) if named else iter(())
        return [text for _, text in zip(range(1000), source, strict=False)]


def tokenizer_of(config: PretrainConfig, text: Text) -> Tokenizer:
    """The tokenizer that is named, that of the model to start from, or one trained on the text."""
    if named := named_tokenizer(config):
        return named
    path = config.folder / "tokenizer" / "spm.model"
    before = time.perf_counter()

    def make() -> None:
        if not path.exists():
            train_tokenizer(documents(text.files), path, config.vocabulary)

    on_first(make)
    tokenizer = Tokenizer(path)
    say(f"tokenizer: {tokenizer.vocab_size} tokens ({time.perf_counter() - before:.0f} s)")
    return tokenizer


def shards_of(config: PretrainConfig, text: Text, tokenizer: Tokenizer) -> tuple[Path, Path]:
    """Folders of rows to train on and to evaluate on."""
    folder = config.folder / "shards"
    length = config.data.length
    if text.shards and (there := read_manifest(text.shards, tokenizer.sha256).length) != length:
        raise InputError(f"{text.shards}: rows of {there} tokens; give --data.length {there}, or prepare others")
    if text.held_out:
        if not text.shards:
            _prepare(text.files, folder / "train", tokenizer, length, None)
        _prepare(text.held_out, folder / "held_out", tokenizer, length, None)
        return text.shards or folder / "train", folder / "held_out"
    rows = text.shards or folder / "all"
    if not text.shards:
        # Enough of them that one in twenty is a twentieth.
        _prepare(text.files, rows, tokenizer, length, FEWEST_SHARDS)
    on_first(lambda: split_held_out(rows, folder, tokenizer.sha256))
    return folder / "train", folder / "held_out"


def _prepare(files: Sequence[str], folder: Path, tokenizer: Tokenizer, length: int, shards: int | None) -> None:
    def make() -> None:
        with progress_bar("shards") as progress:
            report = prepare(files, folder, tokenizer, length=length, shards=shards, progress=progress)
        manifest = report.manifest
        say(
            f"shards: {folder}, {manifest.tokens:,} tokens in {manifest.sequences:,} sequences of {manifest.length} "
            f"({report.seconds:.0f} s, {report.megabytes_per_second:.1f} MB/s, "
            f"{report.tokens_per_second:,.0f} tokens/s)"
        )

    on_first(make)


def on_first(action: Callable[[], object]) -> None:
    """Do what writes files on the first process; the others wait, and stop where it fails."""
    error: BaseException | None = None
    if jax.process_index() == 0:
        try:
            action()
        except BaseException as caught:
            error = caught
    failed = error is not None
    if jax.process_count() > 1:
        failed = bool(multihost_utils.broadcast_one_to_all(np.asarray(failed)))
    if error is not None:
        raise error
    if failed:
        raise InputError("the first process cannot go on; it says why")


def say(line: str) -> None:
    if jax.process_index() == 0:
        print(line, flush=True)
