"""Which columns of a CoNLL file are the words and the tags, by their content."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from deberta_jax.errors import InputError
from deberta_jax.tasks.tagging import OUTSIDE, Tagging, is_entity_tag, is_valid_tag, tagging_of
from deberta_jax.tasks.text_files import TextFile

DOCUMENT = "-DOCSTART-"
COMMENT = "#"
# Types of chunks, which CoNLL-2000 and 2003 tag as entities are tagged.
_CHUNKS = {"NP", "VP", "PP", "ADVP", "ADJP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP", "PNP"}
# The share of rows or sentences that decides what a column contains.
_MOST = 0.95
_CONLL_U_COLUMNS, _CONLL_U_TAG = 10, 3
# A column with more different values has no tags.
_MAX_TAGS = 200


class Layout(NamedTuple):
    """The columns of a file, numbered from 0. `tag` is None if there are no tags, `number` if words have no numbers."""

    is_tabbed: bool
    num_columns: int
    word: int
    tag: int | None
    number: int | None
    tagging: Tagging
    tags: frozenset[str]
    notes: tuple[str, ...] = ()


class Line(NamedTuple):
    """The number, the text and the fields of a line."""

    number: int
    text: str
    fields: list[str]


def split_line(text: str, is_tabbed: bool) -> list[str]:
    """Return the fields of a line: between tabs if the file has tabs, else between runs of spaces.

    A no-break space separates nothing.
    """
    if is_tabbed and "\t" in text:
        fields = text.split("\t")
        return [field.strip(" ") or field for field in fields]
    return [field for field in re.split(r"[ \t]+", text) if field]


def numbered_lines(file: TextFile) -> Iterator[tuple[int, str]]:
    """Yield the lines without the space at their ends, except tabs and no-break spaces."""
    for number, text in file.lines():
        yield number, "" if not text.strip(" \t") else text.rstrip(" ")


def survey(files: Sequence[TextFile], *, words: int | None = None, tags: int | None = None, has_tags: bool) -> Layout:
    """Determine the layout of files; `words` and `tags` are columns that the user selected, numbered from 1.

    Raises InputError if no column, or more than one, has tags.
    """
    texts = [(file, [text for _, text in numbered_lines(file)]) for file in files]
    name = files[0].path
    lines = [text for _, lines in texts for text in lines if text and not text.startswith((COMMENT, DOCUMENT))]
    is_tabbed = 2 * sum("\t" in text for text in lines) >= len(lines) > 0
    sizes = Counter(len(split_line(text, is_tabbed)) for text in lines)
    num_columns = max(sizes, key=lambda size: (sizes[size], size), default=0)
    for option, column in (("words", words), ("tags", tags)):
        if column is not None and not 1 <= column <= num_columns:
            raise InputError(f"{name}: columns.{option} is {column}; the lines have {num_columns} columns")
    sentences = [sentence for _, lines in texts for sentence in _sentences(lines, is_tabbed, num_columns)]
    columns = [_Column(number, sentences) for number in range(num_columns)]
    notes: list[str] = []
    tag = tags - 1 if tags else _tag_column(name, columns, has_tags, notes)
    number = next((column.number for column in columns if column.is_index and column.number != tag), None)
    word = words - 1 if words else _word_column(columns, tag)
    if word is None:
        raise InputError(f"{name}: lines have {num_columns} columns; expected the word and its tag")
    counts = columns[tag].counts if tag is not None else Counter[str]()
    tagging = tagging_of(counts)
    if tagging == "plain" and counts[OUTSIDE]:
        tagging = "types"
    if tagging == "types":
        notes.append("tags have no B- and I-: neighboring words with the same tag are one entity")
    elif tagging == "plain":
        notes.append(f"the tags in column {(tag or 0) + 1} mark no entities; they are scored by accuracy")
    if (word, tag) not in ((0, num_columns - 1), (0, None)):
        notes.append(f"words are in column {word + 1}" + (f", tags in column {tag + 1}" if tag is not None else ""))
    valid = frozenset(value for value in counts if is_valid_tag(value, tagging))
    return Layout(is_tabbed, num_columns, word, tag, number, tagging, valid, tuple(notes))


def _sentences(lines: Iterable[str], is_tabbed: bool, num_columns: int) -> Iterator[list[list[str]]]:
    """Yield the fields of the regular lines of each sentence."""
    sentence: list[list[str]] = []
    for text in lines:
        if not text:
            if sentence:
                yield sentence
            sentence = []
        elif not text.startswith((COMMENT, DOCUMENT)):
            fields = split_line(text, is_tabbed)
            if len(fields) == num_columns and DOCUMENT not in fields[:2]:
                sentence.append(fields)
    if sentence:
        yield sentence


class _Column:
    """What a column contains."""

    def __init__(self, number: int, sentences: Sequence[Sequence[Sequence[str]]]):
        self.number = number
        self.counts = Counter(fields[number] for sentence in sentences for fields in sentence)
        self.total = self.counts.total()
        long = [[fields[number] for fields in sentence] for sentence in sentences if len(sentence) > 1]
        self.is_index = bool(long) and sum(map(_is_numbered, long)) >= _MOST * len(long)
        self.is_constant = bool(long) and sum(len(set(values)) == 1 for values in long) >= _MOST * len(long)

    @property
    def kinds(self) -> set[str]:
        """The types of entities."""
        return {tag.partition("-")[2] for tag in self.counts if tag != OUTSIDE and is_entity_tag(tag)}

    @property
    def num_entities(self) -> int:
        """The number of tags other than O."""
        return self.total - self.counts[OUTSIDE]

    @property
    def has_entity_tags(self) -> bool:
        """Whether nearly all values are O or have the prefix of a scheme, and some are not O."""
        valid = sum(count for tag, count in self.counts.items() if is_entity_tag(tag))
        return valid >= _MOST * self.total and any(is_entity_tag(tag) for tag in self.counts if tag != OUTSIDE)


def _is_numbered(values: Sequence[str]) -> bool:
    """Whether the numbers of words run up by one; ranges such as 1-2 and 1.1 are allowed between them."""
    numbers = [int(value) for value in values if value.isdecimal()]
    if len(numbers) < len(values) and not all(re.fullmatch(r"\d+([-.]\d+)?", value) for value in values):
        return False
    return len(numbers) > 1 and all(b == a + 1 for a, b in itertools.pairwise(numbers))


def _word_column(columns: Sequence[_Column], tag: int | None) -> int | None:
    """The first column that has neither tags nor numbers of words nor one value for a sentence."""
    others = [column for column in columns if column.number != tag]
    plain = [column.number for column in others if not column.is_index and not column.is_constant]
    return next(iter(plain or [column.number for column in others if not column.is_index]), None)


def _tag_column(path: Path, columns: Sequence[_Column], has_tags: bool, notes: list[str]) -> int | None:
    entities = [column for column in columns if column.has_entity_tags]
    if len(entities) > 1:
        entities = [column for column in entities if not column.kinds <= _CHUNKS] or entities
    if len(entities) > 1:
        numbers = " and ".join(str(column.number + 1) for column in entities)
        first = max(entities, key=lambda column: (column.num_entities, -column.number))
        if not all(column.kinds & first.kinds for column in entities):
            raise InputError(f"{path}: columns {numbers} have tags; select one of them with --columns.tags")
        notes.append(
            f"columns {numbers} have tags of the same types; column {first.number + 1}, which has the most entities, "
            "is used: select another with --columns.tags"
        )
        return first.number
    if entities:
        return entities[0].number
    outside = [column for column in columns[1:] if column.counts[OUTSIDE] and len(column.counts) <= _MAX_TAGS]
    if outside:
        return ([column for column in outside if len(column.counts) > 1] or outside)[-1].number
    if not has_tags:
        return None
    if len(columns) == _CONLL_U_COLUMNS:
        return _CONLL_U_TAG
    plain = [
        column
        for column in columns[1:]
        if not column.is_index and len(column.counts) <= min(_MAX_TAGS, max(20, column.total / 10))
    ]
    if not plain:
        raise InputError(
            f"{path}: lines have {len(columns)} columns, and none of them has tags; select columns with "
            "--columns.words and --columns.tags"
        )
    return plain[-1].number
