"""The official rules of SQuAD 1.1 and 2.0 and of ReCoRD: answers normalised, exact match and F1 of words."""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deberta_jax.errors import InputError
from deberta_jax.tasks.examples import SpanExample
from deberta_jax.tasks.jsonl import whole_json
from deberta_jax.tasks.squad import all_questions

_SIGNS = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised(text: str) -> str:
    """In lower case, without ASCII punctuation and English articles, one space between words."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_SIGNS)).split())


def exact_match(found: str, wanted: str) -> float:
    """1 where two answers are the same once normalised."""
    return float(normalised(found) == normalised(wanted))


def word_f1(found: str, wanted: str) -> float:
    """F1 of the words that two answers share; of an answer without words 1 where the other has none either."""
    ours, theirs = normalised(found).split(), normalised(wanted).split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))


def _first_version_f1(found: str, wanted: str) -> float:
    """The first version's scorer gives 0 where no word is shared, be there words or not."""
    return word_f1(found, wanted) if normalised(found) and normalised(wanted) else 0.0


def score_squad(examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Exact match and F1 of SQuAD 1.1, in percent, the best over the answers given."""
    texts = {example.id: prediction.text for example, prediction in zip(examples, predictions, strict=True)}
    return _first_version(examples, texts)


def score_squad2(examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Exact match and F1 of SQuAD 2.0, in percent, of both kinds of question apart, and at the best threshold."""
    its = list(zip(examples, predictions, strict=True))
    texts = {example.id: prediction.text for example, prediction in its}
    odds = {example.id: prediction.no_answer for example, prediction in its}
    best = {example.id: prediction.best[0][0] if prediction.best else "" for example, prediction in its}
    return _second_version(examples, texts, odds, best)


def score_squad_files(data: Path, predictions: Path, null_odds: Path | None = None) -> dict[str, float]:
    """The figures of an official prediction file for an official data file, of the version that the data has.

    As the scorer of 2.0 has it, a question whose odds are above 1 has no answer.
    """
    texts = whole_json(predictions)
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise InputError(f"{predictions}: an object of answers by question id is wanted")
    asked = []
    for name, _, question in all_questions(data):
        try:
            answers = tuple((str(answer["text"]), 0) for answer in question["answers"])
            asked.append(SpanExample(str(question["id"]), "", "", answers))
        except (KeyError, TypeError):
            raise InputError(f"{data}, {name}: no id or no answers") from None
    there = [example for example in asked if example.id in texts]
    if not there:
        raise InputError(f"{predictions}: has an answer for no question of {data}")
    missing = {"without_prediction": float(len(asked) - len(there))}
    if all(example.answers for example in asked) and null_odds is None:
        return {**_first_version(asked, texts), **missing}
    odds = whole_json(null_odds) if null_odds else {}
    if not isinstance(odds, dict) or not all(isinstance(value, float | int) for value in odds.values()):
        raise InputError(f"{null_odds}: an object of numbers by question id is wanted")
    unanswered = sum(not example.answers for example in asked)
    return {**_second_version(there, texts, odds, texts, most=1.0, unanswered=unanswered), **missing}


def _first_version(examples: Sequence[Any], texts: Mapping[str, str]) -> dict[str, float]:
    exact, f1 = 0.0, 0.0
    its = [example for example in examples if example.answers is not None]
    for example in its:
        if example.id in texts:
            exact += _best(exact_match, texts[example.id], example)
            f1 += _best(_first_version_f1, texts[example.id], example)
    return {"exact_match": 100 * exact / len(its), "f1": 100 * f1 / len(its)}


def _best(score: Callable[[str, str], float], found: str, example: Any) -> float:
    return max((score(found, text) for text, _ in example.answers), default=0.0)


def _golds(example: Any) -> list[str]:
    """The answers of a question; those of which normalising leaves nothing are none, and without any it is \"\"."""
    return [text for text, _ in example.answers if normalised(text)] or [""]


def _second_version(
    examples: Sequence[Any],
    texts: Mapping[str, str],
    odds: Mapping[str, float],
    best: Mapping[str, str],
    most: float = math.inf,
    unanswered: int | None = None,
) -> dict[str, float]:
    """`best` are the answers that count where the threshold is looked for; odds above `most` are no answer.

    The scorer's best figures begin with all questions that have no answer, be they predicted or not.
    """
    its = [example for example in examples if example.answers is not None]
    answered = np.asarray([bool(e.answers) for e in its])
    silent = np.asarray([odds.get(e.id, 0.0) > most for e in its])
    exact, f1 = (
        np.where(silent, ~answered, [max(score(texts[e.id], gold) for gold in _golds(e)) for e in its])
        for score in (exact_match, word_f1)
    )
    scores = {"exact": 100 * float(exact.mean()), "f1": 100 * float(f1.mean()), "total": float(len(its))}
    for name, which in (("HasAns", answered), ("NoAns", ~answered)):
        if which.any():
            scores |= {
                f"{name}_exact": 100 * float(exact[which].mean()),
                f"{name}_f1": 100 * float(f1[which].mean()),
                f"{name}_total": float(which.sum()),
            }
    if odds:
        for name, score in (("exact", exact_match), ("f1", word_f1)):
            value, threshold = _best_threshold(its, odds, best, score, unanswered)
            scores |= {f"best_{name}": 100 * value, f"best_{name}_thresh": threshold}
    return scores


def _best_threshold(
    examples: Sequence[Any],
    odds: Mapping[str, float],
    best: Mapping[str, str],
    score: Callable[[str, str], float],
    unanswered: int | None = None,
) -> tuple[float, float]:
    """The best mean score of answering where no answer is at most so likely, and that threshold, 0 for never."""
    its = {example.id: example for example in examples}
    current = float(sum(not example.answers for example in examples) if unanswered is None else unanswered)
    highest, threshold = current, 0.0
    for name in sorted(odds, key=lambda name: odds[name]):
        if name not in its:
            continue
        if its[name].answers:
            current += max(score(best[name], gold) for gold in _golds(its[name]))
        elif best[name]:
            current -= 1
        if current > highest:
            highest, threshold = current, float(odds[name])
    return highest / len(examples), threshold


def best_threshold(examples: Sequence[Any], predictions: Sequence[Any]) -> float:
    """Of how much likelier no answer may be before it is given, what F1 of these examples is best with."""
    its = [(e, p) for e, p in zip(examples, predictions, strict=True) if e.answers is not None]
    odds = {example.id: prediction.no_answer for example, prediction in its}
    best = {example.id: prediction.best[0][0] if prediction.best else "" for example, prediction in its}
    return _best_threshold([example for example, _ in its], odds, best, word_f1)[1]


def score_record(examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Exact match and F1 of ReCoRD, the best over the answers, and their mean; in parts of one."""
    its = [(e.answers, p) for e, p in zip(examples, predictions, strict=True) if e.answers is not None]
    if not its:
        raise InputError("no query has answers: there is nothing to score")
    exact = float(np.mean([max((exact_match(p, text) for text in answers), default=0.0) for answers, p in its]))
    f1 = float(np.mean([max((_first_version_f1(p, text) for text in answers), default=0.0) for answers, p in its]))
    return {"exact_match": exact, "f1": f1, "mean": (exact + f1) / 2}
