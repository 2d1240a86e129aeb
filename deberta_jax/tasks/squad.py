"""SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018): official data files and prediction files."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax.errors import InputError
from deberta_jax.tasks.examples import Examples, ReadReport, SpanExample
from deberta_jax.tasks.jsonl import load_json
from deberta_jax.tasks.rows import UnusableRow, is_test, read_rows
from deberta_jax.tasks.squad_metrics import score_squad, score_squad2, squad2_scores, squad_scores
from deberta_jax.tasks.submissions import write_lines
from deberta_jax.tasks.task import Task


class Question(NamedTuple):
    """A question as in the file, and the context of its paragraph."""

    context: Any
    values: Any


def read_questions(path: Path, split: str) -> Examples:
    """Return the questions of a file, in order. A wrong answer offset is replaced by that of the nearest occurrence."""
    ids: set[str] = set()

    def parse(question: Question, report: ReadReport) -> Iterator[SpanExample]:
        try:
            example = _example(question, report)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UnusableRow("no text, question or id") from None
        if example.id in ids:
            raise UnusableRow("duplicate id")
        if example.answers is None and not is_test(split):
            raise UnusableRow("no answers")
        ids.add(example.id)
        yield example

    return read_rows(path, lambda report: _questions(path), parse)


def _questions(path: Path) -> Iterator[tuple[str, Question]]:
    """Yield the position of each question in the file, and the question."""
    values = load_json(path)
    if not isinstance(values, dict) or not isinstance(values.get("data"), list):
        raise InputError(f'{path}: a SQuAD file has a list of articles in "data"')
    for number, article in enumerate(values["data"]):
        try:
            for index, paragraph in enumerate(article["paragraphs"]):
                for question in paragraph["qas"]:
                    name = question.get("id", "?") if isinstance(question, dict) else "?"
                    where = f"article {number}, paragraph {index}, question {name}"
                    yield where, Question(paragraph["context"], question)
        except (KeyError, TypeError):
            raise InputError(f"{path} article {number}: no paragraphs with context and questions") from None


def _example(question: Question, report: ReadReport) -> SpanExample:
    context, values = question
    if not context.strip() or not values["question"].strip():
        raise ValueError("empty")
    question_id, text = str(values["id"]), values["question"].strip()
    answers = [] if values.get("is_impossible") else values.get("answers")
    if answers is None:
        return SpanExample(question_id, text, context, None)
    spans = []
    for answer in answers:
        start = nearest_start(context, answer["text"], int(answer["answer_start"]))
        if start is None:
            raise UnusableRow("answer is not in the context")
        if start != answer["answer_start"]:
            report.repaired("answer offset")
        spans.append((answer["text"], start))
    return SpanExample(question_id, text, context, tuple(dict.fromkeys(spans)))


def nearest_start(context: str, text: str, start: int) -> int | None:
    """Return the start of the occurrence of a text nearest to `start`; None if there is none."""
    if not text:
        return None
    if start >= 0 and context.startswith(text, start):
        return start
    starts = [position for position in range(len(context)) if context.startswith(text, position)]
    return min(starts, key=lambda position: abs(position - start), default=None)


def score_squad_files(data: Path, predictions: Path, null_odds: Path | None = None) -> dict[str, float]:
    """Return the official scores of a prediction file for a data file, by the version of the data.

    As in the scorer of 2.0, a question is unanswered if its odds exceed 1. `without_prediction` counts questions that
    the prediction file lacks.
    """
    texts = load_json(predictions)
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise InputError(f"{predictions}: expected an object with the answer for each question id")
    questions = []
    for where, question in _questions(data):
        try:
            answers = tuple((str(answer["text"]), 0) for answer in question.values["answers"])
            questions.append(SpanExample(str(question.values["id"]), "", "", answers))
        except (KeyError, TypeError):
            raise InputError(f"{data} {where}: no id or no answers") from None
    predicted = [question for question in questions if question.id in texts]
    if not predicted:
        raise InputError(f"{predictions}: no answer for any question of {data}")
    missing = {"without_prediction": float(len(questions) - len(predicted))}
    if all(question.answers for question in questions) and null_odds is None:
        return {**squad_scores(questions, texts), **missing}
    odds = load_json(null_odds) if null_odds else {}
    if not isinstance(odds, dict) or not all(isinstance(value, float | int) for value in odds.values()):
        raise InputError(f"{null_odds}: expected an object with a number for each question id")
    num_unanswerable = sum(not question.answers for question in questions)
    scores = squad2_scores(predicted, texts, odds, texts, max_odds=1.0, num_unanswerable=num_unanswerable)
    return {**scores, **missing}


def _write_predictions(folder: Path, split: str, examples: Sequence[Any], predictions: Sequence[Any]) -> list[Path]:
    """Write the answers, and the best spans with probabilities."""
    best = {
        example.id: [{"text": text, "probability": probability} for text, probability in prediction.best]
        for example, prediction in zip(examples, predictions, strict=True)
    }
    texts = {example.id: prediction.text for example, prediction in zip(examples, predictions, strict=True)}
    return [
        *_write_object(folder / f"predictions-{split}.json", texts),
        *_write_object(folder / f"nbest_predictions-{split}.json", best),
    ]


def _write_predictions_and_odds(
    folder: Path, split: str, examples: Sequence[Any], predictions: Sequence[Any]
) -> list[Path]:
    """Write `null_odds`, too, which the scorer of 2.0 reads."""
    odds = {example.id: prediction.no_answer for example, prediction in zip(examples, predictions, strict=True)}
    paths = _write_predictions(folder, split, examples, predictions)
    return [*paths, *_write_object(folder / f"null_odds-{split}.json", odds)]


def _write_object(path: Path, values: Any) -> list[Path]:
    return write_lines(path, [json.dumps(values, ensure_ascii=False, indent=1)])


def _files(version: str) -> dict[str, tuple[str, ...]]:
    """The training set may be split into several files."""
    names = {split: (f"{split}-{version}.json",) for split in ("train", "dev", "test")}
    return names | {"train": (*names["train"], f"train-{version}*.json")}


SQUAD = (
    Task(
        name="squad",
        kind="extractive_qa",
        description="SQuAD 1.1: the answer to a question in a passage",
        files=_files("v1.1"),
        read=read_questions,
        labels=(),
        write=_write_predictions,
        metrics=score_squad,
        best_metric="f1",
    ),
    Task(
        name="squad2",
        kind="extractive_qa",
        description="SQuAD 2.0: the answer to a question in a passage, or no answer",
        may_lack_answers=True,
        files=_files("v2.0"),
        labels=(),
        read=read_questions,
        write=_write_predictions_and_odds,
        best_metric="f1",
        metrics=score_squad2,
    ),
)
