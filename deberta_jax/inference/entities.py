"""Named entities: labels of tokens, merged into words and into spans of characters."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int

from deberta_jax.hub.heads import Model
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.models import require_head
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.inference.windows import Tokens, windows_pipeline
from deberta_jax.model.deberta import encoder_of
from deberta_jax.model.heads import TokenClassification
from deberta_jax.tokenizers.tokenizer import Tokenizer

_OUTSIDE = "O"
# Punctuation that may be inside a word.
_INSIDE_WORDS = ("'", "’", ".", "-", "‐", "&", "_", "@", "·")
_SCHEME = re.compile(r"([BIESLU])[-_](.+)", re.DOTALL)
# Prefixes without a type mark entities of one type, which has this name.
_BARE, _UNNAMED = set("BIESLU"), "entity"
# Thai, Lao, Burmese, Khmer, kana and Chinese characters.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")


class Entity(NamedTuple):
    """`text[start:end]`, its label without a prefix such as B-, and the mean probability of its words' labels."""

    label: str
    start: int
    end: int
    text: str
    probability: float


class Word(NamedTuple):
    """The span of a word in its text, its label, and the probability of the label."""

    start: int
    end: int
    label: str
    probability: float


class _Piece(NamedTuple):
    """A token that covers characters: its index among the tokens of the text, and its span."""

    token: int
    start: int
    end: int


def tag_entities(
    model: Model, tokenizer: Tokenizer, texts: Sequence[str], *, batching: Batching = BATCHING
) -> list[list[Entity]]:
    """The named entities of each text, in order; texts may be of any length.

    The first token of a word determines its label. The labels follow IOB1, IOB2 or BIOES (BILOU), or have no prefixes,
    in which case neighboring words with the same label are one entity; "O" is no entity. Longer texts are read in
    windows that overlap by a quarter; each token gets its label in the window in which it has the most context.

    Args:
        model: a model with the head "token_classification".
        tokenizer: its tokenizer.
        texts: the texts.
        batching: sizes of batches and the maximum number of tokens of a window.

    Returns:
        For each text its entities: `label` without a prefix such as B-, `start` and `end` in characters, `text`, and
        `probability`, the mean over its words.

    Raises:
        InputError: a model without the head "token_classification"; with its index, an invalid text.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("tner/deberta-v3-large-ontonotes5", "token_classification")
        >>> entities = dj.tag_entities(model, tokenizer, ["Marie lives in Paris."])[0]
        >>> all("Marie lives in Paris."[entity.start : entity.end] == entity.text for entity in entities)
        True
    """
    return complete(tag_entities_pipeline(model, tokenizer, batching=batching), texts)


def tag_entities_pipeline(
    model: Model, tokenizer: Tokenizer, *, batching: Batching = BATCHING
) -> Pipeline[list[Entity]]:
    """The pipeline of `tag_entities`; an example is `(text,)`."""
    require_head(model, "token_classification", "tag_entities")
    labels = encoder_of(model).config.labels
    prefixed = has_prefixes(labels)

    def read(text: str, tokens: Tokens) -> list[Entity]:
        return merge_words(text, split_words(text, tokens, labels), prefixed)

    return windows_pipeline(model, tokenizer, likeliest_labels, read, batching)


@jax.jit
def likeliest_labels(model: TokenClassification, inputs: ModelInputs) -> tuple[Int[Array, "B T"], Float[Array, "B T"]]:
    """The most likely label of each token, as an index, and its probability."""
    probabilities = label_probabilities(model, inputs)
    return probabilities.argmax(-1), probabilities.max(-1)


@jax.jit
def label_probabilities(model: TokenClassification, inputs: ModelInputs) -> Float[Array, "B T C"]:
    """The probability of each label for each token."""
    logits = model(inputs.input_ids, inputs.attention_mask, token_type_ids=inputs.token_type_ids)
    return jax.nn.softmax(logits, axis=-1)


def split_words(text: str, tokens: Tokens, labels: Sequence[str]) -> list[Word]:
    """The words of a text, each with the label of its first token.

    White space separates words. Punctuation is a word by itself, except inside a word, as in O'Brien and U.S. In
    scripts without spaces, each token is a word.
    """
    words: list[list[_Piece]] = []
    for index, (start, end) in enumerate(tokens.offsets.tolist()):
        if start == end:
            continue
        piece = _Piece(index, start, end)
        if words and not _starts_word(text, words[-1][-1], piece):
            words[-1].append(piece)
        else:
            words.append([piece])
    results = []
    for pieces in words:
        label, probability = (x[pieces[0].token].item() for x in tokens.outputs)
        results.append(Word(pieces[0].start, pieces[-1].end, labels[label], probability))
    return results


def _starts_word(text: str, previous: _Piece, piece: _Piece) -> bool:
    """Whether a piece starts a new word after the previous piece."""
    if piece.start < previous.end:
        return False
    if piece.start > previous.end or (_UNSPACED.match(text, piece.start) and piece.start > previous.start):
        return True
    return any(_is_punctuation(text, part) and not _is_inside_word(text, part) for part in (previous, piece))


def _is_punctuation(text: str, piece: _Piece) -> bool:
    return all(unicodedata.category(character)[0] in "PS" for character in text[piece.start : piece.end])


def _is_inside_word(text: str, piece: _Piece) -> bool:
    """Whether a piece is punctuation that words may contain, between two letters or digits."""
    before, after = text[piece.start - 1 : piece.start], text[piece.end : piece.end + 1]
    return text[piece.start : piece.end] in _INSIDE_WORDS and before.isalnum() and after.isalnum()


def merge_words(text: str, words: Sequence[Word], prefixed: bool) -> list[Entity]:
    """Entities from words; with `prefixed` labels, prefixes such as B- mark where an entity starts and ends."""
    entities: list[tuple[str, list[Word]]] = []
    is_open = False
    for word in words:
        if word.label == _OUTSIDE:
            is_open = False
            continue
        match = _SCHEME.fullmatch(word.label) if prefixed else None
        prefix, label = match.groups() if match else ("I", word.label)
        if prefixed and word.label in _BARE:
            prefix, label = word.label, _UNNAMED
        if is_open and prefix in "IEL" and entities[-1][0] == label:
            entities[-1][1].append(word)
        else:
            entities.append((label, [word]))
        is_open = prefix in "BI"
    return [_entity(text, label, words) for label, words in entities]


def _entity(text: str, label: str, words: Sequence[Word]) -> Entity:
    start, end = words[0].start, words[-1].end
    return Entity(label, start, end, text[start:end], sum(word.probability for word in words) / len(words))


def has_prefixes(labels: Sequence[str]) -> bool:
    """Whether labels have prefixes that mark the start of an entity; labels without a hyphen, such as X, are exempt."""
    if {"B", "I"} <= set(labels) <= _BARE | {_OUTSIDE}:
        return True
    hyphenated = [label for label in labels if "-" in label or "_" in label]
    matches = [_SCHEME.fullmatch(label) for label in hyphenated]
    return any(match and match[1] == "I" for match in matches) and all(matches)
