"""SuperGLUE (Wang et al. 2019): its files as the benchmark hands them out, and the files that it takes."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.tasks.examples import ChoiceExample, EntityExample, Examples, Kind, ReadReport, TaskData, TextExample
from deberta_jax.tasks.glue import ENTAILED
from deberta_jax.tasks.jsonl import numbered_objects
from deberta_jax.tasks.submissions import write_objects

_FILES = {"train": ("train.jsonl",), "dev": ("val.jsonl", "dev.jsonl"), "test": ("test.jsonl",)}
_TRUTH = "false", "true"
Rows = Callable[[dict[str, Any]], Iterator[Any]]


class _Skipped(Exception):
    """Why a row becomes no example, in a few words."""


def _reader(rows: Rows) -> Callable[[Path, str], Examples]:
    """Reads a file of objects, of each of which `rows` makes examples, one or several; what is skipped is a line."""

    def read(path: Path, split: str) -> Examples:
        account = ReadReport(str(path))
        examples: list[Any] = []
        for number, row in numbered_objects(path, account):
            try:
                its = list(rows(row))
                if not split.startswith("test") and any(_unlabelled(example) for example in its):
                    raise _Skipped("no label")
            except _Skipped as error:
                account.skip(str(error), number)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                account.skip(f"no {error}" if isinstance(error, KeyError) else "fields of another form", number)
            else:
                for example in its:
                    account.use()
                    examples.append(example)
        account.check()
        return Examples(examples, [account])

    return read


def _unlabelled(example: Any) -> bool:
    return (example.answers if isinstance(example, EntityExample) else example.label) is None


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise _Skipped(f"no text in {name}")
    return value.strip()


def _label(row: Mapping[str, Any], labels: Sequence[str]) -> str | None:
    if row.get("label") is None:
        return None
    name = str(row["label"]).lower()
    if name not in labels:
        raise _Skipped(f"label {name[:20]!r}")
    return name


def _pairs(text: str, pair: str, labels: Sequence[str]) -> Rows:
    def rows(row: dict[str, Any]) -> Iterator[TextExample]:
        yield TextExample(
            str(row["idx"]), _text(row, text), _text(row, pair), _label(row, labels), extra={"idx": row["idx"]}
        )

    return rows


def _writer(name: str, value: Callable[[Any], Any] = lambda label: label) -> Callable[..., list[Path]]:
    """Lines of idx and label."""

    def write(folder: Path, split: str, examples: Sequence[Any], predictions: Sequence[Any]) -> list[Path]:
        its = zip(examples, predictions, strict=True)
        lines = [{"idx": example.extra["idx"], "label": value(prediction)} for example, prediction in its]
        return write_objects(_path(folder, name, split), lines)

    return write


def _path(folder: Path, name: str, split: str) -> Path:
    return folder / (f"{name}.jsonl" if split == "test" else f"{name}-{split}.jsonl")


def _is_true(label: str) -> bool:
    return label == "true"


def _choices(row: dict[str, Any]) -> Iterator[ChoiceExample]:
    """Of a cause each choice comes first, of an effect the premise does (spec 8.1)."""
    premise, question = _text(row, "premise"), row["question"]
    if question not in ("cause", "effect"):
        raise _Skipped(f"question {str(question)[:20]!r}")
    choices = [_text(row, name) for name in ("choice1", "choice2")]
    pairs = tuple((choice, premise) if question == "cause" else (premise, choice) for choice in choices)
    label = row.get("label")
    if label not in (None, 0, 1):
        raise _Skipped(f"label {str(label)[:20]!r}")
    yield ChoiceExample(str(row["idx"]), pairs, None if label is None else int(label), extra={"idx": row["idx"]})


def _answers(row: dict[str, Any]) -> Iterator[TextExample]:
    """Each answer of each question of a passage is an example; those of a question are a group."""
    passage = row["passage"]
    text = _text(passage, "text")
    for question in passage["questions"]:
        for answer in question["answers"]:
            place = (row["idx"], question["idx"], answer["idx"])
            label = answer.get("label")
            yield TextExample(
                "-".join(map(str, place)),
                text,
                f"{_text(question, 'question')} {_text(answer, 'text')}",
                None if label is None else str(int(label)),
                group=f"{place[0]}-{place[1]}",
                extra={"place": place},
            )


def _write_answers(folder: Path, split: str, examples: Sequence[Any], predictions: Sequence[Any]) -> list[Path]:
    """Passages with their questions with their answers, as the leaderboard nests them."""
    passages: dict[Any, dict[Any, list[dict[str, Any]]]] = {}
    for example, prediction in zip(examples, predictions, strict=True):
        passage, question, answer = example.extra["place"]
        passages.setdefault(passage, {}).setdefault(question, []).append({"idx": answer, "label": int(prediction)})
    lines = [
        {
            "idx": passage,
            "passage": {"questions": [{"idx": question, "answers": its} for question, its in questions.items()]},
        }
        for passage, questions in passages.items()
    ]
    return write_objects(_path(folder, "MultiRC", split), lines)


def _entities(row: dict[str, Any]) -> Iterator[EntityExample]:
    """Each query of a passage is an example; the ends of entities are inclusive in the file."""
    passage = row["passage"]
    text = passage["text"]
    stretches = sorted({(int(one["start"]), int(one["end"]) + 1) for one in passage["entities"]})
    if any(not 0 <= start < end <= len(text) or not text[start:end].strip() for start, end in stretches):
        raise _Skipped("entity outside of the passage")
    if not stretches:
        raise _Skipped("no entity")
    for query in row["qas"]:
        if query["query"].count("@placeholder") != 1:
            raise _Skipped("query without one @placeholder")
        answers = query.get("answers")
        yield EntityExample(
            str(query["idx"]),
            text,
            query["query"],
            tuple(stretches),
            None if answers is None else tuple(dict.fromkeys(answer["text"] for answer in answers)),
        )


def _write_entities(folder: Path, split: str, examples: Sequence[Any], predictions: Sequence[Any]) -> list[Path]:
    lines = [{"idx": _whole(e.id), "label": label} for e, label in zip(examples, predictions, strict=True)]
    return write_objects(_path(folder, "ReCoRD", split), lines)


def _whole(name: str) -> int | str:
    return int(name) if name.isdecimal() else name


def _marked_pair(row: dict[str, Any]) -> Iterator[TextExample]:
    """The word in question between asterisks in both sentences, so that a classifier of pairs needs no more."""
    marked = []
    for number in ("1", "2"):
        sentence, start, end = row[f"sentence{number}"], int(row[f"start{number}"]), int(row[f"end{number}"])
        if not 0 <= start < end <= len(sentence):
            raise _Skipped("word outside of the sentence")
        marked.append(f"{sentence[:start]}*{sentence[start:end]}*{sentence[end:]}")
    yield TextExample(str(row["idx"]), marked[0], marked[1], _label(row, _TRUTH), extra={"idx": row["idx"]})


def _marked_text(row: dict[str, Any]) -> Iterator[TextExample]:
    """The noun between hashes and the pronoun between asterisks, in one text (as Raffel et al. 2020 mark them).

    Places are numbers of words; where the words there are others, the nearest like ones are meant.
    """
    target = row["target"]
    words = list(re.finditer(r"\S+", _text(row, "text")))
    stretches = [
        (*_found(words, target[f"span{number}_text"], int(target[f"span{number}_index"])), sign)
        for number, sign in ((1, "#"), (2, "*"))
    ]
    text = row["text"].strip()
    for start, end, sign in sorted(stretches, reverse=True):
        text = f"{text[:start]}{sign}{text[start:end]}{sign}{text[end:]}"
    yield TextExample(str(row["idx"]), text, None, _label(row, _TRUTH), extra={"idx": row["idx"]})


def _found(words: Sequence[re.Match[str]], text: str, index: int) -> tuple[int, int]:
    """The stretch of the words that a span's text is, nearest to a word's number."""
    wanted = [_plain(word) for word in text.split()]
    size = len(wanted)
    places = [
        place
        for place in range(len(words) - size + 1)
        if [_plain(word.group()) for word in words[place : place + size]] == wanted
    ]
    if not wanted or not places:
        raise _Skipped("span that is not in the text")
    place = min(places, key=lambda place: abs(place - index))
    first, last = words[place], words[place + size - 1]
    start = first.start() + len(first.group()) - len(first.group().lstrip("\"'(["))
    return start, last.start() + len(last.group().rstrip(".,;:!?\"')]"))


def _plain(word: str) -> str:
    return word.strip(".,;:!?\"'()[]").lower()


def _task(
    name: str,
    rows: Rows,
    labels: Sequence[str] = (),
    kind: Kind = "single_label",
    value: Callable[[Any], Any] = lambda label: label,
    files: Mapping[str, tuple[str, ...]] = _FILES,
) -> TaskData:
    return TaskData(kind, files, _reader(rows), tuple(labels), _writer(name, value))


TASKS: dict[str, TaskData] = {
    "boolq": _task("BoolQ", _pairs("passage", "question", _TRUTH), _TRUTH, value=_is_true),
    "cb": _task(
        "CB",
        _pairs("premise", "hypothesis", ("contradiction", "neutral", "entailment")),
        ("contradiction", "neutral", "entailment"),
    ),
    "copa": _task("COPA", _choices, kind="multiple_choice"),
    "multirc": TaskData("single_label", _FILES, _reader(_answers), ("0", "1"), _write_answers),
    "record": TaskData("entity_ranking", _FILES, _reader(_entities), (), _write_entities),
    "superglue-rte": _task("RTE", _pairs("premise", "hypothesis", ENTAILED), ENTAILED),
    "wic": _task("WiC", _marked_pair, _TRUTH, value=_is_true),
    "wsc": _task("WSC", _marked_text, _TRUTH, value=_is_true),
    "ax-b": _task(
        "AX-b", _pairs("sentence1", "sentence2", ENTAILED), ENTAILED, files={"test": ("AX-b.jsonl", "test.jsonl")}
    ),
    "ax-g": _task(
        "AX-g", _pairs("premise", "hypothesis", ENTAILED), ENTAILED, files={"test": ("AX-g.jsonl", "test.jsonl")}
    ),
}
