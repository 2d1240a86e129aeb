"""A SentencePiece vocabulary from text, as v3's: [PAD], [CLS], [SEP], [UNK] first, then bytes and pieces."""

import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from deberta_jax.errors import InputError
from deberta_jax.tokenizers.special_tokens import CLS, PAD, SEP, UNK
from deberta_jax.tokenizers.tokenizer import Tokenizer

# Longer lines are cut before training: SentencePiece drops what is longer than its own limit.
TRAINING_LINE = 4000
# Of more lines a sample of this many is trained on.
TRAINING_LINES = 1_000_000


def train_tokenizer(texts: Iterable[str], path: str | Path, vocab_size: int = 32000) -> Tokenizer:
    """Train a unigram model with v3's conventions and write it to `path`: nmt_nfkc, byte fallback, `vocab_size` pieces.

    Of a large corpus a sample of a million lines is taken, the same at every call. A corpus too small for `vocab_size`
    is refused with the largest size it allows.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.training")
    bad: list[InputError] = []

    def lines() -> Iterator[str]:
        try:
            sample = _sample(_lines(texts), TRAINING_LINES)[::-1]
            while sample:
                yield sample.pop()
        except InputError as error:
            # Of an error in its iterator SentencePiece keeps only the text.
            bad.append(error)
            raise

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines(),
            model_prefix=str(temporary),
            vocab_size=vocab_size,
            model_type="unigram",
            normalization_rule_name="nmt_nfkc",
            byte_fallback=True,
            character_coverage=0.9995,
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            pad_piece=PAD,
            bos_piece=CLS,
            eos_piece=SEP,
            unk_piece=UNK,
            shuffle_input_sentence=False,
            max_sentence_length=4 * TRAINING_LINE,
            train_extremely_large_corpus=False,
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:
        if bad:
            raise bad[0] from None
        line = str(error).splitlines()[0].split("] ")[-1]
        raise InputError(f"{path}: a vocabulary of {vocab_size} pieces could not be trained: {line}") from None
    else:
        os.replace(f"{temporary}.model", path)
    finally:
        for suffix in (".model", ".vocab"):
            Path(f"{temporary}{suffix}").unlink(missing_ok=True)
    return Tokenizer(path)


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in text.splitlines():
            for start in range(0, len(line), TRAINING_LINE):
                if piece := line[start : start + TRAINING_LINE].strip():
                    yield piece


def _sample(lines: Iterable[str], most: int) -> list[str]:
    """At most that many lines, each as likely as any other, always the same ones (Vitter 1985, algorithm R)."""
    draw, sample = random.Random(0), []
    for number, line in enumerate(lines):
        if number < most:
            sample.append(line)
        elif (place := draw.randrange(number + 1)) < most:
            sample[place] = line
    return sample
