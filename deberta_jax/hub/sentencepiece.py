"""The tokenizer of v2 and v3: SentencePiece with [PAD], [CLS], [SEP], [UNK] first and [MASK] after the last piece."""

import hashlib
import itertools
import json
import os
import random
import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from jaxtyping import Bool, Int

from deberta_jax.errors import InputError

PAD, CLS, SEP, UNK, MASK = "[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"
WORD_START = "\u2581"
FILE_NAME = "spm.model"
# Longer lines are cut before training: SentencePiece drops what is longer than its own limit.
TRAINING_LINE = 4000
# Of more lines a sample of this many is trained on.
TRAINING_LINES = 1_000_000


class Tokenizer:
    """Text to ids and back by a SentencePiece model; `vocab_size` counts [MASK], which the model file does not hold."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if self.path.is_dir():
            self.path = self.path / FILE_NAME
        if not self.path.is_file():
            raise InputError(f"{self.path}: no such tokenizer; train one with `deberta-jax tokenizer`")
        try:
            self.model = sentencepiece.SentencePieceProcessor(model_file=str(self.path))
        except RuntimeError as error:
            raise InputError(f"{self.path}: not a SentencePiece model ({str(error).splitlines()[0]})") from None
        self.mask_id = len(self.model)
        self.pad_id, self.cls_id, self.sep_id = (self._special(token) for token in (PAD, CLS, SEP))
        self.unk_id = self.model.unk_id()
        self.vocab_size = self.mask_id + 1
        self.special_ids = (self.pad_id, self.cls_id, self.sep_id, self.unk_id, self.mask_id)
        self.sha256 = hashlib.sha256(self.path.read_bytes()).hexdigest()

    def _special(self, token: str) -> int:
        index = self.model.piece_to_id(token)
        if index == self.model.unk_id():
            raise InputError(
                f"{self.path}: has no piece {token}: a DeBERTa vocabulary starts with {PAD} {CLS} {SEP} {UNK}"
            )
        return index

    def __reduce__(self) -> tuple[type, tuple[str]]:
        # Worker processes may stand in another folder.
        return Tokenizer, (str(self.path.absolute()),)

    def encode(self, text: str) -> Int[np.ndarray, "T"]:
        """Ids of a text without [CLS] and [SEP]; a [MASK] written in it is the mask."""
        ids: list[int] = []
        for number, part in enumerate(text.split(MASK)):
            if number:
                ids.append(self.mask_id)
            ids.extend(self.model.encode(part))
        return np.asarray(ids, np.int32)

    def encode_many(self, texts: list[str]) -> list[Int[np.ndarray, "T"]]:
        """Ids of many texts in which no [MASK] is meant, as corpora are."""
        return [np.asarray(ids, np.int32) for ids in self.model.encode(texts)]

    def decode(self, ids: Sequence[int] | Int[np.ndarray, "T"]) -> str:
        """The text of ids; specials are written as their names."""
        parts: list[str] = []
        for named, run in itertools.groupby(map(int, ids), lambda index: index in self.special_ids):
            group = list(run)
            parts += map(self.token, group) if named else [self.model.decode(group)]
        return " ".join(parts)

    def token(self, index: int) -> str:
        """The piece of one id."""
        return MASK if index == self.mask_id else self.model.id_to_piece(int(index))

    def word_starts(self) -> Bool[np.ndarray, "V"]:
        """Which ids begin a word: leading spaces, specials and single signs; all others continue (spec 5.4)."""
        pieces = map(self.token, range(self.vocab_size))
        starts = np.asarray([piece.startswith(WORD_START) or _single_sign(piece) for piece in pieces])
        starts[list(self.special_ids)] = True
        return starts

    def save(self, folder: str | Path) -> None:
        """Write `spm.model` and the `tokenizer_config.json` with which transformers finds it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.resolve() != (folder / FILE_NAME).resolve():
            shutil.copyfile(self.path, folder / FILE_NAME)
        names = {"pad": PAD, "cls": CLS, "sep": SEP, "unk": UNK, "mask": MASK}
        settings = {
            "tokenizer_class": "DebertaV2Tokenizer",
            "do_lower_case": False,
            "split_by_punct": False,
            "vocab_type": "spm",
            **{f"{name}_token": token for name, token in names.items()},
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


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


def _single_sign(piece: str) -> bool:
    return len(piece) == 1 and (piece.isspace() or unicodedata.category(piece)[0] in "PC")
