"""Vocabularies that the library Hugging Face tokenizers encodes: the parts of a `tokenizer.json`."""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import tokenizers
from jaxtyping import Bool, Int

from deberta_jax.errors import InputError
from deberta_jax.tokenizers.characters import code_points, is_single_symbol, trim_spans, whitespace_table
from deberta_jax.tokenizers.segments import Encoded, Encoder
from deberta_jax.tokenizers.special_tokens import NAMES, AddedToken
from deberta_jax.tokenizers.template import Template
from deberta_jax.tokenizers.vocabulary import SavedVocabulary, read_source

# The parts of a `tokenizer.json` that make ids of plain text.
PIPELINE = "normalizer", "pre_tokenizer", "decoder", "model"
# Characters that a normalizer may map to a space although Python does not count them as white space.
SPACES = "\u2581\u200b\u200e\u200f\ufeff\ufffd"
_WORD_STARTS = "\u2581", "\u0120"
# The name of a special token in a unigram model of plain text: a low score is still better than unknown characters.
_NEVER = "\ufdd0 {}\ufdd0"


class LibraryVocabulary:
    """The `pipeline` of a tokenizer; raises InputError if the library cannot read it.

    `path` is the file that it was read from, `files` are the files to keep beside it when it is saved, by name. `added`
    tokens and `template` are those of a `tokenizer.json`. `default_ids` is as in `Vocabulary`.
    """

    mask_strips_space = False

    def __init__(
        self,
        path: Path,
        pipeline: Mapping[str, Any],
        *,
        files: Mapping[str, Path],
        added: Sequence[AddedToken] = (),
        template: Template | None = None,
        default_ids: Mapping[str, int] | None = None,
    ):
        self.path, self._files = path, dict(files)
        self.pipeline = {part: pipeline.get(part) for part in PIPELINE}
        self.added, self.template = tuple(added), template
        self._plain = build(path, self.pipeline, ())
        ids = self._plain.get_vocab(with_added_tokens=False)
        if not ids:
            raise InputError(f"{path}: the vocabulary is empty; download or copy it again")
        self.size = max(ids.values()) + 1
        # A model that fills no masks needs no [MASK].
        self.default_ids: Mapping[str, int] = default_ids or {"mask": self.size}
        self.sha256 = digest(self.pipeline)
        self._is_bytes = _contains(self.pipeline["pre_tokenizer"], "ByteLevel")

    def id_of(self, token: str) -> int | None:
        """The id of a token, or None if it is not in the vocabulary."""
        return self._plain.token_to_id(token)

    def token(self, index: int) -> str:
        """The token with this id, as the vocabulary spells it."""
        return self._plain.id_to_token(index) or ""

    def encode_many(self, texts: Sequence[str]) -> list[Int[np.ndarray, "T"]]:
        """Ids of each text, on all cores."""
        encoded = self._safe.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(each.ids, np.int32) for each in encoded]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[Encoded]:
        """Ids of each text, with the start and end of each token in characters, without white space at the ends."""
        return self._encode(self._safe, texts)

    @functools.cached_property
    def _safe(self) -> tokenizers.Tokenizer:
        """The tokenizer of plain text, in which no special token is found."""
        return build(self.path, self._pipeline(()), ())

    def _pipeline(self, added: Sequence[AddedToken]) -> dict[str, Any]:
        """The pipeline, in which special tokens that are not in `added` are not found as pieces of a unigram model."""
        model: Any = self.pipeline["model"]
        special = {*NAMES.values(), *(token.text for token in self.added if token.special)}
        names = special - {token.text for token in added}
        if model.get("type") != "Unigram" or not names:
            return self.pipeline
        vocab = [[_NEVER.format(piece) if piece in names else piece, score] for piece, score in model["vocab"]]
        return self.pipeline | {"model": model | {"vocab": vocab}}

    def encoder(self, added: Sequence[AddedToken]) -> Encoder:
        """A function that encodes texts with these tokens as the library does."""
        tokenizer = build(self.path, self._pipeline(added), added)
        # The library numbers tokens by their order: a gap in the ids of a file would shift the later ones.
        ids = np.arange(max([self.size, *(token.id + 1 for token in added)]) + len(added), dtype=np.int32)
        for token in added:
            ids[tokenizer.token_to_id(token.text)] = token.id
        is_identity = bool((ids == np.arange(len(ids))).all())

        def encode(texts: Sequence[str]) -> list[Encoded]:
            encoded = self._encode(tokenizer, texts)
            return encoded if is_identity else [(ids[numbers], offsets) for numbers, offsets in encoded]

        return encode

    def _encode(self, tokenizer: tokenizers.Tokenizer, texts: Sequence[str]) -> list[Encoded]:
        try:
            encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        # The library's own errors on a text are panics, which are not Exceptions.
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
            raise InputError(
                f"{self.path}: tokenizers {tokenizers.__version__} fails on a text ({error}); set lstrip, rstrip and "
                "normalized of the added tokens to false"
            ) from None
        all_ids = [np.asarray(each.ids, np.int32) for each in encoded]
        offsets = [
            self._offsets(*each) for each in zip(texts, all_ids, [each.offsets for each in encoded], strict=True)
        ]
        return list(zip(all_ids, offsets, strict=True))

    def _offsets(
        self, text: str, ids: Int[np.ndarray, "T"], pairs: Sequence[tuple[int, int]]
    ) -> Int[np.ndarray, "T 2"]:
        """Spans without white space at their ends; a character that the normalizer deletes belongs to a neighbor."""
        if not pairs:
            return np.zeros((0, 2), np.int32)
        flat = np.fromiter(itertools.chain.from_iterable(pairs), np.int32, 2 * len(pairs)).reshape(-1, 2)
        starts, ends = flat[:, 0], flat[:, 1]
        if self._bytes is not None:
            starts, ends = _split_bytes(self._bytes[np.minimum(ids, self.size)], starts, ends)
        blank = self._blank[code_points(text)]
        # The space that the pre-tokenizer inserts before a text has the span of the first character.
        inserted = (ids == self._space_id) & (ends > starts) & ~blank[np.minimum(starts, len(text) - 1)]
        ends = np.where(inserted, starts, ends)
        starts = np.maximum.accumulate(starts)
        starts[starts == starts[0]] = 0
        # A token of white space only stays empty.
        ends = np.where(inserted, ends, np.maximum(ends, np.append(starts[1:], np.int32(len(text)))))
        return trim_spans(blank, starts, np.maximum(ends, starts))

    @functools.cached_property
    def _blank(self) -> Bool[np.ndarray, "P"]:
        normalizer = self._plain.normalizer
        if normalizer is None:
            return whitespace_table()
        spaces = [each for each in SPACES if normalizer.normalize_str(f"a{each}a") in ("a a", "a\u2581a")]
        return whitespace_table("".join(spaces))

    @functools.cached_property
    def _bytes(self) -> Int[np.ndarray, "V"] | None:
        """The byte of each token "<0x41>" of byte fallback, -1 for all others and after the last; None without it."""
        if not cast(Any, self.pipeline["model"]).get("byte_fallback"):
            return None
        values = np.full(self.size + 1, -1, np.int32)
        for byte in range(256):
            index = self.id_of(f"<0x{byte:02X}>")
            if index is not None:
                values[index] = byte
        return values

    @functools.cached_property
    def _space_id(self) -> int:
        """The id of the space alone, -1 without it."""
        return next((index for index in map(self.id_of, _WORD_STARTS) if index is not None), -1)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return self._plain.decode(list(ids), skip_special_tokens=False)

    def word_starts(self) -> Bool[np.ndarray, "V"]:
        """For each id, whether the token begins a word: as this kind of model marks it, or as a single symbol."""
        tokens = list(map(self.token, range(self.size)))
        model: Any = self.pipeline["model"]
        if model.get("type") == "WordPiece":
            prefix = model.get("continuing_subword_prefix", "##")
            return np.asarray([not token.startswith(prefix) for token in tokens])
        return np.asarray([token.startswith(_WORD_STARTS) or is_single_symbol(token) for token in tokens])

    def saved(self) -> SavedVocabulary:
        """The files that it was read from, and the pipeline."""
        return SavedVocabulary(
            files={name: read_source(path) for name, path in self._files.items()},
            tokenizer_class="PreTrainedTokenizerFast",
            settings={},
            pipeline=self.pipeline,
        )


def build(path: Path, pipeline: Mapping[str, Any], added: Sequence[AddedToken]) -> tokenizers.Tokenizer:
    """The library's tokenizer for the parts of a `tokenizer.json`; raises InputError with its reason."""
    order = sorted(added, key=lambda token: token.id)
    try:
        document = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": token.id} | token.to_dict() for token in findable(pipeline, order)],
            "post_processor": None,
            **pipeline,
        }
        return tokenizers.Tokenizer.from_str(json.dumps(document))
    # The library raises Exception itself.
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a tokenizer that tokenizers {tokenizers.__version__} reads ({reason})") from None


def findable(pipeline: Mapping[str, Any], added: Sequence[AddedToken]) -> list[AddedToken]:
    """The added tokens; a token that the normalizer removes, such as a line end, is found in the text itself.

    The library finds such a token between all characters of the normalized text, and with some other tokens it does not
    end.
    """
    if pipeline["normalizer"] is None or not any(token.normalized for token in added):
        return list(added)
    plain = {"version": "1.0", "added_tokens": [], "post_processor": None, **pipeline}
    normalizer = tokenizers.Tokenizer.from_str(json.dumps(plain)).normalizer
    return [
        dataclasses.replace(token, normalized=False)
        if token.normalized and not normalizer.normalize_str(token.text)
        else token
        for token in added
    ]


def _split_bytes(
    values: Int[np.ndarray, "T"], starts: Int[np.ndarray, "T"], ends: Int[np.ndarray, "T"]
) -> tuple[Int[np.ndarray, "T"], Int[np.ndarray, "T"]]:
    """Spans in which each byte token covers its own character: the library gives it the span of a whole run.

    `values` are the bytes, -1 for other tokens.
    """
    if not (values >= 0).any():
        return starts, ends
    starts, ends = starts.copy(), ends.copy()
    is_new = np.ones(len(values), bool)
    is_new[1:] = (values[1:] < 0) | (values[:-1] < 0) | (starts[1:] != starts[:-1]) | (ends[1:] != ends[:-1])
    for run in np.split(np.arange(len(values)), np.flatnonzero(is_new)[1:]):
        if values[run[0]] >= 0:
            character = np.cumsum(values[run] & 0xC0 != 0x80) - 1
            first = starts[run[0]]
            starts[run] = np.minimum(first + character, ends[run[0]] - 1)
            ends[run] = starts[run] + 1
    return starts, ends


def digest(pipeline: Mapping[str, Any]) -> str:
    """A digest of what decides on ids; scores are rounded, because the library changes their last digit."""
    model = pipeline["model"]
    if model.get("type") == "Unigram":
        model = model | {"vocab": [[piece, f"{score:.6g}"] for piece, score in model["vocab"]]}
    content = [pipeline["normalizer"], pipeline["pre_tokenizer"], model]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _contains(part: object, kind: str) -> bool:
    """Whether a part of a pipeline is of this type, or a sequence with such a part."""
    if isinstance(part, Mapping):
        return part.get("type") == kind or any(_contains(each, kind) for each in part.values())
    return isinstance(part, list) and any(_contains(each, kind) for each in part)
