"""Text to token ids and back, and to batches: the one tokenizer over the vocabularies of v1 and of v2 and v3."""

import functools
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import SupportsInt

import numpy as np
from jaxtyping import Bool, Int

from deberta_jax.errors import InputError
from deberta_jax.tokenizers import byte_pair, sentencepiece
from deberta_jax.tokenizers.batch import Batch, Encoded, Truncation, assemble, frame
from deberta_jax.tokenizers.byte_pair import BytePairVocabulary
from deberta_jax.tokenizers.characters import check_encodable
from deberta_jax.tokenizers.save import TOKENIZER_JSON, write_tokenizer
from deberta_jax.tokenizers.sentencepiece import SentencePieceVocabulary
from deberta_jax.tokenizers.special_tokens import NAMES, AddedToken, read_special_tokens, splitter

# In this order a folder is searched.
FILE_NAMES = (sentencepiece.FILE_NAME, byte_pair.VOCABULARY, byte_pair.MICROSOFT)


class Tokenizer:
    """A vocabulary with its special and added tokens, from a folder or from the vocabulary's file alone.

    `pad_id`, `cls_id`, `sep_id`, `unk_id` and `mask_id` are ids, together `special_ids`; `vocab_size` is one more than
    the highest id, [MASK] and added tokens included; `sha256` tells vocabularies apart. In a text [MASK] and added
    tokens are recognised; [CLS] and the like are text as any other. Raises InputError for what is not a tokenizer, and
    wherever a text has a lone surrogate.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        file = _file_of(self.path)
        if file is None:
            alone = " (tokenizer.json alone is not enough)" * (self.path / TOKENIZER_JSON).is_file()
            raise InputError(
                f"{self.path}: no such tokenizer: none of {', '.join(FILE_NAMES)} is there{alone}; copy the original's "
                "file, or train one with `deberta-jax tokenizer`"
            )
        bytewise = file.suffix in (".json", ".bin")
        self.vocabulary = BytePairVocabulary(file) if bytewise else SentencePieceVocabulary(file)
        self._tokens = read_special_tokens(self.path if self.path.is_dir() else None)
        for setting in ("do_lower_case", "split_by_punct", *["add_prefix_space"] * bytewise):
            if self._tokens.settings.get(setting):
                raise InputError(
                    f"{self.path}: tokenizer_config.json asks for {setting}, with which no DeBERTa was trained; "
                    "set it to false"
                )
        ids = {token.text: token.id for token in self._tokens.added}
        self.pad_id, self.cls_id, self.sep_id, self.unk_id, self.mask_id = (
            self._special_id(name, self._tokens.names[name], ids) for name in NAMES
        )
        self.special_ids = (self.pad_id, self.cls_id, self.sep_id, self.unk_id, self.mask_id)
        names = self._tokens.names
        # In v1 the space before a mask is the mask's: the word it stands for would have held it.
        mask = AddedToken(names["mask"], self.mask_id, lstrip=bytewise, special=True)
        self.mask_token = mask.text
        given = [token for token in self._tokens.added if token.id not in self.special_ids[:4]]
        given += [mask] if all(token.text != mask.text for token in given) else []
        # The pattern made of them takes the first that fits.
        self.added = tuple(sorted(given, key=lambda token: -len(token.text)))
        ids_of = zip(NAMES, self.special_ids, strict=True)
        self._special = {name: AddedToken(names[name], index, special=True) for name, index in ids_of}
        self._special["mask"] = next(token for token in self.added if token.id == self.mask_id)
        self._named = {token.id: token.text for token in (*self.added, *self._special.values())}
        self._splitter = splitter(self.added)
        self.vocab_size = max(self.vocabulary.size, *(index + 1 for index in self._named))
        self.sha256 = self._sha256()

    def _special_id(self, name: str, token: str, added: dict[str, int]) -> int:
        index = self.vocabulary.id_of(token)
        if index is None:
            index = added.get(token)
        if index is None and isinstance(self.vocabulary, SentencePieceVocabulary):
            if name == "unk":
                return self.vocabulary.unk_id
            if name == "mask":
                # It follows the pieces: no released model file holds it.
                return next(free for free in itertools.count(self.vocabulary.size) if free not in added.values())
        if index is None:
            raise InputError(
                f"{self.vocabulary.path}: has no {token}: a DeBERTa vocabulary holds {' '.join(NAMES.values())}, or "
                f"the folder's tokenizer_config.json says what its {name}_token is"
            )
        return index

    def _sha256(self) -> str:
        beside = [(token.id, token.text) for token in self.added if self.vocabulary.id_of(token.text) != token.id]
        if beside in ([], [(self.vocabulary.size, NAMES["mask"])]):
            return self.vocabulary.sha256
        return hashlib.sha256(f"{self.vocabulary.sha256}{sorted(beside)}".encode()).hexdigest()

    @staticmethod
    def stands_in(folder: str | Path) -> bool:
        """Whether a folder holds a tokenizer."""
        return Path(folder).is_dir() and _file_of(Path(folder)) is not None

    def __reduce__(self) -> tuple[type, tuple[str]]:
        # Worker processes may stand in another folder.
        return Tokenizer, (str(self.path.absolute()),)

    def __call__(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        truncation: Truncation | None = "longest_first",
        stride: int | None = None,
        buckets: Sequence[int] = (),
        pad_to_multiple_of: int = 1,
    ) -> Batch:
        """[CLS] A [SEP], or with `pairs` [CLS] A [SEP] B [SEP], of each text; padded to the longest row.

        Rows longer than `max_length` tokens are cut at the end of the longer side (`truncation` "longest_first", as
        the original does but for its order), of the "first" or of the "second"; None raises InputError instead. With
        `stride` nothing is lost: a text that is too long gives several rows, windows that share so many tokens.
        Rows are padded to the least of `buckets` that holds them, or to a multiple; a stream of texts then compiles a
        bounded number of programs. `buckets=(128,)` makes all rows 128 long; the longest bucket is the `max_length`
        where none is given.
        """
        firsts = [texts] if isinstance(texts, str) else list(texts)
        seconds = [pairs] if isinstance(pairs, str) else list(pairs or [])
        if pairs is not None and len(firsts) != len(seconds):
            raise InputError(f"{len(firsts)} texts and {len(seconds)} pairs; each text needs one")
        around = frame(
            (self.cls_id, self.sep_id, self.pad_id), max_length, truncation, stride, buckets, pad_to_multiple_of
        )
        encoded = self._encode([*firsts, *seconds])
        return assemble(encoded[: len(firsts)], None if pairs is None else encoded[len(firsts) :], around)

    def encode(self, text: str) -> Int[np.ndarray, "T"]:
        """Ids of a text without [CLS] and [SEP]."""
        check_encodable([text])
        parts = self._split(text)
        ids = iter(self.vocabulary.encode_many([text[start:end] for start, end, index in parts if index is None]))
        pieces = [next(ids) if index is None else np.asarray([index], np.int32) for _, _, index in parts]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int32)

    def encode_many(self, texts: Sequence[str]) -> list[Int[np.ndarray, "T"]]:
        """Ids of many texts in which no [MASK] and no added token is meant, as corpora are; on all cores."""
        check_encodable(texts)
        return self.vocabulary.encode_many(texts)

    def encode_with_offsets(self, text: str) -> tuple[Int[np.ndarray, "T"], Int[np.ndarray, "T 2"]]:
        """Ids of a text without [CLS] and [SEP], and for each the start and end, in characters, of what it came from.

        Stretches rise and leave white space outside, unless it stands between what became one token; a token that is
        white space only has an empty one. Everything else is covered: what the normaliser deletes goes with its
        neighbour. Two stretches share at most one character, or one with the marks composed with it, where several
        tokens come from that (its bytes, or the letters of a ligature).
        """
        [encoded] = self._encode([text])
        return encoded.ids, encoded.offsets

    def _encode(self, texts: Sequence[str]) -> list[Encoded]:
        check_encodable(texts)
        parts = [self._split(text) for text in texts]
        plain = [
            text[start:end]
            for text, its in zip(texts, parts, strict=True)
            for start, end, index in its
            if index is None
        ]
        found = iter(self.vocabulary.encode_with_offsets(plain))
        encoded = []
        for its in parts:
            ids, offsets = [np.zeros(0, np.int32)], [np.zeros((0, 2), np.int32)]
            for start, end, index in its:
                if index is None:
                    some, where = next(found)
                    ids.append(some)
                    offsets.append(where + np.int32(start))
                else:
                    ids.append(np.asarray([index], np.int32))
                    offsets.append(np.asarray([[start, end]], np.int32))
            joined = np.concatenate(ids)
            begins = self._begins[joined]
            begins[:1] = True
            encoded.append(Encoded(joined, np.concatenate(offsets), begins))
        return encoded

    def _split(self, text: str) -> list[tuple[int, int, int | None]]:
        """Start, end and id of the added tokens in a text and, with None, of what is between them."""
        parts: list[tuple[int, int, int | None]] = []
        done = 0
        for match in self._splitter.finditer(text):
            place = match.lastindex or 0
            parts += [(done, match.start(), None), (*match.span(place), self.added[place - 1].id)]
            done = match.end()
        return [part for part in [*parts, (done, len(text), None)] if part[0] < part[1]]

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The text of ids; special and added tokens are written as their names, between spaces."""
        text = ""
        for named, run in itertools.groupby(map(int, ids), lambda index: index in self._named):
            group = list(run)
            part = " ".join(map(self.token, group)) if named else self.vocabulary.decode(group)
            text = f"{text} {part.removeprefix(' ')}" if text else part
        return text

    def save(self, folder: str | Path) -> None:
        """Write the vocabulary's own files, and what transformers 4 and 5 need to give its ids, `tokenizer.json`.

        What else the tokenizer's folder says in its settings is kept. Each file is written whole. Raises InputError
        where one cannot be.
        """
        write_tokenizer(Path(folder), self.vocabulary, self._special, self.added, self._tokens.settings)

    def token(self, index: SupportsInt) -> str:
        """The piece of one id, as the vocabulary writes it."""
        return self._named.get(int(index)) or self.vocabulary.token(int(index))

    @functools.cached_property
    def _begins(self) -> Bool[np.ndarray, "V"]:
        return self.word_starts()

    def word_starts(self) -> Bool[np.ndarray, "V"]:
        """Which ids begin a word: leading spaces, named tokens and single signs; all others continue (spec 5.4)."""
        starts = np.ones(self.vocab_size, bool)
        starts[: self.vocabulary.size] = self.vocabulary.word_starts()
        starts[list(self._named)] = True
        return starts


def _file_of(path: Path) -> Path | None:
    """The file that a tokenizer is made from, in a folder or itself; None where it is not there."""
    files = [path / name for name in FILE_NAMES] if path.is_dir() else [path]
    return next((file for file in files if file.is_file()), None)
