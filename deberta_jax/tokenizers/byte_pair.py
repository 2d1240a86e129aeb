"""The vocabulary of v1: GPT-2's byte pair encoding with the ids of DeBERTa."""

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from jaxtyping import Bool, Int

from deberta_jax.errors import InputError
from deberta_jax.files import read_json
from deberta_jax.tokenizers.characters import code_points, is_single_symbol, trim_spans, whitespace_table
from deberta_jax.tokenizers.segments import Encoded, Encoder, SegmentEncoder
from deberta_jax.tokenizers.special_tokens import CLS, MASK, PAD, SEP, UNK, AddedToken
from deberta_jax.tokenizers.template import Template
from deberta_jax.tokenizers.vocabulary import Format, SavedVocabulary, check_class, read_source
from deberta_jax.torch_format.file import read_torch_file

VOCAB_JSON, MERGES_TXT, BPE_ENCODER = "vocab.json", "merges.txt", "bpe_encoder.bin"
BYTE_PAIR_FILES = VOCAB_JSON, MERGES_TXT, BPE_ENCODER
_CLASSES = "Deberta", "Roberta", "GPT2"
# How GPT-2 splits a text before merging (Radford et al. 2019, encoder.py), without backtracking.
_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
_TEXTS_PER_THREAD = 64


class BytePairVocabulary:
    """Tokens with their `ids`, and `merges` in the order of training; raises InputError if training cannot give them.

    `files` are the files that it was read from; the first one identifies the vocabulary in messages. With
    `add_prefix_space`, a text that does not begin with a space is encoded as if it did. `added` and `template` are as
    in `Vocabulary`.
    """

    # In v1 the space before a word is part of its token, and therefore of the [MASK] in its place.
    mask_strips_space = True

    def __init__(
        self,
        files: Sequence[Path],
        ids: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        *,
        add_prefix_space: bool = False,
        added: Sequence[AddedToken] = (),
        template: Template | None = None,
    ):
        self.path, self._files = files[0], tuple(files)
        self.added, self.template, self._add_prefix_space = tuple(added), template, add_prefix_space
        if token := _unreachable_token(merges):
            raise InputError(
                f"{files[-1]}: the merges do not produce {token!r}; expected merges in the order of training"
            )
        self._ids, self._merges = dict(ids), list(merges)
        self.default_ids: Mapping[str, int] = {}
        self.size = max(ids.values()) + 1
        parts = [sorted((index, token) for token, index in ids.items()), self._merges]
        content = json.dumps(parts + [{"add_prefix_space": True}] * add_prefix_space)
        self.sha256 = hashlib.sha256(content.encode()).hexdigest()
        self._tokens = dict(zip(ids.values(), ids, strict=True))
        self._bytes = {index: _token_bytes(token) for index, token in self._tokens.items()}
        ranks = {bytes([byte]): rank for rank, byte in enumerate(_BYTES.values())}
        for first, second in merges:
            ranks.setdefault(_token_bytes(first + second), len(ranks))
        self._model = tiktoken.Encoding(str(self.path), pat_str=_WORDS, mergeable_ranks=ranks, special_tokens={})
        id_of_bytes = {token: index for index, token in self._bytes.items()}
        self._id_of_rank = np.asarray([id_of_bytes.get(token, ids.get(UNK, 0)) for token in ranks], np.int32)
        self._length_of_rank = np.asarray([len(token) for token in ranks], np.int32)
        self._blank = whitespace_table()

    def id_of(self, token: str) -> int | None:
        """The id of a token, or None if it is not in the vocabulary."""
        return self._ids.get(token)

    def token(self, index: int) -> str:
        """The token with this id: one character for each byte, Ġ for the space."""
        return self._tokens.get(index, "")

    def encode_many(self, texts: Sequence[str]) -> list[Int[np.ndarray, "T"]]:
        """Ids of each text; many texts are encoded on all cores."""
        return [self._id_of_rank[ranks] for ranks in self._ranks(texts)]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[Encoded]:
        """Ids of each text, with the start and end of each token in characters, without white space at the ends."""
        return [
            (self._id_of_rank[ranks], self._offsets(text, ranks))
            for text, ranks in zip(texts, self._ranks(texts), strict=True)
        ]

    def encoder(self, added: Sequence[AddedToken]) -> Encoder:
        """A function that encodes texts with these tokens."""
        return SegmentEncoder(self.encode_with_offsets, added)

    def _offsets(self, text: str, ranks: Int[np.ndarray, "T"]) -> Int[np.ndarray, "T 2"]:
        if not text:
            return np.zeros((0, 2), np.int32)
        ends = np.cumsum(self._length_of_rank[ranks])
        # The index of the character that each byte belongs to.
        character = np.cumsum(np.frombuffer(text.encode(), np.uint8) & 0xC0 != 0x80) - 1
        if self._has_prefix(text):
            # The space before the text belongs to its first character.
            character = np.append(character[:1], character)
        starts = character[ends - self._length_of_rank[ranks]]
        return trim_spans(self._blank[code_points(text)], starts, character[ends - 1] + 1)

    def _has_prefix(self, text: str) -> bool:
        return self._add_prefix_space and text != "" and not text.startswith(" ")

    def _ranks(self, texts: Sequence[str]) -> list[Int[np.ndarray, "T"]]:
        if self._add_prefix_space:
            texts = [" " * self._has_prefix(text) + text for text in texts]
        groups = [texts[start : start + _TEXTS_PER_THREAD] for start in range(0, len(texts), _TEXTS_PER_THREAD)]
        if len(groups) < 2:
            return [ranks for group in groups for ranks in self._ranks_of_group(group)]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            return [ranks for group in threads.map(self._ranks_of_group, groups) for ranks in group]

    def _ranks_of_group(self, texts: Sequence[str]) -> list[Int[np.ndarray, "T"]]:
        return [self._model.encode_to_numpy(text, disallowed_special=()).astype(np.int32) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; invalid UTF-8 becomes U+FFFD."""
        return b"".join(self._bytes.get(index, b"") for index in ids).decode("utf-8", "replace")

    def word_starts(self) -> Bool[np.ndarray, "V"]:
        """For each id, whether the token begins with a space or is a single symbol."""
        texts = [self._bytes.get(index, b"").decode("utf-8", "replace") for index in range(self.size)]
        return np.asarray([text.startswith(" ") or is_single_symbol(text) for text in texts])

    def saved(self) -> SavedVocabulary:
        """`vocab.json` and `merges.txt`, the files that were read, and the same encoding for `tokenizer.json`."""
        merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in self._merges), ""])
        vocab = json.dumps(self._ids, indent=2, ensure_ascii=False) + "\n"
        files = {VOCAB_JSON: vocab.encode(), MERGES_TXT: merges.encode()}
        files |= {file.name: read_source(file) for file in self._files if file.name in BYTE_PAIR_FILES}
        space = self._add_prefix_space
        bytewise = {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": True}
        model = {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": self._ids,
            "merges": [list(pair) for pair in self._merges],
        }
        return SavedVocabulary(
            files,
            "DebertaTokenizer",
            settings={"add_prefix_space": space},
            pipeline={"normalizer": None, "pre_tokenizer": bytewise, "decoder": bytewise, "model": model},
        )


def byte_characters() -> dict[int, str]:
    """The character that represents each byte in GPT-2's files, in the order of its first 256 ids."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}


_BYTES = {character: byte for byte, character in byte_characters().items()}
_TO_LATIN_1 = str.maketrans({character: chr(byte) for character, byte in _BYTES.items()})


def _token_bytes(token: str) -> bytes:
    try:
        return token.translate(_TO_LATIN_1).encode("latin-1")
    except UnicodeEncodeError:
        # The name of a special token may contain characters that represent no byte.
        return token.encode()


def _unreachable_token(merges: Sequence[tuple[str, str]]) -> str | None:
    """A token that applying the merges to its characters does not produce, or None; training never leaves such a token.

    Without such tokens, tiktoken (merge neighbors that form a token, the first token in order first) and GPT-2 (merge
    the listed pairs in order) give the same ids.
    """
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    for first, second in merges:
        parts = list(first + second)
        while len(parts) > 1:
            rank, position = min(
                (ranks.get(pair, len(ranks)), position) for position, pair in enumerate(itertools.pairwise(parts))
            )
            if rank == len(ranks):
                return first + second
            parts[position : position + 2] = [parts[position] + parts[position + 1]]
    return None


def _read_vocab_json(path: Path, settings: Mapping[str, Any]) -> BytePairVocabulary:
    """Hugging Face's two files, `vocab.json` and `merges.txt` beside it."""
    check_class(path, settings, _CLASSES)
    ids = read_json(path)
    if not ids or not all(isinstance(index, int) and index >= 0 for index in ids.values()):
        raise InputError(f"{path}: expected a JSON object of tokens and ids; download or copy it again")
    if len(set(ids.values())) < len(ids):
        raise InputError(f"{path}: two tokens have the same id; download or copy it again")
    merges = path.with_name(MERGES_TXT)
    try:
        text = merges.read_text("utf-8")
    except OSError as error:
        raise InputError(
            f"{merges}: cannot be read ({error.strerror}); {VOCAB_JSON} and {MERGES_TXT} must be in the same folder"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{merges}: not UTF-8 text; download or copy it again") from None
    prefix = bool(settings.get("add_prefix_space"))
    pairs = parse_merges(text, merges)
    return BytePairVocabulary((path, merges), ids, pairs, add_prefix_space=prefix)


def _read_bpe_encoder(path: Path, settings: Mapping[str, Any]) -> BytePairVocabulary:
    """Microsoft's `bpe_encoder.bin`: four special tokens, its dictionary in order, [MASK].

    The dictionary names a token by its GPT-2 id in digits; any other name is the token itself (docs/numerics.md,
    "Tokenizers").
    """
    value = read_torch_file(path)
    missing = [key for key in ("dict_map", "vocab", "encoder") if not isinstance(value, Mapping) or key not in value]
    if missing:
        raise InputError(f"{path}: not Microsoft's bpe_encoder.bin ({', '.join(missing)} missing); download it again")
    try:
        token_of = {str(index): token for token, index in value["encoder"].items()}
        words = value["dict_map"].keys() if isinstance(value["dict_map"], Mapping) else value["dict_map"]
        names = [str(word if isinstance(word, str | int) else word[0]) for word in words]
        merges = parse_merges(value["vocab"], path)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not the layout of Microsoft's bpe_encoder.bin ({error!r}); download it again"
        ) from None
    tokens = dict.fromkeys([PAD, CLS, SEP, UNK, *(token_of.get(name, name) for name in names), MASK])
    prefix = bool(settings.get("add_prefix_space"))
    return BytePairVocabulary((path,), dict(zip(tokens, itertools.count())), merges, add_prefix_space=prefix)


FORMAT = Format((VOCAB_JSON,), _read_vocab_json, others=(MERGES_TXT,))
MICROSOFT_FORMAT = Format((BPE_ENCODER,), _read_bpe_encoder)


def parse_merges(content: str | Iterable[str | Sequence[str]], path: Path) -> list[tuple[str, str]]:
    """Pairs of tokens, from the text of GPT-2's file, from its lines or from pairs; the first line may be a version."""
    lines = [line for line in content.split("\n") if line.strip()] if isinstance(content, str) else content
    merges = []
    for number, line in enumerate(lines, 1):
        if isinstance(line, str) and number == 1 and line.startswith("#version"):
            continue
        pair = tuple(line.split(" ") if isinstance(line, str) else line)
        if len(pair) != 2 or not all(isinstance(part, str) and part and set(part) <= _BYTES.keys() for part in pair):
            raise InputError(f"{path}: merge {number} is not a pair of GPT-2 tokens: {str(line)[:40]!r}")
        merges.append(pair)
    return merges
