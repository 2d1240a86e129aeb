"""Entities of tagged words by the rules of conlleval: the type and both ends must be right."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from deberta_jax.errors import InputError

# An entity's type, its first word and its last word.
Chunk = tuple[str, int, int]


def chunks(tags: Sequence[str]) -> Iterator[Chunk]:
    """Yield the entities of IOB2 tags. As in conlleval, an I tag that continues no entity of its type begins one.

    The tags B and I mark entities of a type without a name.
    """
    kind: str | None = None
    start = 0
    for position, tag in enumerate([*tags, "O"]):
        prefix, _, tag_kind = tag.partition("-")
        if kind is not None and (prefix != "I" or tag_kind != kind):
            yield kind, start, position - 1
            kind = None
        if prefix in ("B", "I") and kind is None:
            kind, start = tag_kind, position


def score_entities(examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Return precision, recall and F1 over all entities, F1 by type if there are several, and the accuracy of tags.

    An entity ends with its sentence.
    """
    correct: Counter[str] = Counter()
    gold: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    correct_tags = num_words = 0
    for example, tags in zip(examples, predictions, strict=True):
        if example.tags is None:
            continue
        start = 0
        for length in example.sentence_lengths:
            sides = example.tags[start : start + length], tags[start : start + length]
            gold_chunks, predicted_chunks = (set(chunks(side)) for side in sides)
            gold.update(kind for kind, *_ in gold_chunks)
            predicted.update(kind for kind, *_ in predicted_chunks)
            correct.update(kind for kind, *_ in gold_chunks & predicted_chunks)
            correct_tags += sum(a == b for a, b in zip(*sides, strict=True))
            num_words += length
            start += length
    if not num_words:
        raise InputError("no word has a tag, so nothing can be scored")
    precision, recall, f1 = precision_recall_f1(correct.total(), gold.total(), predicted.total())
    scores = {"precision": precision, "recall": recall, "f1": f1, "accuracy": correct_tags / num_words}
    kinds = sorted(gold | predicted)
    if len(kinds) > 1:
        scores |= {f"f1/{kind}": precision_recall_f1(correct[kind], gold[kind], predicted[kind])[2] for kind in kinds}
    return scores


def score_tags(examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Return the accuracy of tags that do not mark entities, such as parts of speech."""
    return {"accuracy": score_entities(examples, predictions)["accuracy"]}


def precision_recall_f1(num_correct: int, num_gold: int, num_predicted: int) -> tuple[float, float, float]:
    """Return precision, recall and F1 of two sets from their sizes and that of their intersection; 0 for 0/0.

    Scikit-learn computes these from paired labels, but entities are spans, which have no pairs.
    """
    precision = num_correct / num_predicted if num_predicted else 0.0
    recall = num_correct / num_gold if num_gold else 0.0
    total = num_gold + num_predicted
    return precision, recall, 2 * num_correct / total if total else 0.0
