"""Entities found in tagged words, by the rules of conlleval: type and stretch must be right."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from deberta_jax.errors import InputError

# A kind, the first word and the last.
Chunk = tuple[str, int, int]


def chunks(tags: Sequence[str]) -> Iterator[Chunk]:
    """The entities of IOB2 tags; one begins with B, and with I where none of its kind goes on (conlleval)."""
    kind, start = "", 0
    for place, tag in enumerate([*tags, "O"]):
        sign, _, its = tag.partition("-")
        if kind and (sign != "I" or its != kind):
            yield kind, start, place - 1
            kind = ""
        if sign in ("B", "I") and not kind:
            kind, start = its, place


def score_entities(examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Precision, recall and F1 over all entities, F1 by type, and the part of words with the right tag.

    An entity ends with its sentence.
    """
    right: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    found: Counter[str] = Counter()
    same = words = 0
    for example, predicted in zip(examples, predictions, strict=True):
        if example.tags is None:
            continue
        start = 0
        for size in example.sentences:
            its = example.tags[start : start + size], predicted[start : start + size]
            golds, ours = (set(chunks(tags)) for tags in its)
            wanted.update(kind for kind, *_ in golds)
            found.update(kind for kind, *_ in ours)
            right.update(kind for kind, *_ in golds & ours)
            same += sum(a == b for a, b in zip(*its, strict=True))
            words += size
            start += size
    if not words:
        raise InputError("no word has a tag: there is nothing to score")
    precision, recall, f1 = _scores(right.total(), wanted.total(), found.total())
    scores = {"precision": precision, "recall": recall, "f1": f1, "accuracy": same / words}
    kinds = sorted(wanted | found)
    if len(kinds) > 1:
        scores |= {f"f1/{kind}": _scores(right[kind], wanted[kind], found[kind])[2] for kind in kinds}
    return scores


def score_words(examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """The part of words with the right tag, for tags that mark no entities."""
    return {"accuracy": score_entities(examples, predictions)["accuracy"]}


def _scores(right: int, wanted: int, found: int) -> tuple[float, float, float]:
    precision = right / found if found else 0.0
    recall = right / wanted if wanted else 0.0
    return precision, recall, 2 * right / (wanted + found) if wanted + found else 0.0
