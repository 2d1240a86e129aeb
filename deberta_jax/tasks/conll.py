"""Tagged words in CoNLL's format, 2 to 5 columns, in any of the schemes IOB1, IOB2 and BIOES."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from deberta_jax.errors import InputError
from deberta_jax.tasks.examples import Examples, ReadReport, TaskData, WordsExample
from deberta_jax.tasks.submissions import write_lines

Scheme = Literal["IOB1", "IOB2", "BIOES"]
OUTSIDE = "O"
_DOCUMENT = "-DOCSTART-"
# BILOU and BMES say the same in other letters.
_LETTERS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}


class Line(NamedTuple):
    """A word's line: its number, its fields."""

    number: int
    fields: list[str]


def read_words(path: Path, split: str) -> Examples:
    """The documents of a file; tags become IOB2, whatever the scheme. Without -DOCSTART- a sentence is a document.

    The word is the first column, its tag the last; in a test split there may be words alone.
    """
    account = ReadReport(str(path))
    documents = list(_documents(path, account))
    columns = {len(line.fields) for document in documents for sentence in document for line in sentence}
    if columns and (max(columns) > 5 or (max(columns) == 1 and not split.startswith("test"))):
        raise InputError(f"{path}: lines of {max(columns)} columns; 2 to 5 are wanted, the word first and its tag last")
    number = max(columns, default=0)
    found: list[tuple[int, list[list[Line]]]] = []
    for place, document in enumerate(documents):
        kept = []
        for sentence in document:
            lines = []
            for line in sentence:
                if len(line.fields) != number:
                    account.skip(f"{len(line.fields)} columns in place of {number}", line.number)
                elif number > 1 and not well_formed(line.fields[-1]):
                    account.skip(f"tag {line.fields[-1][:20]!r}", line.number)
                else:
                    account.use()
                    lines.append(line)
            if lines:
                kept.append(lines)
        if kept:
            found.append((place, kept))
    account.check()
    sentences = [[line.fields[-1] for line in sentence] for _, document in found for sentence in document]
    scheme = scheme_of(sentences) if number > 1 else "IOB2"
    examples = []
    for place, document in found:
        tags = None
        if number > 1:
            tags = tuple(
                tag for sentence in document for tag in to_iob2([line.fields[-1] for line in sentence], scheme)
            )
        words = tuple(line.fields[0] for sentence in document for line in sentence)
        examples.append(WordsExample(str(place), words, tags, tuple(map(len, document))))
    return Examples(examples, [account])


def _documents(path: Path, account: ReadReport) -> Iterator[list[list[Line]]]:
    """Documents of sentences of lines; those without words are none."""
    sentences: list[list[Line]] = [[]]
    marked = False
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    alone: list[list[list[Line]]] = []
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.decode().strip()
        except UnicodeDecodeError:
            account.skip("not UTF-8", number)
            continue
        fields = line.split("\t") if "\t" in line and " " not in line.replace("\t", "") else line.split()
        if not fields:
            sentences.append([])
        elif fields[0] == _DOCUMENT:
            if marked or any(sentences):
                alone.append([sentence for sentence in sentences if sentence])
            marked, sentences = True, [[]]
        else:
            sentences[-1].append(Line(number, fields))
    alone.append([sentence for sentence in sentences if sentence])
    if marked:
        yield from (document for document in alone if document)
    else:
        yield from ([sentence] for document in alone for sentence in document)


def well_formed(tag: str) -> bool:
    """Whether a tag is O, or says of a kind where an entity begins, goes on or ends."""
    sign, hyphen, kind = tag.partition("-")
    return tag == OUTSIDE or (sign in _LETTERS and bool(hyphen) and bool(kind))


def scheme_of(sentences: Sequence[Sequence[str]]) -> Scheme:
    """BIOES where there are ends or single words; IOB1 where an entity begins with I, or B only follows its like."""
    signs = {tag.partition("-")[0] for sentence in sentences for tag in sentence}
    if signs - {"B", "I", OUTSIDE}:
        return "BIOES"
    for sentence in sentences:
        former = OUTSIDE
        for tag in sentence:
            if tag.startswith("I-") and former[2:] != tag[2:]:
                return "IOB1"
            former = tag
    return "IOB2"


def to_iob2(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """A sentence's tags with B at the begin of each entity and I within it."""
    found: list[str] = []
    # Whether the word before can have an entity go on, and of which kind.
    open_kind: str | None = None
    for tag in tags:
        if tag == OUTSIDE:
            found.append(OUTSIDE)
            open_kind = None
            continue
        sign, _, kind = tag.partition("-")
        sign = _LETTERS[sign]
        goes_on = sign in "IE" and open_kind == kind
        found.append(f"{'I' if goes_on else 'B'}-{kind}")
        open_kind = None if sign in "ES" else kind
    return found


def _write(folder: Path, split: str, examples: Sequence[Any], predictions: Sequence[Any]) -> list[Path]:
    """Word, tag and predicted tag on each line, as conlleval reads them, IOB2."""
    lines = []
    for example, predicted in zip(examples, predictions, strict=True):
        lines += [f"{_DOCUMENT} {OUTSIDE} {OUTSIDE}", ""]
        start = 0
        for size in example.sentences:
            for place in range(start, start + size):
                gold = example.tags[place] if example.tags is not None else OUTSIDE
                lines.append(f"{example.words[place]} {gold} {predicted[place]}")
            lines.append("")
            start += size
    return write_lines(folder / f"ner-{split}.txt", lines)


TASKS: dict[str, TaskData] = {
    "ner": TaskData(
        "token",
        {
            "train": ("train.txt", "eng.train", "train.conll", "*.train"),
            "dev": ("valid.txt", "dev.txt", "eng.testa", "dev.conll", "*.testa"),
            "test": ("test.txt", "eng.testb", "test.conll", "*.testb"),
        },
        read_words,
        write=_write,
    )
}
