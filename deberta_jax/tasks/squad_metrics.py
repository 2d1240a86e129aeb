"""The official metrics of SQuAD 1.1 and 2.0 and of ReCoRD: normalized answers, exact match, and F1 over words."""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from deberta_jax.errors import InputError

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
# (prediction, reference) -> a score from 0 to 1.
Score = Callable[[str, str], float]


def normalize_answer(text: str) -> str:
    """Lowercase, and remove ASCII punctuation, English articles and repeated spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> float:
    """Return 1 if two answers are equal after normalization."""
    return float(normalize_answer(prediction) == normalize_answer(reference))


def word_f1(prediction: str, reference: str) -> float:
    """Return the F1 of the words of two answers; if one has no words, 1 if the other has none either."""
    predicted, gold = normalize_answer(prediction).split(), normalize_answer(reference).split()
    if not predicted or not gold:
        return float(predicted == gold)
    shared = sum((Counter(predicted) & Counter(gold)).values())
    return 2 * shared / (len(predicted) + len(gold))


def _word_f1_v1(prediction: str, reference: str) -> float:
    """As `word_f1`, but 0 for two answers without words, as in the scorer of SQuAD 1.1."""
    return word_f1(prediction, reference) if normalize_answer(prediction) else 0.0


def score_squad(examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Return exact match and F1 of SQuAD 1.1 in percent, for the best of the reference answers."""
    texts = {example.id: prediction.text for example, prediction in zip(examples, predictions, strict=True)}
    return squad_scores(examples, texts)


def score_squad2(examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Return exact match and F1 of SQuAD 2.0 in percent: overall, with and without answer, at the best threshold."""
    texts = {example.id: prediction.text for example, prediction in zip(examples, predictions, strict=True)}
    odds, best = _odds_and_best(examples, predictions)
    return squad2_scores(examples, texts, odds, best)


def squad_scores(examples: Sequence[Any], texts: Mapping[str, str]) -> dict[str, float]:
    """Return the scores of SQuAD 1.1 for answers by question id; a missing answer scores 0."""
    answerable = [example for example in examples if example.answers is not None]
    predicted = [example for example in answerable if example.id in texts]
    exact, f1 = (
        sum(max((score(texts[e.id], text) for text, _ in e.answers), default=0.0) for e in predicted)
        for score in (exact_match, _word_f1_v1)
    )
    return {"exact_match": 100 * exact / len(answerable), "f1": 100 * f1 / len(answerable)}


def squad2_scores(
    examples: Sequence[Any],
    texts: Mapping[str, str],
    odds: Mapping[str, float],
    best: Mapping[str, str],
    max_odds: float = math.inf,
    num_unanswerable: int | None = None,
) -> dict[str, float]:
    """Return the scores of SQuAD 2.0 for answers by question id.

    A question whose `odds` exceed `max_odds` counts as unanswered. The best threshold is searched with the answers
    `best`. The official search counts all unanswerable questions of the data file, `num_unanswerable`, even those
    without a prediction.
    """
    examples = [example for example in examples if example.answers is not None]
    answerable = np.asarray([bool(example.answers) for example in examples])
    unanswered = np.asarray([odds.get(example.id, 0.0) > max_odds for example in examples])
    exact, f1 = (
        np.where(unanswered, ~answerable, [_best_score(score, texts[example.id], example) for example in examples])
        for score in (exact_match, word_f1)
    )
    scores = {"exact": 100 * float(exact.mean()), "f1": 100 * float(f1.mean()), "total": float(len(examples))}
    for name, subset in (("HasAns", answerable), ("NoAns", ~answerable)):
        if subset.any():
            scores |= {
                f"{name}_exact": 100 * float(exact[subset].mean()),
                f"{name}_f1": 100 * float(f1[subset].mean()),
                f"{name}_total": float(subset.sum()),
            }
    if odds:
        for name, score in (("exact", exact_match), ("f1", word_f1)):
            value, threshold = _search_threshold(examples, odds, best, score, num_unanswerable)
            scores |= {f"best_{name}": 100 * value, f"best_{name}_thresh": threshold}
    return scores


def best_threshold(examples: Sequence[Any], predictions: Sequence[Any]) -> float:
    """Return the threshold on `no_answer` at which the F1 of labelled examples is highest."""
    pairs = [(e, p) for e, p in zip(examples, predictions, strict=True) if e.answers is not None]
    labelled, predicted = [e for e, _ in pairs], [p for _, p in pairs]
    return _search_threshold(labelled, *_odds_and_best(labelled, predicted), word_f1)[1]


def score_record(examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Return exact match and F1 of ReCoRD for the best of the answers, and their mean, from 0 to 1."""
    pairs = [(e.answers, p) for e, p in zip(examples, predictions, strict=True) if e.answers is not None]
    if not pairs:
        raise InputError("no example has answers, so nothing can be scored")
    exact, f1 = (
        float(np.mean([max((score(p, text) for text in answers), default=0.0) for answers, p in pairs]))
        for score in (exact_match, _word_f1_v1)
    )
    return {"exact_match": exact, "f1": f1, "mean": (exact + f1) / 2}


def _odds_and_best(examples: Sequence[Any], predictions: Sequence[Any]) -> tuple[dict[str, float], dict[str, str]]:
    """Return the score of no answer, and the text of the best span, by question id."""
    odds = {example.id: prediction.no_answer for example, prediction in zip(examples, predictions, strict=True)}
    best = {
        example.id: prediction.best[0][0] if prediction.best else ""
        for example, prediction in zip(examples, predictions, strict=True)
    }
    return odds, best


def _best_score(score: Score, prediction: str, example: Any) -> float:
    """Score against the best reference; one without words is no answer, and without any the reference is empty."""
    references = [text for text, _ in example.answers if normalize_answer(text)] or [""]
    return max(score(prediction, reference) for reference in references)


def _search_threshold(
    examples: Sequence[Any],
    odds: Mapping[str, float],
    best: Mapping[str, str],
    score: Score,
    num_unanswerable: int | None = None,
) -> tuple[float, float]:
    """Return the highest mean score, and the odds up to which questions are answered with `best`; 0 for none."""
    by_id = {example.id: example for example in examples}
    if num_unanswerable is None:
        num_unanswerable = sum(not example.answers for example in examples)
    total = highest = float(num_unanswerable)
    threshold = 0.0
    for name in sorted(odds, key=lambda name: odds[name]):
        if name not in by_id:
            continue
        if by_id[name].answers:
            total += _best_score(score, best[name], by_id[name])
        elif best[name]:
            total -= 1
        if total > highest:
            highest, threshold = total, float(odds[name])
    return highest / len(examples), threshold
