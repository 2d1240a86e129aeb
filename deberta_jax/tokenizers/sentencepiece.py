"""The vocabulary of v2 and v3: a SentencePiece model, and where in a text its pieces come from."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from jaxtyping import Bool, Int

from deberta_jax.errors import InputError
from deberta_jax.tokenizers.characters import blank_signs, code_points, one_sign, trim

WORD_START = "\u2581"
FILE_NAME = "spm.model"
# What nmt_nfkc makes a space of though Python does not call it one.
_SPACES = "\u2581\u200b\u200e\u200f\ufeff\ufffd"
# Fewer characters are encoded before a thread has started.
_FEW = 10_000


class SentencePieceVocabulary:
    """Ids of `size` pieces by SentencePiece itself; `path` is its model file. Raises InputError if it is not one."""

    def __init__(self, path: Path):
        self.path = path
        self.files = (path,)
        try:
            contents = path.read_bytes()
            if not contents:
                raise ValueError("it is empty")
            self.model = sentencepiece.SentencePieceProcessor(model_proto=contents)
            self.size = len(self.model)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{path}: not a SentencePiece model ({reason}); download or copy it again") from None
        if not self.size:
            raise InputError(f"{path}: a SentencePiece model without pieces; download or copy it again")
        self.sha256 = hashlib.sha256(contents).hexdigest()
        self.unk_id = self.model.unk_id()
        self.pieces = list(map(self.model.id_to_piece, range(self.size)))
        self._bytes = np.full(self.size, -1, np.int32)
        for index, piece in enumerate(self.pieces):
            if piece.startswith("<0x") and self.model.is_byte(index):
                self._bytes[index] = int(piece[1:-1], 16)
        self.has_bytes = bool((self._bytes >= 0).any())
        self._lengths = np.asarray(list(map(len, self.pieces)), np.int32)
        spaces = [sign for sign in _SPACES if self.model.normalize(f"a{sign}a").lstrip(WORD_START) == f"a{WORD_START}a"]
        self._blank = blank_signs("".join(spaces))

    def id_of(self, token: str) -> int | None:
        """The id of a piece; None of one that is not there."""
        index = self.model.piece_to_id(token)
        return index if self.model.id_to_piece(index) == token else None

    def token(self, index: int) -> str:
        """The piece of an id."""
        return self.pieces[index]

    def scores(self, other: float) -> list[float]:
        """The log probability of each piece, `other` of those that no text is cut into: bytes and control pieces."""
        model = self.model
        kinds = (model.is_byte, model.is_control, model.is_unknown, model.is_unused)
        never = [any(kind(index) for kind in kinds) for index in range(self.size)]
        return [other if is_never else model.get_score(index) for index, is_never in enumerate(never)]

    def encode_many(self, texts: Sequence[str]) -> list[Int[np.ndarray, "T"]]:
        """Ids of each text, on all cores where it is worth starting threads."""
        threads = 1 if sum(map(len, texts)) < _FEW else -1
        return self.model.encode(list(texts), return_type="numpy", num_threads=threads)

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[Int[np.ndarray, "T"], Int[np.ndarray, "T 2"]]]:
        """Ids of each text; start and end in characters of what each came from, without white space at the ends."""
        return [(ids, self._stretches(text, ids)) for text, ids in zip(texts, self.encode_many(texts), strict=True)]

    def _stretches(self, text: str, ids: Int[np.ndarray, "T"]) -> Int[np.ndarray, "T 2"]:
        """Pieces cover the normalised text; each sign of that comes from a unit of the text, up to the next unit.

        What the normaliser deletes belongs to the unit before it, and before the first unit to the first.
        """
        if not len(ids):
            return np.zeros((0, 2), np.int32)
        normal, starts = self.model.normalize(text, with_offsets=True)
        begins = np.asarray(starts, np.int32)[:-1]
        ends = np.append(begins, len(text))[np.searchsorted(begins, begins, side="right")]
        # A space that stands before the text, as the model was trained, comes from nothing in it.
        prefixed = normal[:1] == WORD_START and len(begins) > 1 and begins[0] == begins[1]
        ends[: int(prefixed)] = begins[0]
        begins[begins == begins[0]] = 0
        first, last = self._spans(text, ids)
        return trim(self._blank[code_points(text)], begins[first], np.maximum(ends[last], begins[first]))

    def _spans(self, text: str, ids: Int[np.ndarray, "T"]) -> tuple[Int[np.ndarray, "T"], Int[np.ndarray, "T"]]:
        """First and last sign of the normalised text that each piece covers; bytes of one sign all cover it."""
        lengths, byte = self._lengths[ids], self._bytes[ids]
        if (ids == self.unk_id).any():
            # An unknown piece is as long as what it stands for.
            lengths = np.fromiter(map(len, self.model.encode(text, return_type=str)), np.int32, len(ids))
        continues = (byte >= 0) & (byte & 0xC0 == 0x80)
        lengths = np.where(byte >= 0, ~continues, lengths)
        first = np.cumsum(lengths) - lengths - continues
        return first, first + np.maximum(lengths, 1) - 1

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return self.model.decode(list(ids))

    def word_starts(self) -> Bool[np.ndarray, "V"]:
        """Which pieces begin a word: leading spaces and single signs; all others continue (spec 5.4)."""
        return np.asarray([piece.startswith(WORD_START) or one_sign(piece) for piece in self.pieces])
