"""Examples as rows of tokens with what is wanted of them, by the kind of task."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from deberta_jax.errors import InputError
from deberta_jax.inference.encode import EncodedRows, encode
from deberta_jax.inference.entity_ranking import encode_entities
from deberta_jax.inference.question_answering import encode_contexts
from deberta_jax.inference.windows import assign_tokens, encode_windows, window_stride
from deberta_jax.tasks.examples import Kind, ReadReport
from deberta_jax.tokenizers.tokenizer import Tokenizer

# Examples that are tokenised together.
_CHUNK = 1024
_log = logging.getLogger(__name__)


class Feature(NamedTuple):
    """What goes into a batch as one: a row of tokens, or several of choices, and what is wanted of them.

    `second_starts` says where each row's second text begins. `targets` are arrays by name, one of them the `weights`.
    """

    rows: tuple[Int[np.ndarray, "T"], ...]
    second_starts: tuple[int, ...]
    targets: Mapping[str, Any]

    @property
    def length(self) -> int:
        return max(map(len, self.rows))


class Window(NamedTuple):
    """A row of an example without its padding; `positions` are those of its entities."""

    input_ids: Int[np.ndarray, "T"]
    offsets: Int[np.ndarray, "T 2"]
    sequence_ids: Int[np.ndarray, "T"]
    positions: Int[np.ndarray, "E P"] | None

    @property
    def second(self) -> int:
        inside = np.flatnonzero(self.sequence_ids == 1)
        return int(inside[0]) if len(inside) else len(self.input_ids)


def features_of(
    kind: Kind, tokenizer: Tokenizer, examples: Sequence[Any], labels: Sequence[str], limit: int
) -> tuple[list[Feature], ReadReport]:
    """What a training set becomes, of rows of at most `limit` tokens, and what became of the examples.

    Raises InputError where an example has no label.
    """
    make = _UNITS[kind]
    encoded, as_texts = ENCODED[kind]
    units: list[Feature] = []
    account = ReadReport("tokens")
    cut = 0
    index = {label: place for place, label in enumerate(labels)}
    for start in range(0, len(examples), _CHUNK):
        some = examples[start : start + _CHUNK]
        rows = encoded(tokenizer, [as_texts(example) for example in some], limit)
        windows = _windows(rows, len(some))
        cut += len(rows.truncated)
        for number, example in enumerate(some):
            if number in rows.errors:
                account.skip(_reason(rows.errors[number]), f"example {example.id}")
                continue
            units += make(example, windows[number], index, limit)
            account.use()
    account.check()
    if cut:
        _log.warning("%d of %d training examples have more than %d tokens and are cut", cut, len(examples), limit)
    return units, account


def _reason(error: InputError) -> str:
    return "without room for its text" if "leave" in str(error) else str(error).partition(":")[0]


def _windows(rows: EncodedRows, number: int) -> list[list[Window]]:
    found: list[list[Window]] = [[] for _ in range(number)]
    lengths = rows.batch.attention_mask.sum(1).tolist()
    for place, (source, length) in enumerate(zip(rows.batch.sources.tolist(), lengths, strict=True)):
        its = slice(length)
        found[source].append(
            Window(
                rows.batch.input_ids[place, its].copy(),
                rows.batch.offsets[place, its],
                rows.batch.sequence_ids[place, its],
                None if rows.positions is None else rows.positions[place],
            )
        )
    return found


def text_of_words(words: Sequence[str]) -> str:
    """Words as a text, a space between two."""
    return " ".join(words)


def first_tokens(words: Sequence[str], offsets: Int[np.ndarray, "T 2"]) -> Int[np.ndarray, "W"]:
    """For each word the number of its first token, -1 for one that has none; `offsets` are in `text_of_words`."""
    sizes = np.asarray([len(word) for word in words], np.int64)
    starts = np.cumsum(sizes + 1) - sizes - 1
    places = np.searchsorted(offsets[:, 1], starts, side="right")
    there = places < len(offsets)
    begins = offsets[np.minimum(places, len(offsets) - 1), 0] if len(offsets) else np.zeros(len(words), np.int64)
    return np.where(there & (begins < starts + sizes), places, -1)


def _whole(tokenizer: Tokenizer, examples: Sequence[tuple], limit: int) -> EncodedRows:
    return encode(tokenizer, examples, limit)


def _choices(tokenizer: Tokenizer, examples: Sequence[tuple], limit: int) -> EncodedRows:
    return encode(tokenizer, examples, limit, texts_of=list)


def word_rows(tokenizer: Tokenizer, examples: Sequence[tuple], limit: int) -> EncodedRows:
    """The windows of examples `(text,)`."""
    return encode_windows(tokenizer, examples, limit)


# How examples become rows, and what of an example does; the same for training and for prediction.
ENCODED: dict[Kind, tuple[Callable[[Tokenizer, Sequence[tuple], int], EncodedRows], Callable[[Any], tuple]]] = {
    "single_label": (_whole, lambda example: (example.text, example.pair)),
    "regression": (_whole, lambda example: (example.text, example.pair)),
    "multi_label": (_whole, lambda example: (example.text, example.pair)),
    "multiple_choice": (_choices, lambda example: example.pairs),
    "token": (word_rows, lambda example: (text_of_words(example.words),)),
    "extractive_qa": (encode_contexts, lambda example: (example.question, example.context)),
    "entity_ranking": (encode_entities, lambda example: (example.passage, example.query, example.entities)),
}


def _one(window: Window, **targets: Any) -> Feature:
    return Feature((window.input_ids,), (window.second,), targets)


def _label(example: Any, windows: Sequence[Window], index: Mapping[str, int], limit: int) -> Iterator[Feature]:
    yield _one(windows[0], labels=np.int32(index[_wanted(example, example.label)]), weights=np.float32(1))


def _number(example: Any, windows: Sequence[Window], index: Mapping[str, int], limit: int) -> Iterator[Feature]:
    yield _one(windows[0], labels=np.float32(_wanted(example, example.label)), weights=np.float32(1))


def _several(example: Any, windows: Sequence[Window], index: Mapping[str, int], limit: int) -> Iterator[Feature]:
    labels = np.zeros(len(index), np.float32)
    labels[[index[label] for label in _wanted(example, example.label)]] = 1
    yield _one(windows[0], labels=labels, weights=np.float32(1))


def _choice(example: Any, windows: Sequence[Window], index: Mapping[str, int], limit: int) -> Iterator[Feature]:
    targets = {"labels": np.int32(_wanted(example, example.label)), "weights": np.float32(1)}
    yield Feature(tuple(window.input_ids for window in windows), tuple(window.second for window in windows), targets)


def _tags(example: Any, windows: Sequence[Window], index: Mapping[str, int], limit: int) -> Iterator[Feature]:
    """Of a word of several tokens the first has its tag; a token is counted in one of its windows."""
    tags = _wanted(example, example.tags)
    chosen = assign_tokens([len(window.input_ids) for window in windows], limit)
    offsets = np.concatenate([window.offsets[which] for window, which in zip(windows, chosen, strict=True)])
    firsts = first_tokens(example.words, offsets)
    labels, weights = np.zeros(len(offsets), np.int32), np.zeros(len(offsets), np.float32)
    there = firsts >= 0
    labels[firsts[there]] = np.asarray([index[tag] for tag in tags], np.int32)[there]
    weights[firsts[there]] = 1
    end = 0
    for window, which in zip(windows, chosen, strict=True):
        its = np.zeros(len(window.input_ids), np.int32), np.zeros(len(window.input_ids), np.float32)
        for whole, part in zip((labels, weights), its, strict=True):
            part[which] = whole[end : end + len(which)]
        end += len(which)
        yield _one(window, labels=its[0], weights=its[1])


def _span(example: Any, windows: Sequence[Window], index: Mapping[str, int], limit: int) -> Iterator[Feature]:
    """The first of the answers that a window holds, [CLS] where it holds none.

    A window more is made for an answer that would fit into a row and is whole in none.
    """
    answers = _wanted(example, example.answers)
    stretches = [(start, start + len(text)) for text, start in answers if text]
    found = False
    for window in windows:
        places = next(filter(None, (answer_tokens(window, *stretch) for stretch in stretches)), None)
        found |= places is not None
        yield _one(window, labels=np.asarray(places or (0, 0), np.int32), weights=np.float32(1))
    if stretches and not found and (middle := _window_around(windows, *stretches[0], limit)) is not None:
        places = answer_tokens(middle, *stretches[0])
        yield _one(middle, labels=np.asarray(places or (0, 0), np.int32), weights=np.float32(1))


def answer_tokens(window: Window, start: int, end: int) -> tuple[int, int] | None:
    """The first and the last token of a stretch of the context; None where the window has not the whole of it."""
    inside = np.flatnonzero(window.sequence_ids == 1)
    if not len(inside):
        return None
    starts, ends = window.offsets[inside].T
    covered = inside[(starts < end) & (ends > start)]
    if not len(covered) or window.offsets[covered[0], 0] > start or window.offsets[covered[-1], 1] < end:
        return None
    return int(covered[0]), int(covered[-1])


def _window_around(windows: Sequence[Window], start: int, end: int, limit: int) -> Window | None:
    """A window with a stretch of the context in its middle, if a row has room for that."""
    first = windows[0]
    begin = first.second
    room = limit - begin - 1
    step = room - window_stride(limit)
    # Each window's tokens after those that the one before has, too.
    parts = [
        slice(begin if place == 0 else begin + room - step, len(window.input_ids) - 1)
        for place, window in enumerate(windows)
    ]
    ids = np.concatenate([window.input_ids[part] for window, part in zip(windows, parts, strict=True)])
    offsets = np.concatenate([window.offsets[part] for window, part in zip(windows, parts, strict=True)])
    covered = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start))
    if not 0 < len(covered) <= room:
        return None
    left = int(np.clip(covered[0] - (room - len(covered)) // 2, 0, max(len(ids) - room, 0)))
    its = slice(left, left + room)
    size = len(ids[its])
    tail = first.input_ids[-1:]
    return Window(
        np.concatenate([first.input_ids[:begin], ids[its], tail]),
        np.concatenate([first.offsets[:begin], offsets[its], np.zeros((1, 2), offsets.dtype)]),
        np.concatenate([first.sequence_ids[:begin], np.ones(size, np.int32), np.full(1, -1, np.int32)]),
        None,
    )


def _entities(example: Any, windows: Sequence[Window], index: Mapping[str, int], limit: int) -> Iterator[Feature]:
    """Windows that hold an entity; each of an answer's stretches is right (spec 8.3)."""
    answers = set(_wanted(example, example.answers))
    right = np.asarray([example.passage[start:end] in answers for start, end in example.entities], np.float32)
    for window in windows:
        assert window.positions is not None
        there = np.asarray((window.positions > 0).any(-1), np.float32)
        if there.any():
            yield _one(window, entity_positions=window.positions.astype(np.int32), labels=right, weights=there)


def _wanted(example: Any, label: Any) -> Any:
    if label is None:
        raise InputError(f"example {example.id} has no label; a training file has one in every row")
    return label


_UNITS: dict[Kind, Callable[[Any, Sequence[Window], Mapping[str, int], int], Iterator[Feature]]] = {
    "single_label": _label,
    "regression": _number,
    "multi_label": _several,
    "multiple_choice": _choice,
    "token": _tags,
    "extractive_qa": _span,
    "entity_ranking": _entities,
}
