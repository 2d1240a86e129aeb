"""Entities in texts: labels of tokens, merged to words and to spans of characters."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from deberta_jax.hub.tokenizer import Tokenizer
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.inference.rows import Row, encode, limit_of
from deberta_jax.inference.stream import Task, complete
from deberta_jax.inference.windows import Tokens, stitched, stride_of
from deberta_jax.model.heads import TokenClassification

_OUTSIDE = "O"
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


def tag(
    model: TokenClassification, tokenizer: Tokenizer, texts: Sequence[str], *, batching: Batching = BATCHING
) -> list[list[Entity]]:
    """The entities of each text, in their order, of texts of any length.

    Of a word of several pieces the first decides; scripts without spaces have words of one piece. Labels are IOB1,
    IOB2 or BIOES (BILOU), or plain ones, of which neighbours are one entity; "O" is none. Longer texts are read in
    windows that share a quarter; each token has its label from the window in which it has most context. Raises
    InputError with the number of what is no text.
    """
    return complete(tagging(model, tokenizer, batching=batching), texts)


def tagging(model: TokenClassification, tokenizer: Tokenizer, *, batching: Batching = BATCHING) -> Task[list[Entity]]:
    """The task of `tag`, for `stream`; an example is `(text,)`."""
    limit = limit_of(model, batching)
    labels = model.deberta.config.labels

    def read(example: tuple, rows: list[Row]) -> list[Entity]:
        return merged(example[0], words_of(example[0], stitched(rows, limit), labels), _marked(labels))

    return Task(
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
    input_mask: Int[Array, "B T"],
    token_type_ids: Int[Array, "B T"],
) -> tuple[Int[Array, "B T"], Float[Array, "B T"]]:
    """The likeliest label of each token and its probability."""
    probabilities = jax.nn.softmax(model(input_ids, input_mask, token_type_ids=token_type_ids), axis=-1)
    return probabilities.argmax(-1), probabilities.max(-1)


def words_of(text: str, tokens: Tokens, labels: Sequence[str]) -> list[Word]:
    """Words, each with the label of its first piece; what is white space only is none.

    In scripts without spaces each piece is a word.
    """
    places = tokens.offsets[:, 0]
    unspaced = [bool(_UNSPACED.match(text, place)) for place in places.tolist()]
    begins = tokens.word_starts | (np.asarray(unspaced, bool) & (np.diff(places, prepend=-1) > 0))
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(begins))[: len(starts)]
    words = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        stretches = tokens.offsets[start:end]
        stretches = stretches[stretches[:, 0] < stretches[:, 1]]
        if len(stretches):
            label, probability = (x[start].item() for x in tokens.outputs)
            words.append(Word(int(stretches[0, 0]), int(stretches[-1, 1]), labels[label], probability))
    return words


def merged(text: str, words: Sequence[Word], marked: bool) -> list[Entity]:
    """Spans of words of one label; `marked` labels say by B- and the like where one begins and ends."""
    entities: list[list[Word]] = []
    kinds: list[str] = []
    going_on = False
    for word in words:
        if word.label == _OUTSIDE:
            going_on = False
            continue
        sign, kind = _parts(word.label) if marked else ("I", word.label)
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
    return all(_SCHEME.fullmatch(label) for label in labels if label != _OUTSIDE)


def _parts(label: str) -> tuple[str, str]:
    match = _SCHEME.fullmatch(label)
    assert match is not None
    return match[1], match[2]
