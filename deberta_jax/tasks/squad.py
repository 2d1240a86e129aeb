"""SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018): official files, and prediction files as their scorers read them."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.tasks.examples import Examples, ReadReport, SpanExample, TaskData
from deberta_jax.tasks.jsonl import whole_json
from deberta_jax.tasks.submissions import write_lines


def read_questions(path: Path, split: str) -> Examples:
    """The questions of a file, in order; an answer that stands elsewhere in the context than said is found again."""
    account = ReadReport(str(path))
    examples: list[SpanExample] = []
    known: set[str] = set()
    for name, context, question in all_questions(path):
        try:
            example = _example(name, context, question, account)
        except (KeyError, TypeError, ValueError, AttributeError):
            account.skip("no text, question or id", name)
            continue
        if example is None:
            continue
        if example.id in known:
            account.skip("an id for the second time", name)
            continue
        if example.answers is None and not split.startswith("test"):
            account.skip("no answers", name)
            continue
        known.add(example.id)
        account.use()
        examples.append(example)
    account.check()
    return Examples(examples, [account])


def all_questions(path: Path) -> Iterator[tuple[str, Any, Any]]:
    """Each question with its context, and where it stands."""
    values = whole_json(path)
    if not isinstance(values, dict) or not isinstance(values.get("data"), list):
        raise InputError(f'{path}: no "data" with articles, which a file of SQuAD has')
    for number, article in enumerate(values["data"]):
        try:
            for place, paragraph in enumerate(article["paragraphs"]):
                for question in paragraph["qas"]:
                    name = question.get("id", "?") if isinstance(question, dict) else "?"
                    yield f"article {number}, paragraph {place}, question {name}", paragraph["context"], question
        except (KeyError, TypeError):
            raise InputError(f"{path}, article {number}: no paragraphs with context and questions") from None


def _example(name: str, context: Any, question: Any, account: ReadReport) -> SpanExample | None:
    if not context.strip() or not question["question"].strip():
        raise ValueError(name)
    answers = question.get("answers")
    if question.get("is_impossible"):
        answers = []
    if answers is None:
        return SpanExample(str(question["id"]), question["question"].strip(), context, None)
    found = []
    for answer in answers:
        start = _start(context, answer["text"], int(answer["answer_start"]))
        if start is None:
            account.skip("answer that is not in the context", name)
            return None
        if start != answer["answer_start"]:
            account.mend("offset of an answer")
        found.append((answer["text"], start))
    return SpanExample(str(question["id"]), question["question"].strip(), context, tuple(dict.fromkeys(found)))


def _start(context: str, text: str, start: int) -> int | None:
    """Where an answer stands, nearest to where it is said to; None where it stands nowhere."""
    if not text:
        return None
    if start >= 0 and context.startswith(text, start):
        return start
    places = [place for place in range(len(context)) if context.startswith(text, place)]
    return min(places, key=lambda place: abs(place - start), default=None)


def _writer(*, unanswered: bool) -> Callable[..., list[Path]]:
    def write(folder: Path, split: str, examples: Sequence[Any], predictions: Sequence[Any]) -> list[Path]:
        its = list(zip(examples, predictions, strict=True))
        files: dict[str, Any] = {
            "predictions": {example.id: prediction.text for example, prediction in its},
            "nbest_predictions": {
                example.id: [{"text": text, "probability": probability} for text, probability in prediction.best]
                for example, prediction in its
            },
        }
        if unanswered:
            files["null_odds"] = {example.id: prediction.no_answer for example, prediction in its}
        return [
            path
            for name, values in files.items()
            for path in write_lines(folder / f"{name}-{split}.json", [json.dumps(values, ensure_ascii=False, indent=1)])
        ]

    return write


TASKS: dict[str, TaskData] = {
    "squad": TaskData(
        "extractive_qa",
        {"train": ("train-v1.1.json", "train-v1.1*.json"), "dev": ("dev-v1.1.json",), "test": ("test-v1.1.json",)},
        read_questions,
        write=_writer(unanswered=False),
    ),
    "squad2": TaskData(
        "extractive_qa",
        {"train": ("train-v2.0.json", "train-v2.0*.json"), "dev": ("dev-v2.0.json",), "test": ("test-v2.0.json",)},
        read_questions,
        write=_writer(unanswered=True),
    ),
}
