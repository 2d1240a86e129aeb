"""How rows of a custom table become tagged words: lists, one word per row, or spans of characters."""

import contextlib
import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.tasks.cells import is_empty, is_missing, list_items
from deberta_jax.tasks.columns import Columns
from deberta_jax.tasks.conll_metrics import score_tags
from deberta_jax.tasks.custom import NumberedRows, RowParser, Rows
from deberta_jax.tasks.examples import ReadReport, WordsExample
from deberta_jax.tasks.labels import named_label
from deberta_jax.tasks.predicted_tables import text_cells
from deberta_jax.tasks.rows import ROW_NUMBERS, UnusableRow
from deberta_jax.tasks.spans import lost_spans, read_spans, split_words, tag_words
from deberta_jax.tasks.tables import location
from deberta_jax.tasks.tagging import collect_tags, is_entity_tag, is_valid_tag, tagging_of, to_iob2
from deberta_jax.tasks.task import Task

# Rows that show whether a table has one word per row.
_HEAD_ROWS = 1000
# Names of a column that numbers sentences.
_SENTENCE = re.compile(r"(sent|sentence)([ _#.-]*(id|ids|idx|index|no|num|number|#))?[ #]*", re.IGNORECASE)
_MOST = 0.95


def parse_token(row_id: str, row: dict[str, Any], columns: Columns) -> WordsExample:
    """Words with one tag each; a word of white space has a tag, too."""
    if columns.spans is not None:
        return _with_spans(row_id, row, columns.text, columns.spans)
    items = list_items(row[columns.words], None)
    if not items or any(item is None or item != item for item in items):
        raise UnusableRow(f"no words in {columns.words!r}")
    words = tuple(map(str, items))
    cell = row.get(columns.tags)
    if is_missing(cell):
        return WordsExample(row_id, words, None, (len(words),))
    tags = _tags(cell, columns)
    if len(tags) != len(words):
        raise UnusableRow(f"{len(tags)} tags for {len(words)} words")
    if invalid := [tag for tag in tags if not is_valid_tag(tag, columns.known_tagging)]:
        raise UnusableRow(f"invalid tag {invalid[0][:20]!r}")
    return WordsExample(row_id, words, tuple(to_iob2(tags, columns.known_tagging)), (len(words),))


def _tags(cell: Any, columns: Columns) -> list[str]:
    tags = [named_label(tag, columns.names) for tag in list_items(cell, None)]
    joined = next((tag for tag in tags if tag != "," and "," in tag and _are_entity_tags(tag.split(","))), None)
    if joined is not None:
        raise UnusableRow(f"tags are separated by commas, {joined[:20]!r}; separate words and tags by spaces")
    return tags


def _are_entity_tags(tags: Sequence[str]) -> bool:
    return all(is_entity_tag(tag) for tag in tags if tag)


def _with_spans(row_id: str, row: dict[str, Any], text_column: str, column: str) -> WordsExample:
    text = row[text_column]
    if not isinstance(text, str) or not text.strip():
        raise UnusableRow(f"no text in {text_column!r}")
    words = split_words(text, row.get("tokens"))
    spans = read_spans(row, column)
    tags = None if spans is None else tuple(tag_words(text, words, spans))
    return WordsExample(row_id, tuple(text[start:end] for start, end in words), tags, (len(words),))


def _decide(columns: Columns, rows: Rows, report: ReadReport) -> Columns:
    """Decide whether a row is a sentence or a word, and how tags mark entities."""
    if columns.spans is not None:
        _count_lost_spans(columns.spans, rows, report)
        return columns
    if columns.sentence is None:
        columns = dataclasses.replace(columns, sentence=_sentence_column(columns, rows, report))
    if columns.tagging != "auto":
        return columns
    counts: Counter[str] = Counter()
    for row in rows():
        try:
            counts.update(_tags(row.get(columns.tags), columns))
        except UnusableRow:
            continue
    tagging = tagging_of(counts) if counts else "prefixes"
    if tagging == "types":
        report.note("tags have no B- and I-: neighboring words with the same tag are one entity (--columns.tagging)")
    elif tagging == "plain":
        numbers = all(tag.isdecimal() for tag in counts)
        hint = "are numbers; name them with --labels O B-PER I-PER ..., or" if numbers else "mark no entities, so"
        report.note(f"tags {hint} they are scored by accuracy")
    return dataclasses.replace(columns, tagging=tagging)


def _count_lost_spans(column: str, rows: Rows, report: ReadReport) -> None:
    lost = 0
    for row in rows():
        with contextlib.suppress(UnusableRow):
            lost += lost_spans(read_spans(row, column) or ())
    if lost:
        report.note(f"{lost:,} spans overlap longer ones and are left out: a word has one tag")


def _sentence_column(columns: Columns, rows: Rows, report: ReadReport) -> str | None:
    """The column that names the sentences of a table with one word per row; None if rows are sentences."""
    head = list(itertools.islice(rows(), _HEAD_ROWS))
    single = sum(_is_one_word(row.get(columns.words)) for row in head)
    if len(head) < 2 or single < _MOST * len(head):
        return None
    names = [name for name in head[0] if name not in (columns.words, columns.tags)]
    named = [name for name in names if _SENTENCE.fullmatch(name.strip())]
    filled = {name: sum(not is_empty(row.get(name)) for row in head) for name in names}
    # A column that is filled only where a sentence begins.
    starts = [name for name in names if not is_empty(head[0].get(name)) and 1 < filled[name] < len(head) / 2]
    if name := next(iter(named or starts), None):
        report.note(f"rows are words; their sentences are those of column {name!r} (--columns.sentence)")
        return name
    report.note(
        "each row has one word; name the column of their sentences with --columns.sentence, or use the task ner for a "
        "file with empty lines between sentences"
    )
    return None


def _is_one_word(cell: Any) -> bool:
    return isinstance(cell, str) and len(cell.split()) == 1 and not cell.startswith("[")


def _group(rows: NumberedRows, columns: Columns, report: ReadReport) -> NumberedRows:
    """Join the rows of a sentence; a row without a word, or without a tag where others have one, is malformed."""
    if columns.sentence is None or columns.spans is not None:
        yield from rows
        return
    num_words = num_sentences = 0
    for name, sentence in _sentences(rows, columns.sentence):
        words = []
        has_tags = any(not is_missing(row.get(columns.tags)) for _, row in sentence)
        for number, row in sentence:
            if is_empty(row.get(columns.words)):
                report.skip(f"no word in {columns.words!r}", location(Path(report.file), number))
            elif has_tags and is_missing(row.get(columns.tags)):
                report.skip(f"no tag in {columns.tags!r}", location(Path(report.file), number))
            else:
                words.append((number, row))
        if words:
            num_words, num_sentences = num_words + len(words), num_sentences + 1
            tags = [row[columns.tags] for _, row in words] if has_tags else None
            lists = {columns.words: [str(row[columns.words]) for _, row in words], columns.tags: tags}
            numbers = [number for number, _ in words]
            yield sentence[0][0], {**sentence[0][1], columns.sentence: name, ROW_NUMBERS: numbers, **lists}
    report.note(f"{num_words:,} rows with one word each are {num_sentences:,} sentences")


def _sentences(rows: NumberedRows, column: str) -> Iterator[tuple[Any, list[tuple[int, dict[str, Any]]]]]:
    """Yield the name and the rows of each sentence; an empty cell continues it."""
    sentence: list[tuple[int, dict[str, Any]]] = []
    name: Any = None
    for number, row in rows:
        cell = row.get(column)
        if not is_empty(cell) and cell != name:
            if sentence:
                yield name, sentence
            sentence, name = [], cell
        sentence.append((number, row))
    if sentence:
        yield name, sentence


def _adapt_token(task: Task, examples: Sequence[WordsExample]) -> Task:
    """Measure the accuracy of tags that do not mark entities."""
    if all(is_entity_tag(tag) for tag in collect_tags(examples)):
        return task
    return dataclasses.replace(task, metrics=score_tags, best_metric="accuracy")


TOKEN = RowParser(
    parse_token,
    lambda columns: (columns.text,) if columns.spans else (columns.words, columns.sentence),
    lambda columns: (columns.spans,) if columns.spans else (columns.tags,),
    collect_tags,
    decide=_decide,
    group=_group,
    adapt=_adapt_token,
    cells=text_cells,
)
