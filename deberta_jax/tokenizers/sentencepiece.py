"""The vocabulary of v2 and v3: a SentencePiece model, and the position of its pieces in a text."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from jaxtyping import Bool, Int

from deberta_jax.errors import InputError
from deberta_jax.tokenizers.characters import code_points, is_single_symbol, trim_spans, whitespace_table
from deberta_jax.tokenizers.library import SPACES, LibraryVocabulary
from deberta_jax.tokenizers.segments import Encoded, Encoder, SegmentEncoder
from deberta_jax.tokenizers.special_tokens import TOKENIZER_CONFIG, AddedToken
from deberta_jax.tokenizers.template import Template
from deberta_jax.tokenizers.unigram_pipeline import WORD_START, changes_ids, unigram_pipeline, with_settings
from deberta_jax.tokenizers.vocabulary import Format, SavedVocabulary, check_class, read_source

SPM_MODEL = "spm.model"
# The file's names in folders of other tokenizers.
OTHER_NAMES = "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "tokenizer.model"
_CLASSES = "DebertaV2", "Deberta"
# Starting threads takes longer than encoding fewer characters than this.
_MIN_CHARACTERS_FOR_THREADS = 10_000


class SentencePieceVocabulary:
    """A SentencePiece model of `size` pieces; raises InputError if the file is not one."""

    mask_strips_space = False
    added: tuple[AddedToken, ...] = ()
    template: Template | None = None

    def __init__(self, path: Path):
        self.path = path
        try:
            content = path.read_bytes()
            if not content:
                raise ValueError("the file is empty")
            if content.startswith(b"version https://git-lfs"):
                raise ValueError("a git-lfs pointer without the content")
            self.model = sentencepiece.SentencePieceProcessor(model_proto=content)
            self.size = len(self.model)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{path}: not a SentencePiece model ({reason}); download or copy it again") from None
        if not self.size:
            raise InputError(f"{path}: a SentencePiece model without pieces; download or copy it again")
        self.sha256 = hashlib.sha256(content).hexdigest()
        # No released model file contains [MASK]: it follows the pieces.
        self.default_ids: Mapping[str, int] = {"unk": self.model.unk_id(), "mask": self.size}
        self.pieces = list(map(self.model.id_to_piece, range(self.size)))
        self._bytes = np.full(self.size, -1, np.int32)
        for index, piece in enumerate(self.pieces):
            if piece.startswith("<0x") and self.model.is_byte(index):
                self._bytes[index] = int(piece[1:-1], 16)
        self._lengths = np.asarray(list(map(len, self.pieces)), np.int32)
        spaces = [each for each in SPACES if self.model.normalize(f"a{each}a").lstrip(WORD_START) == f"a{WORD_START}a"]
        self._blank = whitespace_table("".join(spaces))

    def id_of(self, token: str) -> int | None:
        """The id of a piece, or None if the model does not contain it."""
        index = self.model.piece_to_id(token)
        return index if self.model.id_to_piece(index) == token else None

    def token(self, index: int) -> str:
        """The piece with this id."""
        return self.pieces[index]

    def encode_many(self, texts: Sequence[str]) -> list[Int[np.ndarray, "T"]]:
        """Ids of each text; long inputs are encoded on all cores."""
        threads = 1 if sum(map(len, texts)) < _MIN_CHARACTERS_FOR_THREADS else -1
        return self.model.encode(list(texts), return_type="numpy", num_threads=threads)

    def encode_with_offsets(self, texts: Sequence[str]) -> list[Encoded]:
        """Ids of each text, with the start and end of each piece in characters, without white space at the ends."""
        return [(ids, self._offsets(text, ids)) for text, ids in zip(texts, self.encode_many(texts), strict=True)]

    def encoder(self, added: Sequence[AddedToken]) -> Encoder:
        """A function that encodes texts with these tokens.

        SentencePiece does not find tokens in its normalized text: with such a token, Hugging Face tokenizers encode.
        """
        if any(token.normalized for token in added):
            pipeline = self.saved().pipeline
            if pipeline is not None:
                return LibraryVocabulary(self.path, pipeline, files={}).encoder(added)
        return SegmentEncoder(self.encode_with_offsets, added)

    def _offsets(self, text: str, ids: Int[np.ndarray, "T"]) -> Int[np.ndarray, "T 2"]:
        """Spans of the text, from spans of the normalized text.

        Each normalized character comes from a unit of the text, which ends where the next unit begins. Characters that
        the normalizer deletes belong to the unit before them, or to the first unit.
        """
        if not len(ids):
            return np.zeros((0, 2), np.int32)
        normalized, unit_starts = self.model.normalize(text, with_offsets=True)
        starts = np.asarray(unit_starts, np.int32)[:-1]
        ends = np.append(starts, len(text))[np.searchsorted(starts, starts, side="right")]
        # The normalizer inserts a space before the text; it comes from no character.
        has_prefix = normalized[:1] == WORD_START and len(starts) > 1 and starts[0] == starts[1]
        ends[: int(has_prefix)] = starts[0]
        starts[starts == starts[0]] = 0
        first, last = self._normalized_spans(text, ids)
        return trim_spans(self._blank[code_points(text)], starts[first], np.maximum(ends[last], starts[first]))

    def _normalized_spans(
        self, text: str, ids: Int[np.ndarray, "T"]
    ) -> tuple[Int[np.ndarray, "T"], Int[np.ndarray, "T"]]:
        """First and last normalized character of each piece; all byte pieces of a character cover that character."""
        lengths, byte = self._lengths[ids], self._bytes[ids]
        if (ids == self.model.unk_id()).any():
            # An unknown piece is as long as the text that it replaces.
            lengths = np.fromiter(map(len, self.model.encode(text, return_type=str)), np.int32, len(ids))
        continues = (byte >= 0) & (byte & 0xC0 == 0x80)
        lengths = np.where(byte >= 0, ~continues, lengths)
        first = np.cumsum(lengths) - lengths - continues
        return first, first + np.maximum(lengths, 1) - 1

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return self.model.decode(list(ids))

    def word_starts(self) -> Bool[np.ndarray, "V"]:
        """For each id, whether the piece begins with white space or is a single symbol."""
        return np.asarray(
            [piece[0] == WORD_START or piece[0].isspace() or is_single_symbol(piece) for piece in self.pieces]
        )

    def saved(self) -> SavedVocabulary:
        """The model file, byte for byte, and the same model for `tokenizer.json`."""
        content = read_source(self.path)
        return SavedVocabulary(
            files={SPM_MODEL: content},
            tokenizer_class="DebertaV2Tokenizer",
            settings={"split_by_punct": False, "vocab_type": "spm"},
            pipeline=unigram_pipeline(self.model, content),
        )


def _read_model(path: Path, settings: Mapping[str, Any]) -> SentencePieceVocabulary | LibraryVocabulary:
    """A SentencePiece model; with settings that SentencePiece does not have, Hugging Face tokenizers encode."""
    check_class(path, settings, _CLASSES)
    vocabulary = SentencePieceVocabulary(path)
    if not changes_ids(settings):
        return vocabulary
    pipeline = vocabulary.saved().pipeline
    if pipeline is None:
        raise InputError(
            f"{path}: not a unigram model, as do_lower_case and split_by_punct in {TOKENIZER_CONFIG} need; remove "
            "these settings"
        )
    pipeline = with_settings(pipeline, settings)
    return LibraryVocabulary(path, pipeline, files={SPM_MODEL: path}, default_ids=vocabulary.default_ids)


FORMAT = Format((SPM_MODEL, *OTHER_NAMES), _read_model)
