"""Labelled examples, predictions, and the report on the rows of a file.

Each example type has an `id`, a property `answer` (None for an unlabelled example) and a property `inputs` (the texts
that the model reads, as a tuple that JSON can represent).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from deberta_jax.errors import InputError

# A file with a larger share of malformed rows is refused by default: it is probably in another format.
MAX_MALFORMED = 0.05
# The key of the probability of each label, in `extra` of an example with soft labels and in a batch.
PROBABILITIES = "probabilities"
# Malformed rows that are reported one by one.
_MAX_ERRORS = 5
_MAX_NOTES = 10


class TextExample(NamedTuple):
    """A text or a text pair (kinds single_label, regression, ordinal and multi_label).

    `label` is a label, a number, or a tuple of labels or of numbers, depending on the kind. Metrics may aggregate by
    `group` (MultiRC: the question; MNLI: the genre). `extra` holds values that the prediction file needs, and the
    probabilities of soft labels.
    """

    id: str
    text: str
    pair: str | None
    label: str | float | tuple[str, ...] | tuple[float, ...] | None
    group: str = ""
    extra: Mapping[str, Any] = {}

    @property
    def answer(self) -> str | float | tuple[str, ...] | tuple[float, ...] | None:
        return self.label

    @property
    def inputs(self) -> tuple[Any, ...]:
        return self.text, self.pair


class WordsExample(NamedTuple):
    """The words of a document and one tag per word (kind token); `sentence_lengths` are in words and in order."""

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...] | None
    sentence_lengths: tuple[int, ...]

    @property
    def answer(self) -> tuple[str, ...] | None:
        return self.tags

    @property
    def inputs(self) -> tuple[Any, ...]:
        return (self.words,)


class SpanExample(NamedTuple):
    """A question and its context (kind extractive_qa).

    `answers` are pairs (text, start in characters of the context); () means that the context does not answer the
    question, None that the answer is unknown.
    """

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...] | None

    @property
    def answer(self) -> tuple[tuple[str, int], ...] | None:
        return self.answers

    @property
    def inputs(self) -> tuple[Any, ...]:
        return self.question, self.context


class ChoiceExample(NamedTuple):
    """Several choices, each a pair of texts (kind multiple_choice); `label` is the index of the correct one."""

    id: str
    pairs: tuple[tuple[str, str], ...]
    label: int | None
    group: str = ""
    extra: Mapping[str, Any] = {}

    @property
    def answer(self) -> int | None:
        return self.label

    @property
    def inputs(self) -> tuple[Any, ...]:
        return (self.pairs,)


class EntityExample(NamedTuple):
    """A passage and a query with one @placeholder (kind entity_ranking).

    `entities` are (start, end) in characters of the passage, `answers` the texts of the correct entities.
    """

    id: str
    passage: str
    query: str
    entities: tuple[tuple[int, int], ...]
    answers: tuple[str, ...] | None

    @property
    def answer(self) -> tuple[str, ...] | None:
        return self.answers

    @property
    def inputs(self) -> tuple[Any, ...]:
        return self.passage, self.query, self.entities


class Seq2SeqExample(NamedTuple):
    """A source text and the text to generate from it (kind seq2seq)."""

    id: str
    source: str
    target: str | None

    @property
    def answer(self) -> str | None:
        return self.target

    @property
    def inputs(self) -> tuple[Any, ...]:
        return (self.source,)


class SpanPrediction(NamedTuple):
    """The text of the predicted answer, empty for no answer.

    `no_answer` is the score of "no answer" minus that of the best span; `best` are the best spans with probabilities.
    """

    text: str
    no_answer: float
    best: tuple[tuple[str, float], ...] = ()


# By kind: a label, a number or numbers, labels, one tag per word, a span, the index of a choice, the text of an entity,
# a text.
Prediction = str | float | tuple[str, ...] | tuple[float, ...] | SpanPrediction | int


@dataclasses.dataclass
class ReadReport:
    """Counts of the rows of a file: `read` is `used` plus the sum of `skipped`.

    `skipped` and `repairs` count rows by reason; `errors` locate the first malformed rows. `unlabelled` of the used
    rows have no label. `notes` say how the file was read where this is not obvious.
    """

    file: str
    read: int = 0
    used: int = 0
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)
    malformed: int = 0
    errors: list[str] = dataclasses.field(default_factory=list)
    repairs: dict[str, int] = dataclasses.field(default_factory=dict)
    unlabelled: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)

    def details(self) -> str:
        """The counts, and below them the notes and the first malformed rows."""
        return "\n  ".join([str(self), *self.notes, *self.errors])

    def note(self, text: str) -> None:
        """Add a note; the same one, and more than a few, are left out."""
        if text not in self.notes and len(self.notes) < _MAX_NOTES:
            self.notes.append(text)

    def use(self) -> None:
        """Count a row that became an example."""
        self.read, self.used = self.read + 1, self.used + 1

    def skip(self, reason: str, where: int | str, *, malformed: bool = True) -> None:
        """Count a row that is not used; `where` is its line number or its name in the file.

        A valid row that does not belong to the split, or that has no gold label, is not malformed.
        """
        self.read += 1
        self.skipped[reason] = self.skipped.get(reason, 0) + 1
        self.malformed += malformed
        if malformed and len(self.errors) < _MAX_ERRORS:
            location = f"line {where}" if isinstance(where, int) else where
            self.errors.append(f"{self.file} {location}: {reason}")

    def repaired(self, reason: str) -> None:
        """Count an error that was corrected in a row that is used."""
        self.repairs[reason] = self.repairs.get(reason, 0) + 1

    @property
    def _first_error(self) -> str:
        return f" (first error: {self.errors[0]})" if self.errors else ""

    def check_used(self) -> None:
        """Raise InputError if no row is used."""
        if not self.read:
            raise InputError(f"{self.file}: the file has no rows")
        if not self.used:
            raise InputError(f"{self.file}: none of its {self.read:,} rows can be used{self._first_error}")

    def check(self, max_malformed: float = MAX_MALFORMED) -> None:
        """Raise InputError if no row is used, or if a larger share of rows is malformed."""
        self.check_used()
        if self.malformed > max_malformed * self.read:
            raise InputError(
                f"{self.file}: {self.malformed:,} of {self.read:,} rows are malformed{self._first_error}; check that "
                "this is the right file, or allow more with --max-malformed"
            )

    def __str__(self) -> str:
        skipped = f", {self.read - self.used:,} skipped ({_counts(self.skipped)})" if self.skipped else ""
        repaired = f", repaired: {_counts(self.repairs)}" if self.repairs else ""
        unlabelled = f", {self.unlabelled:,} without a label" if self.unlabelled else ""
        return f"{self.file}: {self.read:,} rows, {self.used:,} used{skipped}{repaired}{unlabelled}"


def _counts(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {number:,}" for reason, number in reasons.items())


class Examples(NamedTuple):
    """The examples of a split, and one report per file."""

    examples: list[Any]
    reports: list[ReadReport]
