"""Labelled examples as the files of a task have them, what is predicted for them, and an account of the rows read."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from deberta_jax.errors import InputError

Kind = Literal[
    "single_label", "regression", "multi_label", "token", "extractive_qa", "multiple_choice", "entity_ranking"
]
Split = Literal["train", "dev", "test"]
# Rows of a file that may be skipped as malformed before it is taken for a file of another kind.
_MOST_MALFORMED = 0.05
_NAMED = 5


class TextExample(NamedTuple):
    """A text or a pair (kinds labels, number, several); `label` is None where the file has none.

    A name, a number, or several names, by the kind. `group` is what a metric gathers examples by: MultiRC's question,
    MNLI's genre. `extra` is what a prediction file wants back.
    """

    id: str
    text: str
    pair: str | None
    label: str | float | tuple[str, ...] | None
    group: str = ""
    extra: Mapping[str, Any] = {}


class WordsExample(NamedTuple):
    """The words of a document and a tag for each (kind tags); `sentences` are their numbers of words, in order."""

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...] | None
    sentences: tuple[int, ...]


class SpanExample(NamedTuple):
    """A question and its context (kind span); answers as (text, start in characters), () for none, None if unknown."""

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...] | None


class ChoiceExample(NamedTuple):
    """Several choices, each the two texts that are read together (kind choice); `label` is the right one's place."""

    id: str
    pairs: tuple[tuple[str, str], ...]
    label: int | None
    group: str = ""
    extra: Mapping[str, Any] = {}


class EntityExample(NamedTuple):
    """A passage, a query with @placeholder, the entities' stretches of the passage, and the answers' texts."""

    id: str
    passage: str
    query: str
    entities: tuple[tuple[int, int], ...]
    answers: tuple[str, ...] | None


Example = TextExample | WordsExample | SpanExample | ChoiceExample | EntityExample


class SpanPrediction(NamedTuple):
    """The best span's text, how much likelier no answer is, and the best spans with their probabilities."""

    text: str
    no_answer: float
    best: tuple[tuple[str, float], ...] = ()


# What is predicted, by the kind: a label, a number, labels, a tag for each word, a span, a place, an entity's text.
Prediction = str | float | tuple[str, ...] | SpanPrediction | int
Metrics = Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]


@dataclasses.dataclass
class ReadReport:
    """What became of the rows of a file: read = used + skipped; the first that are malformed are named."""

    file: str
    read: int = 0
    used: int = 0
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)
    named: list[str] = dataclasses.field(default_factory=list)
    malformed: int = 0
    mended: dict[str, int] = dataclasses.field(default_factory=dict)

    def use(self) -> None:
        """Count a row that became an example."""
        self.read, self.used = self.read + 1, self.used + 1

    def skip(self, reason: str, line: int | str, *, malformed: bool = True) -> None:
        """Count a row that did not, with a reason in a few words, and the line or the row's name.

        A row that is as it should be, and not for this use, is not malformed.
        """
        self.read += 1
        self.skipped[reason] = self.skipped.get(reason, 0) + 1
        self.malformed += malformed
        if malformed and len(self.named) < _NAMED:
            where = f"line {line}" if isinstance(line, int) else line
            self.named.append(f"{self.file}, {where}: {reason}")

    def mend(self, what: str) -> None:
        """Count what was wrong in a row that is used all the same."""
        self.mended[what] = self.mended.get(what, 0) + 1

    def check(self) -> None:
        """Raise InputError where nothing is left, or so much is malformed that the file must be another."""
        first = f"; {self.named[0]}" if self.named else ""
        if not self.used:
            raise InputError(f"{self.file}: no example in {self.read:,} rows{first}")
        if self.malformed > _MOST_MALFORMED * self.read:
            raise InputError(
                f"{self.file}: {self.malformed:,} of {self.read:,} rows cannot be read{first}; is it the right file?"
            )

    def __str__(self) -> str:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in self.skipped.items())
        left = f", {self.read - self.used:,} skipped ({reasons})" if self.skipped else ""
        mended = "".join(f", {number:,} mended ({what})" for what, number in self.mended.items())
        return f"{self.file}: {self.read:,} rows, {self.used:,} used{left}{mended}"


class Examples(NamedTuple):
    """The examples of a split, and an account of each of its files."""

    examples: list[Any]
    accounts: list[ReadReport]


@dataclasses.dataclass(frozen=True)
class TaskData:
    """A task's files: where each split is, how it is read, how predictions are handed in.

    `labels` are the classes, in the published order; empty where there are none, or where the data says. `files` maps
    a split's name (train, dev, test, or dev_mismatched and the like) to the names that its file may have in the data
    folder, the official one first; all of the globs of one entry that match are read. `write` writes the prediction
    file that the leaderboard takes into a folder and returns the paths; None where there is none.
    """

    kind: Kind
    files: Mapping[str, tuple[str, ...]]
    read: Callable[[Path, str], Examples]
    labels: tuple[str, ...] = ()
    write: Callable[[Path, str, Sequence[Any], Sequence[Any]], list[Path]] | None = None
