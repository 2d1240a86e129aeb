"""The vocabulary of v1: GPT-2's byte pair encoding under DeBERTa's ids."""

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tiktoken
from jaxtyping import Bool, Int

from deberta_jax.errors import InputError
from deberta_jax.tokenizers.characters import blank_signs, code_points, one_sign, trim
from deberta_jax.tokenizers.special_tokens import CLS, MASK, PAD, SEP, UNK
from deberta_jax.torch_format.file import read_torch_file

VOCABULARY, MERGES, MICROSOFT = "vocab.json", "merges.txt", "bpe_encoder.bin"
# What GPT-2 cuts a text into before merging (Radford et al. 2019, encoder.py), without backtracking.
_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
# Texts that one thread takes at a time.
_TOGETHER = 64


class BytePairVocabulary:
    """Ids of `size` tokens, of `vocab.json` with `merges.txt` beside it or of Microsoft's `bpe_encoder.bin`.

    Raises InputError for files that are not there or not such.
    """

    def __init__(self, path: Path):
        self.path = path
        if path.name.endswith(".bin"):
            self.files: tuple[Path, ...] = (path,)
            self.ids, self.merges = _microsoft(path)
        else:
            self.files = (path, path.with_name(MERGES))
            self.ids, self.merges = _ids(path), _merges(_read(path.with_name(MERGES)), path.with_name(MERGES))
        if token := _made_otherwise(self.merges):
            raise InputError(
                f"{self.files[-1]}: its merges do not make {token!r}; merges as they were trained are wanted"
            )
        self.size = max(self.ids.values()) + 1
        self.unk_id = self.ids.get(UNK)
        contents = json.dumps([sorted((index, token) for token, index in self.ids.items()), self.merges])
        self.sha256 = hashlib.sha256(contents.encode()).hexdigest()
        self._tokens = dict(zip(self.ids.values(), self.ids, strict=True))
        self._bytes = {index: _bytes(token) for index, token in self._tokens.items()}
        ranks = {bytes([byte]): rank for rank, byte in enumerate(_SIGNS.values())}
        for first, second in self.merges:
            ranks.setdefault(_bytes(first + second), len(ranks))
        self._model = tiktoken.Encoding(str(path), pat_str=_WORDS, mergeable_ranks=ranks, special_tokens={})
        index_of = {token: index for index, token in self._bytes.items()}
        unknown = 0 if self.unk_id is None else self.unk_id
        self._ids = np.asarray([index_of.get(token, unknown) for token in ranks], np.int32)
        self._lengths = np.asarray([len(token) for token in ranks], np.int32)
        self._blank = blank_signs()

    def id_of(self, token: str) -> int | None:
        """The id of a token as the vocabulary writes it; None of one that is not there."""
        return self.ids.get(token)

    def token(self, index: int) -> str:
        """The token of an id as the vocabulary writes it: one sign a byte, Ġ for the space."""
        return self._tokens[index]

    def encode_many(self, texts: Sequence[str]) -> list[Int[np.ndarray, "T"]]:
        """Ids of each text, on all cores."""
        return [self._ids[ranks] for ranks in self._ranks(texts)]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[Int[np.ndarray, "T"], Int[np.ndarray, "T 2"]]]:
        """Ids of each text; start and end in characters of what each came from, without white space at the ends."""
        return [
            (self._ids[ranks], self._stretches(text, ranks))
            for text, ranks in zip(texts, self._ranks(texts), strict=True)
        ]

    def _stretches(self, text: str, ranks: Int[np.ndarray, "T"]) -> Int[np.ndarray, "T 2"]:
        ends = np.cumsum(self._lengths[ranks])
        # Which character each byte is of.
        character = np.cumsum(np.frombuffer(text.encode(), np.uint8) & 0xC0 != 0x80) - 1
        return trim(self._blank[code_points(text)], character[ends - self._lengths[ranks]], character[ends - 1] + 1)

    def _ranks(self, texts: Sequence[str]) -> list[Int[np.ndarray, "T"]]:
        groups = [texts[start : start + _TOGETHER] for start in range(0, len(texts), _TOGETHER)]
        if len(groups) < 2:
            return [ranks for group in groups for ranks in self._ranks_of(group)]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            return [ranks for group in threads.map(self._ranks_of, groups) for ranks in group]

    def _ranks_of(self, texts: Sequence[str]) -> list[Int[np.ndarray, "T"]]:
        return [self._model.encode_to_numpy(text, disallowed_special=()).astype(np.int32) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are no character become U+FFFD."""
        return b"".join(self._bytes[index] for index in ids).decode("utf-8", "replace")

    def word_starts(self) -> Bool[np.ndarray, "V"]:
        """Which tokens begin a word: leading spaces and single signs; all others continue (spec 5.4)."""
        texts = [self._bytes.get(index, b"").decode("utf-8", "replace") for index in range(self.size)]
        return np.asarray([text.startswith(" ") or one_sign(text) for text in texts])


def sign_of_bytes() -> dict[int, str]:
    """The sign that stands for each byte in GPT-2's files, in the order of its first 256 ids."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}


_SIGNS = {sign: byte for byte, sign in sign_of_bytes().items()}


_AS_LATIN_1 = str.maketrans({sign: chr(byte) for sign, byte in _SIGNS.items()})


def _bytes(token: str) -> bytes:
    try:
        return token.translate(_AS_LATIN_1).encode("latin-1")
    except UnicodeEncodeError:
        # The name of a special token may hold what is no byte's sign.
        return token.encode()


def _made_otherwise(merges: list[tuple[str, str]]) -> str | None:
    """A token that its own merges do not give, which training never leaves; None where there is none.

    Without such a token merging any neighbours that form a token, the first in order first, as tiktoken does, is
    merging the listed pairs in their order, as GPT-2 does.
    """
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    for first, second in merges:
        parts = list(first + second)
        while len(parts) > 1:
            rank, place = min(
                (ranks.get(pair, len(ranks)), place) for place, pair in enumerate(itertools.pairwise(parts))
            )
            if rank == len(ranks):
                return first + second
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return None


def _ids(path: Path) -> dict[str, int]:
    try:
        ids = json.loads(_read(path))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); download or copy it again") from None
    if not (isinstance(ids, dict) and ids and all(isinstance(index, int) and index >= 0 for index in ids.values())):
        raise InputError(f"{path}: not an object of tokens and their ids; download or copy it again")
    if len(set(ids.values())) < len(ids):
        raise InputError(f"{path}: two tokens have one id; download or copy it again")
    return ids


def _merges(lines: str | Iterable[str | Sequence[str]], path: Path) -> list[tuple[str, str]]:
    """Of the text of GPT-2's file, or of lines, or of pairs."""
    merges = []
    listed = [line for line in lines.split("\n") if line.strip()] if isinstance(lines, str) else list(lines)
    # The first line of a file names its version.
    for number, line in enumerate(listed):
        if isinstance(line, str) and number == 0 and line.startswith("#version"):
            continue
        pair = tuple(line.split(" ") if isinstance(line, str) else line)
        if len(pair) != 2 or not all(isinstance(part, str) and part and set(part) <= _SIGNS.keys() for part in pair):
            raise InputError(f"{path}: merge {number + 1} is not two tokens of GPT-2's signs: {str(line)[:40]!r}")
        merges.append(pair)
    return merges


def _microsoft(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Ids of `bpe_encoder.bin`: four special tokens, its dictionary in order, [MASK] (spec 5.4).

    The dictionary names a token by GPT-2's id in digits; what is no such id keeps its own name.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    value = read_torch_file(path)
    missing = [key for key in ("dict_map", "vocab", "encoder") if not isinstance(value, Mapping) or key not in value]
    if missing:
        raise InputError(f"{path}: not Microsoft's bpe_encoder.bin: has no {', '.join(missing)}; download it again")
    try:
        token_of = {str(index): token for token, index in value["encoder"].items()}
        words = value["dict_map"].keys() if isinstance(value["dict_map"], Mapping) else value["dict_map"]
        names = [str(word if isinstance(word, str | int) else word[0]) for word in words]
        merges = _merges(value["vocab"], path)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not laid out as Microsoft's ({error!r}); download it again") from None
    ordered = dict.fromkeys([PAD, CLS, SEP, UNK, *(token_of.get(name, name) for name in names), MASK])
    return dict(zip(ordered, itertools.count())), merges


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {VOCABULARY} and {MERGES} go together") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not text in UTF-8; download or copy it again") from None
