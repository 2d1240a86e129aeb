"""Tagged words in CoNLL's format, 2 to 5 columns, in the schemes IOB1, IOB2 and BIOES."""

import codecs
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from deberta_jax.errors import InputError
from deberta_jax.tasks.conll_metrics import score_entities
from deberta_jax.tasks.examples import Examples, ReadReport, WordsExample
from deberta_jax.tasks.rows import is_test
from deberta_jax.tasks.submissions import write_lines
from deberta_jax.tasks.task import Task

Scheme = Literal["IOB1", "IOB2", "BIOES"]
OUTSIDE = "O"
_DOCUMENT = "-DOCSTART-"
_MAX_COLUMNS = 5
# BILOU and BMES are BIOES with other letters.
_LETTERS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}


class Line(NamedTuple):
    """The line of a word: its number and its fields."""

    number: int
    fields: list[str]


Sentence = list[Line]


def read_words(path: Path, split: str) -> Examples:
    """Return the documents of a file, with tags in IOB2. Without -DOCSTART- lines each sentence is a document.

    The first column is the word, the last its tag; a test set may have words only.
    """
    report = ReadReport(str(path))
    documents = list(_documents(path, report))
    columns = {len(line.fields) for document in documents for sentence in document for line in sentence}
    num_columns = max(columns, default=0)
    if num_columns > _MAX_COLUMNS or (num_columns == 1 and not is_test(split)):
        raise InputError(
            f"{path}: lines have up to {num_columns} columns; expected 2 to {_MAX_COLUMNS}, the word first and its tag "
            "last"
        )
    usable = [[_usable(sentence, num_columns, report) for sentence in document] for document in documents]
    report.check()
    examples = []
    has_tags = num_columns > 1
    scheme = scheme_of([_tags(sentence) for document in usable for sentence in document]) if has_tags else "IOB2"
    for number, document in enumerate(usable):
        sentences = [sentence for sentence in document if sentence]
        if sentences:
            words = tuple(line.fields[0] for sentence in sentences for line in sentence)
            tags = (
                tuple(tag for sentence in sentences for tag in to_iob2(_tags(sentence), scheme)) if has_tags else None
            )
            examples.append(WordsExample(str(number), words, tags, tuple(map(len, sentences))))
    return Examples(examples, [report])


def _usable(sentence: Sentence, num_columns: int, report: ReadReport) -> Sentence:
    """Return the lines of a sentence with the right number of columns and a valid tag; report all lines."""
    lines = []
    for line in sentence:
        if len(line.fields) != num_columns:
            report.skip(f"{len(line.fields)} columns instead of {num_columns}", line.number)
        elif num_columns > 1 and not is_entity_tag(line.fields[-1]):
            report.skip(f"invalid tag {line.fields[-1][:20]!r}", line.number)
        else:
            report.use()
            lines.append(line)
    return lines


def _tags(sentence: Sentence) -> list[str]:
    return [line.fields[-1] for line in sentence]


def _documents(path: Path, report: ReadReport) -> Iterator[list[Sentence]]:
    """Yield the documents that have words, as lists of sentences."""
    documents: list[list[Sentence]] = [[[]]]
    has_marks = False
    for line in _lines(path, report):
        if not line.fields:
            documents[-1].append([])
        elif line.fields[0] == _DOCUMENT:
            has_marks = True
            documents.append([[]])
        else:
            documents[-1][-1].append(line)
    for document in documents:
        sentences = [sentence for sentence in document if sentence]
        if not has_marks:
            yield from ([sentence] for sentence in sentences)
        elif sentences:
            yield sentences


def _lines(path: Path, report: ReadReport) -> Iterator[Line]:
    """Yield all lines, without fields if they are empty; a line that is not UTF-8 is reported as skipped."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    for number, raw in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        try:
            text = raw.decode().strip()
        except UnicodeDecodeError:
            report.skip("not UTF-8", number)
            continue
        # Between tabs a column may be empty; runs of spaces are one separator.
        yield Line(number, text.split("\t") if "\t" in text and " " not in text else text.split())


def is_entity_tag(tag: str) -> bool:
    """Whether a tag is O, or the prefix of a scheme with an entity type."""
    prefix, hyphen, kind = tag.partition("-")
    return tag == OUTSIDE or (prefix in _LETTERS and bool(hyphen) and bool(kind))


def scheme_of(sentences: Sequence[Sequence[str]]) -> Scheme:
    """Return the scheme of tags.

    It is BIOES if there are prefixes other than B and I, IOB1 if an entity begins with I, and IOB2 otherwise.
    """
    prefixes = {tag.partition("-")[0] for sentence in sentences for tag in sentence}
    if prefixes - {"B", "I", OUTSIDE}:
        return "BIOES"
    for sentence in sentences:
        previous = OUTSIDE
        for tag in sentence:
            if tag.startswith("I-") and previous[2:] != tag[2:]:
                return "IOB1"
            previous = tag
    return "IOB2"


def to_iob2(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """Return the tags of a sentence with B at the start of each entity and I inside it."""
    converted: list[str] = []
    # The type of the entity that the next word may continue.
    open_kind: str | None = None
    for tag in tags:
        if tag == OUTSIDE:
            converted.append(OUTSIDE)
            open_kind = None
            continue
        prefix, _, kind = tag.partition("-")
        prefix = _LETTERS[prefix]
        continues = prefix in "IE" and open_kind == kind
        converted.append(f"{'I' if continues else 'B'}-{kind}")
        open_kind = None if prefix in "ES" else kind
    return converted


def collect_tags(examples: Sequence[Any]) -> tuple[str, ...]:
    """Return the tags of examples: O if it occurs, then the others in order."""
    tags = {tag for example in examples for tag in example.tags or ()}
    return (*sorted({OUTSIDE} & tags), *sorted(tags - {OUTSIDE}))


def _write_words(folder: Path, split: str, examples: Sequence[Any], predictions: Sequence[Any]) -> list[Path]:
    """Write word, tag and predicted tag per line in IOB2, as conlleval reads them."""
    lines = []
    for example, predicted in zip(examples, predictions, strict=True):
        lines += [f"{_DOCUMENT} {OUTSIDE} {OUTSIDE}", ""]
        gold = example.tags if example.tags is not None else (OUTSIDE,) * len(example.words)
        start = 0
        for length in example.sentence_lengths:
            sentence = slice(start, start + length)
            columns = example.words[sentence], gold[sentence], predicted[sentence]
            lines += [*(" ".join(fields) for fields in zip(*columns, strict=True)), ""]
            start += length
    return write_lines(folder / f"ner-{split}.txt", lines)


CONLL = (
    Task(
        name="ner",
        kind="token",
        description="CoNLL: named entities in tagged words",
        files={
            "train": ("train.txt", "eng.train", "train.conll", "*.train"),
            "dev": ("valid.txt", "dev.txt", "eng.testa", "dev.conll", "*.testa"),
            "test": ("test.txt", "eng.testb", "test.conll", "*.testb"),
        },
        read=read_words,
        labels=(),
        write=_write_words,
        metrics=score_entities,
        best_metric="f1",
        collect_labels=collect_tags,
    ),
)
