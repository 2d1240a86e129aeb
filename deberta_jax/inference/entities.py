"""Entities in texts: labels of tokens, merged to words and to spans of characters."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int

from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.rows import Row, encode, limit_of
from deberta_jax.inference.stream import Pipeline, complete
from deberta_jax.inference.windows import Tokens, stitched, stride_of
from deberta_jax.model.heads import TokenClassification
from deberta_jax.tokenizers.tokenizer import Tokenizer

_OUTSIDE = "O"
_INSIDE_WORDS = ("'", "’", ".", "-", "‐", "&", "_", "@", "·")
_SCHEME = re.compile(r"([BIESLU])[-_](.+)", re.DOTALL)
# Thai, Lao, Burmese, Khmer, kana and Chinese characters.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")


class Entity(NamedTuple):
    """`text[start:end]`, its label without B-, I- and the like, and the mean probability of its words' labels."""

    label: str
    start: int
    end: int
    text: str
    probability: float


class Word(NamedTuple):
    """A word's label and the probability of it."""

    start: int
    end: int
    label: str
    probability: float


def tag_entities(
    model: TokenClassification, tokenizer: Tokenizer, texts: Sequence[str], *, batching: Batching = BATCHING
) -> list[list[Entity]]:
    """The entities of each text, in their order, of texts of any length.

    Of a word of several pieces the first decides (`words_of`). Labels are IOB1,
    IOB2 or BIOES (BILOU), or plain ones, of which neighbours are one entity; "O" is none. Longer texts are read in
    windows that share a quarter; each token has its label from the window in which it has most context. Raises
    InputError with the number of what is no text.
    """
    return complete(tag_entities_pipeline(model, tokenizer, batching=batching), texts)


def tag_entities_pipeline(
    model: TokenClassification, tokenizer: Tokenizer, *, batching: Batching = BATCHING
) -> Pipeline[list[Entity]]:
    """The task of `tag_entities`, for `stream`; an example is `(text,)`."""
    limit = limit_of(model, batching)
    labels = model.deberta.config.labels

    def read(example: tuple, rows: list[Row]) -> list[Entity]:
        return merged(example[0], words_of(example[0], stitched(rows, limit), labels), _marked(labels))

    return Pipeline(
        model,
        likeliest_labels,
        lambda examples: encode(tokenizer, examples, max_length=limit, truncation="first", stride=stride_of(limit)),
        read,
        limit,
        tokenizer.pad_id,
        batching,
    )


@jax.jit
def likeliest_labels(
    model: TokenClassification,
    input_ids: Int[Array, "B T"],
    attention_mask: Int[Array, "B T"],
    token_type_ids: Int[Array, "B T"],
) -> tuple[Int[Array, "B T"], Float[Array, "B T"]]:
    """The likeliest label of each token and its probability."""
    probabilities = jax.nn.softmax(model(input_ids, attention_mask, token_type_ids=token_type_ids), axis=-1)
    return probabilities.argmax(-1), probabilities.max(-1)


def words_of(text: str, tokens: Tokens, labels: Sequence[str]) -> list[Word]:
    """Words, each with the label of its first piece; what is white space only is none.

    White space parts words, and so do signs, each a word of its own, but for those within one, as in O'Brien and
    U.S. In scripts without spaces each piece is a word.
    """
    stretches = [
        (number, *stretch) for number, stretch in enumerate(tokens.offsets.tolist()) if stretch[0] < stretch[1]
    ]
    groups: list[list[tuple[int, int, int]]] = []
    former: tuple[int, int, int] | None = None
    for piece in stretches:
        if former is None or _parted(text, former, piece):
            groups.append([])
        groups[-1].append(piece)
        former = piece
    words = []
    for group in groups:
        label, probability = (x[group[0][0]].item() for x in tokens.outputs)
        words.append(Word(group[0][1], group[-1][2], labels[label], probability))
    return words


def _parted(text: str, former: tuple[int, int, int], piece: tuple[int, int, int]) -> bool:
    """Whether a word ends between two pieces: number, start and end of each."""
    (_, begun, ended), (_, start, end) = former, piece
    if start < ended:
        return False
    if start > ended or (_UNSPACED.match(text, start) and start > begun):
        return True
    signs = _is_sign(text, former), _is_sign(text, piece)
    return (signs[0] and not _within(text, begun, ended)) or (signs[1] and not _within(text, start, end))


def _is_sign(text: str, piece: tuple[int, int, int]) -> bool:
    return all(unicodedata.category(sign)[0] in "PS" for sign in text[piece[1] : piece[2]])


def _within(text: str, start: int, end: int) -> bool:
    """Whether a sign stands between two letters or digits, and is one that words have inside."""
    return text[start:end] in _INSIDE_WORDS and text[start - 1 : start].isalnum() and text[end : end + 1].isalnum()


def merged(text: str, words: Sequence[Word], marked: bool) -> list[Entity]:
    """Spans of words of one label; `marked` labels say by B- and the like where one begins and ends."""
    entities: list[list[Word]] = []
    kinds: list[str] = []
    going_on = False
    for word in words:
        if word.label == _OUTSIDE:
            going_on = False
            continue
        match = _SCHEME.fullmatch(word.label) if marked else None
        sign, kind = match.groups() if match else ("I", word.label)
        if going_on and sign in "IEL" and kinds[-1] == kind:
            entities[-1].append(word)
        else:
            entities.append([word])
            kinds.append(kind)
        going_on = sign in "BI"
    return [
        Entity(
            kind,
            its[0].start,
            its[-1].end,
            text[its[0].start : its[-1].end],
            sum(word.probability for word in its) / len(its),
        )
        for kind, its in zip(kinds, entities, strict=True)
    ]


def _marked(labels: Sequence[str]) -> bool:
    """Whether labels say where an entity begins or goes on; such as X, without a hyphen, may stand beside those."""
    hyphened = [label for label in labels if "-" in label or "_" in label]
    matches = [_SCHEME.fullmatch(label) for label in hyphened]
    return any(match and match[1] == "I" for match in matches) and all(matches)
