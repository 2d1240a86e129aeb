"""The tokenizer: text to token ids, to batches and back, for the vocabularies of v1, v2 and v3."""

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import SupportsInt

import numpy as np
from jaxtyping import Bool, Int

from deberta_jax.errors import InputError
from deberta_jax.tokenizers.batch import Batch, BatchOptions, EncodedText, Truncation, make_batch
from deberta_jax.tokenizers.characters import check_encodable
from deberta_jax.tokenizers.formats import read_vocabulary
from deberta_jax.tokenizers.save import write_tokenizer
from deberta_jax.tokenizers.special_tokens import (
    NAMES,
    AddedToken,
    added_token_pattern,
    check_new_tokens,
    read_special_tokens,
)


class Tokenizer:
    """A vocabulary with its special and added tokens, read from a folder or from the vocabulary's file alone.

    `pad_id`, `cls_id`, `sep_id`, `unk_id` and `mask_id` are the ids of the special tokens, `special_ids` all five of
    them. `vocab_size` is one more than the highest id, [MASK] and added tokens included. `sha256` is equal for
    tokenizers that give the same ids. [MASK] and added tokens are recognized in a text; [CLS] and the other special
    tokens are read as plain text. Raises InputError for an invalid tokenizer, and for text with a lone surrogate.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.vocabulary = read_vocabulary(self.path)
        tokens = read_special_tokens(self.path if self.path.is_dir() else None)
        for setting in self.vocabulary.unsupported_settings:
            if tokens.settings.get(setting):
                raise InputError(
                    f"{self.path}: {setting} is true in tokenizer_config.json, but no DeBERTa was trained that way; "
                    "set it to false"
                )
        self._settings = tokens.settings
        added_ids = {token.text: token.id for token in tokens.added}
        self.special_ids = tuple(self._special_id(role, tokens.names[role], added_ids) for role in NAMES)
        self.pad_id, self.cls_id, self.sep_id, self.unk_id, self.mask_id = self.special_ids
        self.mask_token = tokens.names["mask"]
        mask = AddedToken(self.mask_token, self.mask_id, lstrip=self.vocabulary.mask_strips_space, special=True)
        added = [token for token in tokens.added if token.id not in self.special_ids[:4]]
        added += [mask] if all(token.text != mask.text for token in added) else []
        ids = zip(NAMES, self.special_ids, strict=True)
        self._special = {role: AddedToken(tokens.names[role], index, special=True) for role, index in ids}
        self._special["mask"] = next(token for token in added if token.id == self.mask_id)
        self._new_tokens: tuple[str, ...] = ()
        self._set_added(added)

    def _set_added(self, added: Sequence[AddedToken]) -> None:
        # The pattern of the added tokens takes the first alternative that matches.
        self.added = tuple(sorted(added, key=lambda token: -len(token.text)))
        self._named = {token.id: token.text for token in (*self.added, *self._special.values())}
        self._pattern = added_token_pattern(self.added)
        self.vocab_size = max(self.vocabulary.size, *(index + 1 for index in self._named))
        self.sha256 = self._sha256()

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None, token: str | None = None) -> "Tokenizer":
        """The tokenizer of a folder or of a model on the Hugging Face Hub; no other files are read or downloaded.

        `revision` (a branch, tag or commit) and the access token `token` are for the Hub. Raises InputError for a name
        that is neither a folder nor a model on the Hub, and for a model without a tokenizer.
        """
        from deberta_jax.hub.download import resolve

        return cls(resolve(name, revision=revision, token=token, part="tokenizer"))

    def _special_id(self, role: str, token: str, added_ids: dict[str, int]) -> int:
        index = self.vocabulary.id_of(token)
        if index is None:
            index = added_ids.get(token)
        if index is None and role in self.vocabulary.default_ids:
            index = self.vocabulary.default_ids[role]
            while index >= self.vocabulary.size and index in added_ids.values():
                index += 1
        if index is None:
            raise InputError(
                f"{self.vocabulary.path}: {token} is missing; add it to the vocabulary (a DeBERTa vocabulary contains "
                f"{' '.join(NAMES.values())}), or set {role}_token in tokenizer_config.json"
            )
        return index

    def _sha256(self) -> str:
        outside = [
            (token.id, token.text)
            for token in self.added
            if self.vocabulary.id_of(token.text) != token.id or token.id not in self.special_ids
        ]
        if outside in ([], [(self.vocabulary.size, NAMES["mask"])]):
            return self.vocabulary.sha256
        return hashlib.sha256(f"{self.vocabulary.sha256}{sorted(outside)}".encode()).hexdigest()

    def with_tokens(self, tokens: Sequence[str]) -> "Tokenizer":
        """A tokenizer that also recognizes these tokens in a text, each as a single id.

        New ids follow `vocab_size`, in the order of `tokens`; a token of the vocabulary keeps its id. The rows of a
        model's embedding table are not changed: it must have at least `vocab_size` of them. `save` writes the tokens so
        that this package and transformers read the same ids. Raises InputError for a token that is not a string, is
        empty or contains only white space.
        """
        new = check_new_tokens(tokens)
        named = set(self._named.values())
        added, next_id = list(self.added), self.vocab_size
        for text in new:
            if text in named:
                continue
            index = self.vocabulary.id_of(text)
            if index is None:
                index, next_id = next_id, next_id + 1
            added.append(AddedToken(text, index))
        # `copy.copy` would read the files again.
        tokenizer = object.__new__(Tokenizer)
        tokenizer.__dict__.update(self.__dict__)
        tokenizer.__dict__.pop("_word_starts", None)
        tokenizer._new_tokens = (*self._new_tokens, *new)
        tokenizer._set_added(added)
        return tokenizer

    def __reduce__(self) -> tuple[Callable[[str, tuple[str, ...]], "Tokenizer"], tuple[str, tuple[str, ...]]]:
        # The path is absolute because a worker process may have another working folder.
        return _read_again, (str(self.path.absolute()), self._new_tokens)

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
        """Encode each text as [CLS] A [SEP], or with `pairs` as [CLS] A [SEP] B [SEP], padded to the longest sequence.

        Sequences of more than `max_length` tokens are truncated at the end of the longer text ("longest_first"), of the
        first text ("first") or of the second ("second"); with truncation None they raise InputError. With `stride`, a
        long text gives several sequences instead: windows that overlap by that many tokens.

        Sequences are padded to the shortest of `buckets` that fits, or to a multiple of `pad_to_multiple_of`, so that
        a stream of texts compiles a bounded number of programs. `max_length` defaults to the longest bucket;
        `buckets=(128,)` pads every batch to 128.
        """
        firsts = [texts] if isinstance(texts, str) else list(texts)
        seconds = [pairs] if isinstance(pairs, str) else list(pairs or [])
        if pairs is not None and len(firsts) != len(seconds):
            raise InputError(f"{len(firsts)} texts and {len(seconds)} pairs; give one pair for each text")
        options = BatchOptions(
            self.cls_id, self.sep_id, self.pad_id, max_length, truncation, stride, tuple(buckets), pad_to_multiple_of
        )
        encoded = self._encode([*firsts, *seconds])
        return make_batch(encoded[: len(firsts)], None if pairs is None else encoded[len(firsts) :], options)

    def encode(self, text: str) -> Int[np.ndarray, "T"]:
        """Ids of a text, without [CLS] and [SEP]."""
        check_encodable([text])
        segments = self._split(text)
        plain = [text[start:end] for start, end, index in segments if index is None]
        encoded = iter(self.vocabulary.encode_many(plain))
        ids = [next(encoded) if index is None else np.asarray([index], np.int32) for _, _, index in segments]
        return np.concatenate(ids) if ids else np.zeros(0, np.int32)

    def encode_many(self, texts: Sequence[str]) -> list[Int[np.ndarray, "T"]]:
        """Ids of the texts of a corpus, in which [MASK] and added tokens are plain text; uses all cores."""
        check_encodable(texts)
        return self.vocabulary.encode_many(texts)

    def encode_with_offsets(self, text: str) -> tuple[Int[np.ndarray, "T"], Int[np.ndarray, "T 2"]]:
        """Ids of a text, without [CLS] and [SEP], and the start and end of each token in characters.

        Offsets increase. They exclude white space, except white space inside a token; the span of a token of white
        space only is empty. All other characters are covered: a character that the normalizer deletes belongs to its
        neighbor. Two spans share at most one character with its combining marks, where several tokens come from that
        character (its bytes, or the letters of a ligature).
        """
        [encoded] = self._encode([text])
        return encoded.ids, encoded.offsets

    def _encode(self, texts: Sequence[str]) -> list[EncodedText]:
        check_encodable(texts)
        segments = [self._split(text) for text in texts]
        plain = [
            text[start:end]
            for text, parts in zip(texts, segments, strict=True)
            for start, end, index in parts
            if index is None
        ]
        encoded_plain = iter(self.vocabulary.encode_with_offsets(plain))
        encoded = []
        for parts in segments:
            ids, offsets = [np.zeros(0, np.int32)], [np.zeros((0, 2), np.int32)]
            for start, end, index in parts:
                if index is None:
                    plain_ids, plain_offsets = next(encoded_plain)
                    ids.append(plain_ids)
                    offsets.append(plain_offsets + np.int32(start))
                else:
                    ids.append(np.asarray([index], np.int32))
                    offsets.append(np.asarray([[start, end]], np.int32))
            joined = np.concatenate(ids)
            starts = self._word_starts[joined]
            starts[:1] = True
            encoded.append(EncodedText(joined, np.concatenate(offsets), starts))
        return encoded

    def _split(self, text: str) -> list[tuple[int, int, int | None]]:
        """Start, end and id of each added token in a text; the segments between them have the id None."""
        segments: list[tuple[int, int, int | None]] = []
        end = 0
        for match in self._pattern.finditer(text):
            group = match.lastindex or 0
            segments += [(end, match.start(), None), (*match.span(group), self.added[group - 1].id)]
            end = match.end()
        return [segment for segment in [*segments, (end, len(text), None)] if segment[0] < segment[1]]

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The text of token ids; special and added tokens are written by name, between spaces."""
        text = ""
        for named, run in itertools.groupby(map(int, ids), lambda index: index in self._named):
            group = list(run)
            part = " ".join(map(self.token, group)) if named else self.vocabulary.decode(group)
            text = f"{text} {part.removeprefix(' ')}" if text else part
        return text

    def save(self, folder: str | Path) -> None:
        """Write a tokenizer folder that this package and transformers 4 and 5 read with the same ids.

        Other settings of the original folder are kept. Each file is written atomically. Raises InputError if a file
        cannot be written.
        """
        write_tokenizer(Path(folder), self.vocabulary, self._special, self.added, self._settings)

    def token(self, index: SupportsInt) -> str:
        """The token with this id, as the vocabulary spells it."""
        return self._named.get(int(index)) or self.vocabulary.token(int(index))

    @functools.cached_property
    def _word_starts(self) -> Bool[np.ndarray, "V"]:
        return self.word_starts()

    def word_starts(self) -> Bool[np.ndarray, "V"]:
        """For each id, whether the token begins a word: with a leading space, as a single symbol, or as a named token.

        All other tokens continue a word (docs/numerics.md, "Tokenizers").
        """
        starts = np.ones(self.vocab_size, bool)
        starts[: self.vocabulary.size] = self.vocabulary.word_starts()
        starts[list(self._named)] = True
        return starts


def _read_again(path: str, new_tokens: tuple[str, ...]) -> Tokenizer:
    """The tokenizer that was pickled."""
    return Tokenizer(path).with_tokens(new_tokens)
