"""The tokenizer: text to token ids, to batches and back, for the vocabularies of v1, v2 and v3."""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, SupportsInt

import numpy as np
from jaxtyping import Bool, Int, Int8

from deberta_jax.errors import InputError
from deberta_jax.tokenizers.batch import Batch, BatchOptions, EncodedText, Truncation, make_batch
from deberta_jax.tokenizers.characters import check_texts, text_list
from deberta_jax.tokenizers.formats import read_vocabulary
from deberta_jax.tokenizers.named_tokens import added_with_ids, default_name, further_tokens, special_id
from deberta_jax.tokenizers.save import write_tokenizer
from deberta_jax.tokenizers.scripts import unspaced_codes
from deberta_jax.tokenizers.segments import Encoded, Encoder
from deberta_jax.tokenizers.special_tokens import NAMES, AddedToken, check_new_tokens, read_special_tokens
from deberta_jax.tokenizers.template import class_template


class Tokenizer:
    """A vocabulary with its special and added tokens: texts to token ids, and back.

    Special and added tokens are recognized in a text, as models were fine-tuned with "A [SEP] B" in one text; with
    `split_special_tokens`, special tokens are read as plain text, which untrusted text needs.

    Args:
        path: a folder, or the file of a vocabulary (docs/models.md lists the formats).
        split_special_tokens: read special tokens in texts as plain text; by default as the folder says, else False.

    Attributes:
        pad_id, cls_id, sep_id, unk_id, mask_id: the ids of the special tokens.
        special_ids: all five of them.
        mask_token: the name of the mask token, "[MASK]" or "<mask>".
        vocab_size: one more than the highest id, [MASK] and added tokens included.
        settings: the content of `tokenizer_config.json`.
        sha256: a digest, which is equal for tokenizers that give the same ids.

    Raises:
        InputError: an invalid tokenizer; on a call, text with a lone surrogate, or a number of pairs other than that of
            the texts.

    Example:
        >>> import deberta_jax as dj
        >>> tokenizer = dj.Tokenizer.from_pretrained("microsoft/deberta-v3-base")
        >>> batch = tokenizer(["A man eats.", "A woman sings there."])
        >>> batch.input_ids.shape == batch.attention_mask.shape  # [B, T]
        True
        >>> tokenizer.decode(tokenizer.encode("A man eats."))
        'A man eats.'
    """

    def __init__(self, path: str | Path, *, split_special_tokens: bool | None = None):
        self.path = Path(path)
        tokens = read_special_tokens(self.path if self.path.is_dir() else None)
        self.vocabulary = read_vocabulary(self.path, tokens.settings)
        self.settings = tokens.settings
        splits = tokens.settings.get("split_special_tokens") if split_special_tokens is None else split_special_tokens
        self.split_special_tokens = bool(splits)
        added = added_with_ids(self.vocabulary, tokens)
        ids = {token.text: token.id for token in added.values()}
        names = {role: tokens.names.get(role) or default_name(self.vocabulary, role, ids) for role in NAMES}
        self.special_ids = tuple(special_id(self.vocabulary, role, names[role], ids) for role in NAMES)
        self.pad_id, self.cls_id, self.sep_id, self.unk_id, self.mask_id = self.special_ids
        self.mask_token = names["mask"]
        further = {token.text: token for token in tokens.further}
        self._special = {}
        for role, index in zip(NAMES, self.special_ids, strict=True):
            lstrip = role == "mask" and self.vocabulary.mask_strips_space
            default = further.get(names[role]) or AddedToken(names[role], index, lstrip=lstrip)
            token = added.pop(names[role], default)
            self._special[role] = dataclasses.replace(token, id=index, special=True)
        added |= further_tokens(
            self.vocabulary, tokens, {**added, **{token.text: token for token in self._special.values()}}
        )
        of_class = class_template(self.settings.get("tokenizer_class"), self.cls_id, self.sep_id)
        self._template = self.vocabulary.template or of_class
        self._new_tokens: tuple[str, ...] = ()
        self._set_added([*added.values()])

    def _set_added(self, added: Sequence[AddedToken]) -> None:
        self.added = tuple(sorted((*added, *self._special.values()), key=lambda token: token.id))
        self._named = {token.id: token.text for token in self.added}
        self.vocab_size = max(self.vocabulary.size, *(index + 1 for index in self._named))
        self.sha256 = self._sha256()
        self._encoders: dict[bool, Encoder] = {}

    def _encoder(self, split_special_tokens: bool | None) -> Encoder:
        """The function that encodes texts, made at the first call."""
        splits = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        if splits not in self._encoders:
            added = [token for token in self.added if not (splits and token.special)]
            self._encoders[splits] = self.vocabulary.encoder(added)
        return self._encoders[splits]

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None, token: str | None = None) -> "Tokenizer":
        """The tokenizer of a folder or of a model on the Hugging Face Hub; no other files are read or downloaded.

        Args:
            name: a folder, or the id of a model on the Hub.
            revision: a branch, tag or commit on the Hub.
            token: an access token of the Hub.

        Raises:
            InputError: a name that is neither a folder nor a model on the Hub; a model without a tokenizer.
        """
        from deberta_jax.hub.download import resolve

        return cls(resolve(name, revision=revision, token=token, part="tokenizer"))

    def _sha256(self) -> str:
        outside: list[tuple[Any, ...]] = []
        for token in self.added:
            options = [name for name in ("rstrip", "single_word", "normalized") if getattr(token, name)]
            if self.vocabulary.id_of(token.text) != token.id or token.id not in self.special_ids:
                outside.append((token.id, token.text, *options))
        if outside in ([], [(self.vocabulary.size, NAMES["mask"])]):
            return self.vocabulary.sha256
        return hashlib.sha256(f"{self.vocabulary.sha256}{sorted(outside)}".encode()).hexdigest()

    def with_tokens(self, tokens: Sequence[str]) -> "Tokenizer":
        """A tokenizer that also recognizes these tokens in a text, such as "<gene>", each as a single id.

        New ids follow `vocab_size`, in the order of `tokens`; a token of the vocabulary keeps its id. The rows of a
        model's embedding table are not changed: it must have at least `vocab_size` of them (`resized`). `save` writes
        the tokens so that this package and transformers read the same ids.

        Raises:
            InputError: a token that is not a string, is empty or contains only white space.
        """
        new = check_new_tokens(tokens)
        named = set(self._named.values())
        roles = {token.text for token in self._special.values()}
        added, next_id = [token for token in self.added if token.text not in roles], self.vocab_size
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

    def __reduce__(self) -> tuple[Callable[..., "Tokenizer"], tuple[str, tuple[str, ...], bool]]:
        # The path is absolute because a worker process may have another working folder.
        return _read_again, (str(self.path.absolute()), self._new_tokens, self.split_special_tokens)

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
        split_special_tokens: bool | None = None,
    ) -> Batch:
        """Encode each text as [CLS] A [SEP], or with `pairs` as [CLS] A [SEP] B [SEP], padded to the longest sequence.

        If the folder's tokenizer has another template, as RoBERTa's tokenizers have, it is used.

        Args:
            texts: a text, or a list of texts.
            pairs: a second text for each text.
            max_length: the maximum number of tokens T, special tokens included; by default the longest of `buckets`.
            truncation: shorten the longer text ("longest_first"), the "first" or the "second"; None raises InputError.
            stride: split a long text into windows that overlap by this many tokens, instead of truncating it.
            buckets: lengths to pad to: the shortest that fits. A stream of texts then compiles few programs.
            pad_to_multiple_of: pad to a multiple of this number of tokens.
            split_special_tokens: read special tokens as plain text; by default as the tokenizer.

        Returns:
            A `Batch` of numpy arrays [B, T]. B is the number of texts, or of windows with `stride`.

        Raises:
            InputError: lists of different lengths; invalid text; a sequence that is too long without truncation.
        """
        firsts = text_list("texts", texts)
        seconds = [] if pairs is None else text_list("pairs", pairs)
        if pairs is not None and len(firsts) != len(seconds):
            raise InputError(f"{len(firsts)} texts and {len(seconds)} pairs; give one pair for each text")
        options = BatchOptions(
            self._template, self.pad_id, max_length, truncation, stride, tuple(buckets), pad_to_multiple_of
        )
        encoded = self._encode([*firsts, *seconds], split_special_tokens)
        return make_batch(encoded[: len(firsts)], None if pairs is None else encoded[len(firsts) :], options)

    def encode(self, text: str, *, split_special_tokens: bool | None = None) -> Int[np.ndarray, "T"]:
        """Ids [T] of a text, without [CLS] and [SEP] around it."""
        check_texts([text])
        [(ids, _)] = self._encoder(split_special_tokens)([text])
        return ids

    def encode_many(self, texts: Sequence[str]) -> list[Int[np.ndarray, "T"]]:
        """Ids [T] of each text of a corpus, in which special and added tokens are plain text; uses all cores."""
        check_texts(texts)
        return self.vocabulary.encode_many(texts)

    def encode_with_offsets(self, text: str, *, split_special_tokens: bool | None = None) -> Encoded:
        """Ids [T] of a text, as `encode`, and the start and end of each token [T, 2] in characters of the text.

        Offsets increase. They exclude white space, except white space inside a token; the span of a token of white
        space only is empty. All other characters are covered: a character that the normalizer deletes belongs to its
        neighbor. Two spans share at most one character with its combining marks, where several tokens come from that
        character (its bytes, or the letters of a ligature).
        """
        [encoded] = self._encode([text], split_special_tokens)
        return encoded.ids, encoded.offsets

    def _encode(self, texts: Sequence[str], split_special_tokens: bool | None) -> list[EncodedText]:
        check_texts(texts)
        encoded = []
        for ids, offsets in self._encoder(split_special_tokens)(texts):
            word_starts = self._word_starts[ids]
            word_starts[:1] = True
            encoded.append(EncodedText(ids, offsets, word_starts))
        return encoded

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The text of token ids; special and added tokens are written by name, between spaces.

        Raises InputError for an id outside the vocabulary.
        """
        text, numbers = "", [self._checked_id(index) for index in ids]
        # An id between the vocabulary and added tokens may have no token.
        numbers = [index for index in numbers if index < self.vocabulary.size or index in self._named]
        for named, run in itertools.groupby(numbers, lambda index: index in self._named):
            group = list(run)
            part = " ".join(map(self.token, group)) if named else self.vocabulary.decode(group)
            text = f"{text} {part.removeprefix(' ')}" if text else part
        return text

    def save(self, folder: str | Path) -> None:
        """Write a tokenizer folder that this package and transformers 4 and 5 read with the same ids.

        Other settings of the original folder are kept. Each file is written atomically. Raises InputError if a file
        cannot be written.
        """
        write_tokenizer(Path(folder), self.vocabulary, self._special, self.added, self._template, self.settings)

    def token(self, index: SupportsInt) -> str:
        """The token with this id, as the vocabulary spells it; raises InputError for an id outside the vocabulary."""
        number = self._checked_id(index)
        return self._named.get(number) or (self.vocabulary.token(number) if number < self.vocabulary.size else "")

    def _checked_id(self, index: SupportsInt) -> int:
        number = int(index)
        if not 0 <= number < self.vocab_size:
            raise InputError(f"id {number} is not in the vocabulary: its ids are 0 to {self.vocab_size - 1}")
        return number

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

    def unspaced(self) -> Int8[np.ndarray, "V"]:
        """For each id, 1 for a token of a script without spaces, 2 for one that continues a character, else 0."""
        return unspaced_codes([self.token(index) for index in range(self.vocab_size)])


def _read_again(path: str, new_tokens: tuple[str, ...], split_special_tokens: bool) -> Tokenizer:
    """The tokenizer that was pickled."""
    return Tokenizer(path, split_special_tokens=split_special_tokens).with_tokens(new_tokens)
