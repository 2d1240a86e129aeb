"""The inputs of a pretraining run: text, tokenizer, shards and batches. What is not given is made in the run folder."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh

from deberta_jax.data.batches import HeldOutBatches, MakeRow, TrainingBatches, TwoKinds, held_out_batches
from deberta_jax.data.documentation import write_documentation
from deberta_jax.data.masking import MaskingVocabulary
from deberta_jax.data.mixture import Shards, derived_seed
from deberta_jax.data.prepare import prepare
from deberta_jax.data.readers import DEFAULT_TEXT
from deberta_jax.data.sources import documents, find_files
from deberta_jax.data.split import split_held_out
from deberta_jax.data.text_options import TextOptions
from deberta_jax.errors import InputError
from deberta_jax.hub.download import resolve
from deberta_jax.hub.folder import tokenizer_folder
from deberta_jax.pretraining.config import DataConfig, PretrainConfig
from deberta_jax.pretraining.curriculum import Stage
from deberta_jax.pretraining.sources import Sources, check_same_split, find_sources, make_mixture
from deberta_jax.pretraining.staged_batches import StagedBatches
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
    options: TextOptions = DEFAULT_TEXT


class ShardFolders(NamedTuple):
    """The shards to train on and to evaluate on."""

    training: Shards
    held_out: Shards


def check_text_files(data: DataConfig) -> None:
    """Raise InputError if a text file that is named does not exist or is of an unknown kind."""
    if names := [*data.files, *data.held_out]:
        find_files(names, data.text)


def find_tokenizer(
    tokenizer: Path | None, init_from: str | None, generator: str | None, shards: str | Path | None
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
        return TextFiles(data.files, data.held_out, data.text)
    start = time.perf_counter()
    on_first_process(lambda: write_documentation(folder))
    training, held_out_file = folder / "train.txt", folder / "held_out.txt"
    megabytes = training.stat().st_size / 1e6
    seconds = time.perf_counter() - start
    print_once(f"text: {megabytes:.1f} MB of documentation of the installed packages ({seconds:.0f} s)")
    return TextFiles((str(training),), (str(held_out_file),))


def train_run_tokenizer(text: TextFiles, path: Path, vocabulary: int) -> Tokenizer:
    """The tokenizer at `path`, trained on the text with `vocabulary` pieces if it does not exist."""
    start = time.perf_counter()

    def train() -> None:
        if path.exists():
            return
        try:
            train_tokenizer(documents(text.training, text.options), path, vocabulary)
        except InputError:
            # A refused command leaves no empty folder.
            with suppress(OSError):
                path.parent.rmdir()
            raise

    on_first_process(train)
    tokenizer = Tokenizer(path)
    print_once(f"tokenizer: {tokenizer.vocab_size} tokens ({time.perf_counter() - start:.0f} s)")
    return tokenizer


def prepare_stages(text: TextFiles, data: DataConfig, folder: Path, tokenizer: Tokenizer) -> dict[int, ShardFolders]:
    """The shards of each length: those that are named, or else the text as shards in `folder`."""
    lengths = data.lengths
    folders = {length: folder / str(length) if len(lengths) > 1 else folder for length in lengths}
    if not data.shards:
        return {length: prepare_shards(text, folders[length], tokenizer, length) for length in lengths}
    sources = find_sources(data.shards, lengths, tokenizer.sha256)
    if not text.held_out:
        check_same_split(sources)
    return {
        length: _split_sources(text, data, sources[length], folders[length], tokenizer, length) for length in lengths
    }


def _split_sources(
    text: TextFiles, data: DataConfig, sources: Sources, folder: Path, tokenizer: Tokenizer, length: int
) -> ShardFolders:
    """The mixture of sources of one length; held-out text is in the files that are named, or is a part of each."""
    if text.held_out:
        held_out = _tokenize(text.held_out, folder / "held_out", tokenizer, length, text.options)
        return ShardFolders(make_mixture(sources, data.mixture, data.temperature), held_out)
    training, evaluation = {}, {}
    for name, shards in sources.items():
        on_first_process(partial(split_held_out, shards, folder / name, tokenizer.sha256))
        training[name], evaluation[name] = folder / name / "train", folder / name / "held_out"
    mixture = make_mixture(training, data.mixture, data.temperature)
    if isinstance(mixture, Path):
        return ShardFolders(mixture, evaluation[""])
    return ShardFolders(mixture, [dataclasses.replace(source, folder=evaluation[source.name]) for source in mixture])


def prepare_shards(text: TextFiles, folder: Path, tokenizer: Tokenizer, length: int) -> ShardFolders:
    """Tokenize the text into shards in `folder`, and hold out a part for evaluation unless files are held out."""
    if text.held_out:
        training = _tokenize(text.training, folder / "train", tokenizer, length, text.options)
        return ShardFolders(training, _tokenize(text.held_out, folder / "held_out", tokenizer, length, text.options))
    every = _tokenize(text.training, folder / "all", tokenizer, length, text.options, number=_MIN_SHARDS)
    on_first_process(lambda: split_held_out(every, folder, tokenizer.sha256))
    return ShardFolders(folder / "train", folder / "held_out")


def training_batches(
    stages: Sequence[tuple[Stage, Shards, MakeRow | TwoKinds]], tokenizer: Tokenizer, config: PretrainConfig, mesh: Mesh
) -> Callable[[int], StagedBatches]:
    """A function `start -> batches start, start + 1, ...`, with this process's rows."""
    seed = config.training.seed

    def open_stage(number: int, start: int) -> TrainingBatches:
        stage, shards, rows = stages[number]
        return TrainingBatches(
            shards,
            rows,
            batch_size=stage.batch_size,
            seed=derived_seed(seed, str(stage.length)) if number else seed,
            start=start,
            share=batch_share(mesh),
            workers=config.data.workers,
            vocabulary_sha256=tokenizer.sha256,
        )

    return lambda start: StagedBatches([stage for stage, _, _ in stages], open_stage, start)


def evaluation_batches(
    shards: Shards, tokenizer: Tokenizer, make_row: MakeRow, config: PretrainConfig, mesh: Mesh
) -> HeldOutBatches:
    """Held-out sequences of the last stage, the same rows in every run, with this process's rows."""
    return held_out_batches(
        shards,
        make_row,
        batch_size=config.stages()[-1].batch_size,
        share=batch_share(mesh),
        limit=config.data.evaluate_batches,
        vocabulary_sha256=tokenizer.sha256,
    )


def example_documents(text: TextFiles) -> list[str]:
    """Held-out documents to show examples of, at most a thousand; none with prepared shards alone."""
    files = text.held_out or text.training
    return list(itertools.islice(documents(files, text.options), _EXAMPLE_DOCUMENTS)) if files else []


def masking_vocabulary(tokenizer: Tokenizer) -> MaskingVocabulary:
    return MaskingVocabulary(
        tokenizer.mask_id, tokenizer.vocab_size, tokenizer.special_ids, tokenizer.word_starts(), tokenizer.unspaced()
    )


def _tokenize(
    files: Sequence[str],
    folder: Path,
    tokenizer: Tokenizer,
    length: int,
    options: TextOptions,
    *,
    number: int | None = None,
) -> Path:
    """Write shards of the files to `folder` on the first process, as many as `number`; print their size and speed."""

    def write() -> None:
        with progress_bar("shards") as progress:
            report = prepare(files, folder, tokenizer, length=length, text=options, shards=number, progress=progress)
        manifest = report.manifest
        print_once(
            f"shards: {folder}: {manifest.tokens:,} tokens in {manifest.sequences:,} sequences of {manifest.length} "
            f"({report.speed()})"
        )

    on_first_process(write)
    return folder
