"""The inputs of a pretraining run: text, tokenizer, shards and batches. What is not given is made in the run folder."""

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh

from deberta_jax.data.batches import HeldOutBatches, MakeRow, TrainingBatches, TwoKinds, held_out_batches
from deberta_jax.data.documentation import write_documentation
from deberta_jax.data.manifest import read_manifest
from deberta_jax.data.masking import MaskingVocabulary
from deberta_jax.data.prepare import prepare
from deberta_jax.data.sources import documents, find_files
from deberta_jax.data.split import split_held_out
from deberta_jax.errors import InputError
from deberta_jax.hub.download import resolve
from deberta_jax.hub.folder import tokenizer_folder
from deberta_jax.pretraining.config import DataConfig, PretrainConfig
from deberta_jax.processes.first_process import on_first_process, print_once
from deberta_jax.progress import progress_bar
from deberta_jax.tokenizers.formats import has_tokenizer
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.tokenizers.train import train_tokenizer
from deberta_jax.training.step import batch_share

# With this many shards, one shard in twenty is close to 5% of the text.
_MIN_SHARDS = 40
_EXAMPLE_DOCUMENTS = 1000


class TextFiles(NamedTuple):
    """The text of a run: files or glob patterns to train on (none with prepared shards) and to evaluate on."""

    training: tuple[str, ...]
    held_out: tuple[str, ...]


class ShardFolders(NamedTuple):
    """The folders of shards to train on and to evaluate on."""

    training: Path
    held_out: Path


def check_text_files(data: DataConfig) -> None:
    """Raise InputError if a text file that is named does not exist or is of an unknown kind."""
    if names := [*data.files, *data.held_out]:
        find_files(names)


def find_tokenizer(
    tokenizer: Path | None, init_from: str | None, generator: str | None, shards: Path | None
) -> Tokenizer | None:
    """The tokenizer that is named, or the one of the model to initialize from; None if one has to be trained.

    Raises InputError if none is named but a generator or shards need the one they were made with.
    """
    if tokenizer:
        return Tokenizer(tokenizer)
    if init_from is None:
        if generator:
            raise InputError(f"{generator}: a generator without --init-from needs its tokenizer; add --tokenizer")
        if shards:
            raise InputError(f"{shards}: shards need the tokenizer they were made with; add --tokenizer")
        return None
    folder = tokenizer_folder(resolve(init_from))
    if not has_tokenizer(folder):
        raise InputError(f"{init_from}: no tokenizer in this folder; add --tokenizer with the model's own")
    return Tokenizer(folder)


def prepare_text(data: DataConfig, folder: Path) -> TextFiles:
    """The text that is named, or else the documentation of the installed packages, written to `folder`."""
    if data.files or data.shards:
        return TextFiles(data.files, data.held_out)
    start = time.perf_counter()
    on_first_process(lambda: write_documentation(folder))
    training, held_out_file = folder / "train.txt", folder / "held_out.txt"
    megabytes = training.stat().st_size / 1e6
    seconds = time.perf_counter() - start
    print_once(f"text: {megabytes:.1f} MB of documentation of the installed packages ({seconds:.0f} s)")
    return TextFiles((str(training),), (str(held_out_file),))


def train_run_tokenizer(files: Sequence[str], path: Path, vocabulary: int) -> Tokenizer:
    """The tokenizer at `path`, trained on the text with `vocabulary` pieces if it does not exist."""
    start = time.perf_counter()

    def train() -> None:
        if path.exists():
            return
        try:
            train_tokenizer(documents(files), path, vocabulary)
        except InputError:
            # A refused command leaves no empty folder.
            with suppress(OSError):
                path.parent.rmdir()
            raise

    on_first_process(train)
    tokenizer = Tokenizer(path)
    print_once(f"tokenizer: {tokenizer.vocab_size} tokens ({time.perf_counter() - start:.0f} s)")
    return tokenizer


def prepare_shards(
    text: TextFiles, shards: Path | None, folder: Path, tokenizer: Tokenizer, length: int
) -> ShardFolders:
    """Tokenize the text into shards in `folder`, unless `shards` exist already, and hold out a part for evaluation."""
    if shards and (shards_length := read_manifest(shards, tokenizer.sha256).length) != length:
        raise InputError(
            f"{shards}: sequences of {shards_length} tokens, but data.length is {length}; set --data.length "
            f"{shards_length}, or prepare new shards"
        )
    if text.held_out:
        training = shards or _tokenize(text.training, folder / "train", tokenizer, length)
        return ShardFolders(training, _tokenize(text.held_out, folder / "held_out", tokenizer, length))
    every = shards or _tokenize(text.training, folder / "all", tokenizer, length, number=_MIN_SHARDS)
    on_first_process(lambda: split_held_out(every, folder, tokenizer.sha256))
    return ShardFolders(folder / "train", folder / "held_out")


def training_batches(
    shards: Path, tokenizer: Tokenizer, rows: MakeRow | TwoKinds, config: PretrainConfig, mesh: Mesh
) -> Callable[[int], TrainingBatches]:
    """A function `start -> batches start, start + 1, ...`, with this process's rows."""
    data, batch_size, seed = config.data, config.training.batch_size, config.training.seed
    return lambda start: TrainingBatches(
        shards,
        rows,
        batch_size=batch_size,
        seed=seed,
        start=start,
        share=batch_share(mesh),
        workers=data.workers,
        vocabulary_sha256=tokenizer.sha256,
    )


def evaluation_batches(
    shards: Path, tokenizer: Tokenizer, make_row: MakeRow, config: PretrainConfig, mesh: Mesh
) -> HeldOutBatches:
    """Held-out sequences, the same rows in every run, with this process's rows."""
    return held_out_batches(
        shards,
        make_row,
        batch_size=config.training.batch_size,
        share=batch_share(mesh),
        limit=config.data.evaluate_batches,
        vocabulary_sha256=tokenizer.sha256,
    )


def example_documents(text: TextFiles) -> list[str]:
    """Held-out documents to show examples of, at most a thousand; none with prepared shards alone."""
    files = text.held_out or text.training
    return list(itertools.islice(documents(files), _EXAMPLE_DOCUMENTS)) if files else []


def masking_vocabulary(tokenizer: Tokenizer) -> MaskingVocabulary:
    return MaskingVocabulary(tokenizer.mask_id, tokenizer.vocab_size, tokenizer.special_ids, tokenizer.word_starts())


def _tokenize(
    files: Sequence[str], folder: Path, tokenizer: Tokenizer, length: int, *, number: int | None = None
) -> Path:
    """Write shards of the files to `folder` on the first process, as many as `number`; print their size and speed."""

    def write() -> None:
        with progress_bar("shards") as progress:
            report = prepare(files, folder, tokenizer, length=length, shards=number, progress=progress)
        manifest = report.manifest
        print_once(
            f"shards: {folder}: {manifest.tokens:,} tokens in {manifest.sequences:,} sequences of {manifest.length} "
            f"({report.seconds:.0f} s, {report.megabytes_per_second:.1f} MB/s, "
            f"{report.tokens_per_second:,.0f} tokens/s)"
        )

    on_first_process(write)
    return folder
