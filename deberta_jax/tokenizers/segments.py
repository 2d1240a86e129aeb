"""The special and added tokens in a text, found as Hugging Face tokenizers find them."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tokenizers
from jaxtyping import Int

from deberta_jax.tokenizers.special_tokens import AddedToken

# Ids of each text, and the start and end of each token in characters.
Encoded = tuple[Int[np.ndarray, "_"], Int[np.ndarray, "_ 2"]]
# What stands for the text between added tokens.
_PLAIN = "plain"


# A function from texts to ids and offsets that recognizes added tokens.
Encoder = Callable[[Sequence[str]], list[Encoded]]


class Segment(NamedTuple):
    """A part of a text: an added token with its id, or the text between two of them."""

    start: int
    end: int
    id: int | None


class SegmentEncoder:
    """Encodes the text between added tokens by a vocabulary, each segment on its own."""

    def __init__(self, encode: Callable[[Sequence[str]], list[Encoded]], added: Sequence[AddedToken]):
        self._encode = encode
        self._added = {token.text: token for token in added}
        # A longer token before the tokens that it begins with.
        names = sorted(self._added, key=lambda name: -len(name))
        self._any = re.compile("|".join(map(re.escape, names))) if names else None
        self._splitter = _splitter(added)
        by_id = self._splitter.get_added_tokens_decoder()
        self._by_id = {index: self._added[token.content] for index, token in by_id.items()}

    def __call__(self, texts: Sequence[str]) -> list[Encoded]:
        """Ids and offsets of each text."""
        all_segments = self.split(texts)
        plain = [
            text[segment.start : segment.end]
            for text, segments in zip(texts, all_segments, strict=True)
            for segment in segments
            if segment.id is None
        ]
        encoded = iter(self._encode(plain))
        return [_joined(segments, [next(encoded) for each in segments if each.id is None]) for segments in all_segments]

    def split(self, texts: Sequence[str]) -> list[list[Segment]]:
        """The segments of each text."""
        # Most texts contain no token.
        marked = [number for number, text in enumerate(texts) if self._any is not None and self._any.search(text)]
        split = self._splitter.encode_batch([texts[number] for number in marked], add_special_tokens=False)
        segments = [[Segment(0, len(text), None)] if text else [] for text in texts]
        for number, encoding in zip(marked, split, strict=True):
            pairs = zip(encoding.ids, encoding.offsets, strict=True)
            segments[number] = [self._segment(texts[number], index, *offsets) for index, offsets in pairs]
        return segments

    def _segment(self, text: str, index: int, start: int, end: int) -> Segment:
        added = self._by_id.get(index)
        if added is None:
            return Segment(start, end, None)
        # The span contains the white space that the token takes with it.
        start = text.index(added.text, start, end)
        return Segment(start, start + len(added.text), added.id)


def _splitter(added: Sequence[AddedToken]) -> tokenizers.Tokenizer:
    """A tokenizer of added tokens, and of one other token for all text between two of them."""
    plain = _PLAIN
    while any(token.text == plain for token in added):
        plain += "_"
    model = tokenizers.models.WordLevel({plain: 0}, unk_token=plain)
    splitter = tokenizers.Tokenizer(model)
    splitter.add_tokens([_library_token(token) for token in added])
    return splitter


def _library_token(token: AddedToken) -> tokenizers.AddedToken:
    """The token as Hugging Face tokenizers have it."""
    flags = {name: getattr(token, name) for name in ("lstrip", "rstrip", "single_word", "normalized", "special")}
    return tokenizers.AddedToken(token.text, **flags)


def _joined(segments: Sequence[Segment], encoded: Sequence[Encoded]) -> Encoded:
    """Ids and offsets of a text from those of its segments without added tokens."""
    ids, offsets, plain = [np.zeros(0, np.int32)], [np.zeros((0, 2), np.int32)], iter(encoded)
    for segment in segments:
        if segment.id is None:
            segment_ids, segment_offsets = next(plain)
            ids.append(segment_ids)
            offsets.append(segment_offsets + np.int32(segment.start))
        else:
            ids.append(np.asarray([segment.id], np.int32))
            offsets.append(np.asarray([[segment.start, segment.end]], np.int32))
    return np.concatenate(ids), np.concatenate(offsets)
