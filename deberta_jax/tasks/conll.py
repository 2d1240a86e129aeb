"""Tagged words in CoNLL's format, in the schemes IOB1, IOB2 and BIOES, or with types alone."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.tasks.conll_layout import COMMENT, DOCUMENT, Layout, Line, numbered_lines, split_line, survey
from deberta_jax.tasks.conll_metrics import score_entities, score_tags
from deberta_jax.tasks.examples import Examples, ReadReport, WordsExample
from deberta_jax.tasks.rows import is_test
from deberta_jax.tasks.submissions import write_lines
from deberta_jax.tasks.tagging import OUTSIDE, collect_tags, is_entity_tag, is_valid_tag, to_iob2
from deberta_jax.tasks.task import Task
from deberta_jax.tasks.text_files import TextFile

Sentence = list[Line]


@dataclasses.dataclass(frozen=True)
class WordColumns:
    """The columns of the words and of the tags, numbered from 1 (None: by content), and the encoding of the files."""

    words: int | None = None
    tags: int | None = None
    encoding: str | None = None


def read_words(path: Path, split: str, columns: WordColumns = WordColumns(), layout: Layout | None = None) -> Examples:
    """Return the documents of a file, with tags in IOB2. Without -DOCSTART- lines each sentence is a document.

    The columns are determined by the content of the file, unless `layout` is given. A test set may have words only.
    """
    report = ReadReport(str(path))
    file = TextFile(path, columns.encoding)
    if layout is None or (is_test(split) and not _fits(file, layout)):
        trained, layout = layout, survey([file], words=columns.words, tags=columns.tags, has_tags=not is_test(split))
        if trained is not None and not trained.tags & layout.tags - {OUTSIDE}:
            # The file has other columns, but not that of the tags.
            layout = layout._replace(tag=None)
    for note in layout.notes:
        report.note(note)
    documents = list(_documents(file, layout))
    usable = [[_usable(sentence, layout, report) for sentence in document] for document in documents]
    report.check_used()
    examples = []
    for number, document in enumerate(usable):
        sentences = [sentence for sentence in document if sentence]
        if sentences:
            words = tuple(line.fields[layout.word] for sentence in sentences for line in sentence)
            tags = tuple(tag for sentence in sentences for tag in _tags(sentence, layout))
            lengths = tuple(map(len, sentences))
            examples.append(WordsExample(str(number), words, tags if layout.tag is not None else None, lengths))
    return Examples(examples, [report])


def _fits(file: TextFile, layout: Layout) -> bool:
    """Whether most lines of a file have the columns of a layout: a test set may lack the tags."""
    sizes = [
        len(split_line(text, layout.is_tabbed)) == layout.num_columns
        for _, text in numbered_lines(file)
        if text and not text.startswith((COMMENT, DOCUMENT))
    ]
    return 2 * sum(sizes) > len(sizes)


def _fit(columns: WordColumns, task: Task, splits: Mapping[str, Sequence[Path]]) -> Task:
    """Decide on the layout once, by all files with tags."""
    files = [
        TextFile(path, columns.encoding) for split, paths in splits.items() if not is_test(split) for path in paths
    ]
    if not files:
        return task
    layout = survey(files, words=columns.words, tags=columns.tags, has_tags=True)
    return dataclasses.replace(task, read=functools.partial(read_words, columns=columns, layout=layout))


def _usable(sentence: Sentence, layout: Layout, report: ReadReport) -> Sentence:
    """Return the lines of a sentence with the right number of columns and a valid tag; report all lines."""
    lines = []
    for line in sentence:
        fields = line.fields
        if len(fields) > layout.num_columns == 2 and (layout.word, layout.tag) == (0, 1) and "\t" not in line.text:
            # A word with spaces, in a file that separates columns by spaces.
            fields = [" ".join(fields[:-1]), fields[-1]]
        if len(fields) != layout.num_columns:
            report.skip(f"{len(fields)} columns instead of {layout.num_columns}", line.number)
        elif layout.number is not None and not fields[layout.number].isdecimal():
            # CoNLL-U: the words of the line follow on lines of their own, or the line is an empty node.
            report.skip("several words or none", line.number, malformed=False)
        elif not fields[layout.word]:
            report.skip("no word", line.number)
        elif layout.tag is not None and not is_valid_tag(fields[layout.tag], layout.tagging):
            report.skip(f"invalid tag {fields[layout.tag][:20]!r}", line.number)
        else:
            report.use()
            lines.append(line._replace(fields=fields))
    return lines


def _tags(sentence: Sentence, layout: Layout) -> list[str]:
    return to_iob2([line.fields[layout.tag] for line in sentence], layout.tagging) if layout.tag is not None else []


def _documents(file: TextFile, layout: Layout) -> Iterator[list[Sentence]]:
    """Yield the documents that have words, as lists of sentences."""
    documents: list[list[Sentence]] = [[[]]]
    has_marks = False
    for number, text in numbered_lines(file):
        line = Line(number, text, split_line(text, layout.is_tabbed))
        if not text:
            documents[-1].append([])
        elif DOCUMENT in line.fields[:2]:
            has_marks = True
            documents.append([[]])
        elif not text.startswith(COMMENT) or _is_word(line, layout):
            documents[-1][-1].append(line)
    for document in documents:
        sentences = [sentence for sentence in document if sentence]
        if not has_marks:
            yield from ([sentence] for sentence in sentences)
        elif sentences:
            yield sentences


def _is_word(line: Line, layout: Layout) -> bool:
    """Whether a line that starts with # has a word and a tag, and is no comment."""
    if len(line.fields) != layout.num_columns:
        return False
    return line.fields[layout.tag] in layout.tags if layout.tag is not None else layout.num_columns == 1


def _adapt(task: Task, examples: Sequence[Any]) -> Task:
    """Measure the accuracy of tags that do not mark entities, such as parts of speech."""
    if all(is_entity_tag(tag) for tag in collect_tags(examples)):
        return task
    return dataclasses.replace(task, metrics=score_tags, best_metric="accuracy")


def _write_words(folder: Path, split: str, examples: Sequence[Any], predictions: Sequence[Any]) -> list[Path]:
    """Write word, tag and predicted tag per line in IOB2, as conlleval reads them."""
    lines = []
    for example, predicted in zip(examples, predictions, strict=True):
        lines += [f"{DOCUMENT} {OUTSIDE} {OUTSIDE}", ""]
        gold = example.tags if example.tags is not None else (OUTSIDE,) * len(example.words)
        start = 0
        for length in example.sentence_lengths:
            sentence = slice(start, start + length)
            columns = example.words[sentence], gold[sentence], predicted[sentence]
            lines += [*(" ".join(fields) for fields in zip(*columns, strict=True)), ""]
            start += length
    return write_lines(folder / f"ner-{split}.txt", lines)


def _names(split: str) -> tuple[str, ...]:
    """The names of files of a split in data sets such as GermEval and Universal Dependencies."""
    return tuple(f"*{split}.{suffix}" for suffix in ("conllu", "conll", "tsv", "txt", "bio", "iob", "iob2"))


def conll_task(columns: WordColumns = WordColumns()) -> Task:
    """The task of tagged words whose columns are known, or determined by their content."""
    return Task(
        name="ner",
        kind="token",
        description="CoNLL: named entities in tagged words",
        files={
            "train": ("train.txt", "eng.train", "train.conll", "*.train", *_names("train")),
            "dev": ("valid.txt", "dev.txt", "eng.testa", "dev.conll", "*.testa", *_names("dev"), *_names("valid")),
            "test": ("test.txt", "eng.testb", "test.conll", "*.testb", *_names("test")),
        },
        read=functools.partial(read_words, columns=columns),
        labels=(),
        write=_write_words,
        metrics=score_entities,
        best_metric="f1",
        collect_labels=collect_tags,
        adapt=_adapt,
        fit=functools.partial(_fit, columns),
    )


CONLL = (conll_task(),)
