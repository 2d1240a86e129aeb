"""Rows of SuperGLUE's files to examples, as He et al. 2021 present them (docs/numerics.md, "Task inputs")."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.tasks.examples import ChoiceExample, EntityExample, Examples, ReadReport, TextExample
from deberta_jax.tasks.jsonl import numbered_objects
from deberta_jax.tasks.rows import UnusableRow, is_test, read_rows, text_in, unknown_label
from deberta_jax.tasks.task import Read

# A row may have several examples: the questions of a passage.
ParseRow = Callable[[dict[str, Any]], Iterator[Any]]
TRUTH_LABELS = "false", "true"
_PUNCTUATION = ".,;:!?\"')]"


def superglue_reader(parse_row: ParseRow) -> Read:
    """Return a reader of a file with one JSON object per line; a row that `parse_row` cannot parse is skipped."""

    def read(path: Path, split: str) -> Examples:
        def parse(row: dict[str, Any], report: ReadReport) -> list[Any]:
            try:
                examples = list(parse_row(row))
            except KeyError as error:
                raise UnusableRow(f"no field {error}") from None
            except (TypeError, ValueError, IndexError, AttributeError):
                raise UnusableRow("fields of the wrong type") from None
            if not is_test(split) and any(example.answer is None for example in examples):
                raise UnusableRow("no label")
            return examples

        return read_rows(path, lambda report: numbered_objects(path, report), parse)

    return read


def pair_parser(text: str, pair: str, labels: Sequence[str]) -> ParseRow:
    """Return a parser of rows with two texts, in fields of these names, and a label."""

    def parse(row: dict[str, Any]) -> Iterator[TextExample]:
        yield _text_example(row, text_in(row, text), text_in(row, pair), labels)

    return parse


def parse_copa(row: dict[str, Any]) -> Iterator[ChoiceExample]:
    """A possible cause comes before the premise, a possible effect after it."""
    premise, question = text_in(row, "premise"), row["question"]
    if question not in ("cause", "effect"):
        raise UnusableRow(f"unknown question {str(question)[:20]!r}")
    choices = [text_in(row, name) for name in ("choice1", "choice2")]
    pairs = tuple((choice, premise) if question == "cause" else (premise, choice) for choice in choices)
    label = row.get("label")
    if label not in (None, 0, 1):
        raise unknown_label(label)
    yield ChoiceExample(str(row["idx"]), pairs, None if label is None else int(label), extra={"idx": row["idx"]})


def parse_multirc(row: dict[str, Any]) -> Iterator[TextExample]:
    """Each answer option is an example; the options of a question are a group.

    An empty answer is an answer, and a question may be empty: the leaderboard requires a label for each answer.
    """
    passage = row["passage"]
    text = text_in(passage, "text")
    for question in passage["questions"]:
        for answer in question["answers"]:
            indices = (row["idx"], question["idx"], answer["idx"])
            label = answer.get("label")
            yield TextExample(
                "-".join(map(str, indices)),
                text,
                f"{_text_or_nothing(question, 'question')} {_text_or_nothing(answer, 'text')}".strip(),
                None if label is None else str(int(label)),
                group=f"{indices[0]}-{indices[1]}",
                extra={"indices": indices},
            )


def _text_or_nothing(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return "" if value is None else str(value).strip()


def parse_record(row: dict[str, Any]) -> Iterator[EntityExample]:
    """Each query of a passage is an example. The file gives the last character of an entity, not the end."""
    passage = row["passage"]
    text = passage["text"]
    entities = sorted({(int(entity["start"]), int(entity["end"]) + 1) for entity in passage["entities"]})
    if any(not 0 <= start < end <= len(text) or not text[start:end].strip() for start, end in entities):
        raise UnusableRow("entity outside the passage")
    if not entities:
        raise UnusableRow("no entity")
    for query in row["qas"]:
        if query["query"].count("@placeholder") != 1:
            raise UnusableRow("query without exactly one @placeholder")
        answers = query.get("answers")
        yield EntityExample(
            str(query["idx"]),
            text,
            query["query"],
            tuple(entities),
            None if answers is None else tuple(dict.fromkeys(answer["text"] for answer in answers)),
        )


def parse_wic(row: dict[str, Any]) -> Iterator[TextExample]:
    """The word is marked by asterisks in both sentences, so that a pair classifier suffices."""
    sentences = []
    for number in ("1", "2"):
        sentence, start, end = row[f"sentence{number}"], int(row[f"start{number}"]), int(row[f"end{number}"])
        if not 0 <= start < end <= len(sentence):
            raise UnusableRow("word outside the sentence")
        sentences.append(f"{sentence[:start]}*{sentence[start:end]}*{sentence[end:]}")
    yield _text_example(row, sentences[0], sentences[1], TRUTH_LABELS)


def parse_wsc(row: dict[str, Any]) -> Iterator[TextExample]:
    """The noun is marked by hashes and the pronoun by asterisks, as in Raffel et al. 2020.

    The file locates both by word number. If other words are at that position, the nearest match is marked.
    """
    target, text = row["target"], text_in(row, "text")
    words = list(re.finditer(r"\S+", text))
    spans = [
        (*_nearest_span(words, target[f"span{number}_text"], int(target[f"span{number}_index"])), sign)
        for number, sign in ((1, "#"), (2, "*"))
    ]
    for start, end, sign in sorted(spans, reverse=True):
        text = f"{text[:start]}{sign}{text[start:end]}{sign}{text[end:]}"
    yield _text_example(row, text, None, TRUTH_LABELS)


def _text_example(row: Mapping[str, Any], text: str, pair: str | None, labels: Sequence[str]) -> TextExample:
    label = row.get("label")
    name = None if label is None else str(label).lower()
    if name is not None and name not in labels:
        raise unknown_label(name)
    return TextExample(str(row["idx"]), text, pair, name, extra={"idx": row["idx"]})


def _nearest_span(words: Sequence[re.Match[str]], text: str, index: int) -> tuple[int, int]:
    """Return the (start, end) in characters of the words that equal a text, nearest to a word number."""
    target = [_plain(word) for word in text.split()]
    size = len(target)
    plain = [_plain(word.group()) for word in words]
    positions = [number for number in range(len(words) - size + 1) if plain[number : number + size] == target]
    if not target or not positions:
        raise UnusableRow("span is not in the text")
    position = min(positions, key=lambda number: abs(number - index))
    first, last = words[position], words[position + size - 1]
    start = first.start() + len(first.group()) - len(first.group().lstrip("\"'(["))
    return start, last.start() + len(last.group().rstrip(_PUNCTUATION))


def _plain(word: str) -> str:
    return word.strip(f"{_PUNCTUATION}([").lower()
