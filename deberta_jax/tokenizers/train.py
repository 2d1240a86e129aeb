"""Trains a SentencePiece vocabulary with the conventions of v3."""

import random
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import sentencepiece

from deberta_jax.errors import InputError
from deberta_jax.files import make_folder, replace_file
from deberta_jax.tokenizers.special_tokens import CLS, PAD, SEP, UNK
from deberta_jax.tokenizers.tokenizer import Tokenizer

# Longer lines are split before training: SentencePiece drops lines beyond its own limit.
_MAX_LINE_CHARACTERS = 4000
_MAX_LINES = 1_000_000
# The options of v3's vocabulary.
_OPTIONS: dict[str, Any] = {
    "model_type": "unigram",
    "normalization_rule_name": "nmt_nfkc",
    "byte_fallback": True,
    "character_coverage": 0.9995,
    "pad_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "unk_id": 3,
    "pad_piece": PAD,
    "bos_piece": CLS,
    "eos_piece": SEP,
    "unk_piece": UNK,
    "shuffle_input_sentence": False,
    "max_sentence_length": 4 * _MAX_LINE_CHARACTERS,
    "train_extremely_large_corpus": False,
    "minloglevel": 2,
}
# No normalization, so that decoding restores the text: no space before it, and pieces for indentation.
_KEEP_WHITESPACE: dict[str, Any] = {
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    "required_chars": "\t\n",
}


def train_tokenizer(
    texts: Iterable[str], path: str | Path, vocab_size: int = 32000, *, keep_whitespace: bool = False
) -> Tokenizer:
    """Train a unigram model of `vocab_size` pieces (nmt_nfkc, byte fallback) and write it to `path`.

    [PAD], [CLS], [SEP] and [UNK] have the ids 0 to 3, followed by bytes and pieces. A corpus of more than a million
    lines is sampled, with the same sample in every call. With `keep_whitespace`, the model does not normalize: it keeps
    tabs, line ends, repeated spaces and all other characters, except U+2581, which becomes a space. Raises InputError
    if the file cannot be written, and for a corpus too small for `vocab_size`, with the largest size that it allows.
    """
    path = Path(path)

    def write(temporary: Path) -> None:
        # The file is opened before training, so that a path that cannot be written is rejected at once.
        with temporary.open("wb") as file:
            _train(texts, file, vocab_size, keep_whitespace)

    with _parent_folder(path):
        try:
            replace_file(path, write)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            reason = str(error).splitlines()[0].split("] ")[-1]
            raise InputError(f"{path}: cannot train a vocabulary of {vocab_size} pieces: {reason}") from None
    return Tokenizer(path)


def _train(texts: Iterable[str], file: BinaryIO, vocab_size: int, keep_whitespace: bool) -> None:
    """Train in another thread, because signals such as Ctrl-C reach Python only between its own instructions."""
    errors: list[BaseException] = []
    is_reading, stopped = threading.Event(), threading.Event()
    is_reading.set()

    def lines() -> Iterator[str]:
        sample = sample_lines(_until(stopped, _split_lines(texts, keep_whitespace)), _MAX_LINES)[::-1]
        yield from _until(stopped, (sample.pop() for _ in range(len(sample))))
        is_reading.clear()

    def train() -> None:
        try:
            options = _OPTIONS | (_KEEP_WHITESPACE if keep_whitespace else {})
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_note_errors(lines(), errors), model_writer=file, vocab_size=vocab_size, **options
            )
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    try:
        thread.join()
    finally:
        stopped.set()
        # Python must not end while the thread runs its code; SentencePiece alone may be abandoned.
        if is_reading.is_set():
            thread.join()
    if errors:
        raise errors[0]


def _until(stopped: threading.Event, lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if stopped.is_set():
            raise InterruptedError
        yield line


def _note_errors(lines: Iterator[str], errors: list[BaseException]) -> Iterator[str]:
    """The lines; an error among them comes first in `errors`, before the one that SentencePiece makes of it."""
    try:
        yield from lines
    except Exception as error:
        errors.append(error)
        raise


@contextmanager
def _parent_folder(path: Path) -> Generator[None, None, None]:
    """Create the folder of a file; if an error follows, remove the folders that were created and are still empty."""
    created = [folder for folder in path.parents if not folder.exists()]
    make_folder(path.parent)
    try:
        yield
    except BaseException:
        for folder in created:
            with suppress(OSError):
                folder.rmdir()
        raise


def _split_lines(texts: Iterable[str], keep_whitespace: bool) -> Iterator[str]:
    for text in texts:
        for line in text.splitlines(keepends=keep_whitespace):
            for start in range(0, len(line), _MAX_LINE_CHARACTERS):
                part = line[start : start + _MAX_LINE_CHARACTERS]
                if part := part if keep_whitespace else part.strip():
                    yield part


def sample_lines(lines: Iterable[str], limit: int) -> list[str]:
    """At most `limit` lines, each equally likely, and the same ones in every call (Vitter 1985, algorithm R)."""
    rng, sample = random.Random(0), []
    for number, line in enumerate(lines):
        if number < limit:
            sample.append(line)
        elif (index := rng.randrange(number + 1)) < limit:
            sample[index] = line
    return sample
