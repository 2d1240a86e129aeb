"""How a row of a custom table becomes an example: one `RowParser` per kind."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from deberta_jax.tasks.conll import collect_tags, is_entity_tag, scheme_of, to_iob2
from deberta_jax.tasks.conll_metrics import score_tags
from deberta_jax.tasks.custom import Columns, RowParser
from deberta_jax.tasks.examples import ChoiceExample, Seq2SeqExample, SpanExample, TextExample, WordsExample
from deberta_jax.tasks.labels import collect_classes, collect_label_sets, regression_label
from deberta_jax.tasks.rows import UnusableRow, text_in, unknown_label
from deberta_jax.tasks.seq2seq_metrics import check_rouge
from deberta_jax.tasks.task import Task


def parse_single_label(row_id: str, row: dict[str, Any], columns: Columns, is_test: bool) -> TextExample:
    """A text or a pair with one label."""
    label = _answer(row, columns.label, is_test)
    return TextExample(row_id, *_texts(row, columns), None if label is None else label_name(label))


def parse_regression(row_id: str, row: dict[str, Any], columns: Columns, is_test: bool) -> TextExample:
    """A text or a pair with a finite number."""
    value = _answer(row, columns.label, is_test)
    try:
        number = None if value is None else float(value)
    except (TypeError, ValueError):
        raise UnusableRow(f"{str(value)[:20]!r} is not a number") from None
    if number is not None and not abs(number) < float("inf"):
        raise UnusableRow("infinite number")
    return TextExample(row_id, *_texts(row, columns), number)


def parse_multi_label(row_id: str, row: dict[str, Any], columns: Columns, is_test: bool) -> TextExample:
    """A text or a pair with any number of labels; an empty cell means none, except in a test set."""
    cell = row.get(columns.label)
    texts = _texts(row, columns)
    if is_test and _is_empty(cell):
        return TextExample(row_id, *texts, None)
    labels = {label_name(label) for label in list_items(cell, columns.separator) if not _is_empty(label)}
    return TextExample(row_id, *texts, tuple(sorted(labels)))


def parse_token(row_id: str, row: dict[str, Any], columns: Columns, is_test: bool) -> WordsExample:
    """Words with one tag each."""
    items = list_items(row[columns.words], None)
    if not items or any(_is_empty(item) for item in items):
        raise UnusableRow(f"no words in {columns.words!r}")
    words = tuple(str(item) for item in items)
    cell = _answer(row, columns.tags, is_test)
    tags = None if cell is None else tuple(label_name(tag) for tag in list_items(cell, None))
    if tags is not None and len(tags) != len(words):
        raise UnusableRow(f"{len(tags)} tags for {len(words)} words")
    return WordsExample(row_id, words, tags, (len(words),))


def parse_extractive_qa(row_id: str, row: dict[str, Any], columns: Columns, is_test: bool) -> SpanExample:
    """A question and a context with one answer; an empty cell means that there is none."""
    question, context = text_in(row, columns.question), row[columns.context]
    if not isinstance(context, str) or not context.strip():
        raise UnusableRow(f"no text in {columns.context!r}")
    if columns.answer not in row:
        return SpanExample(row_id, question, context, None)
    if _is_empty(row[columns.answer]):
        return SpanExample(row_id, question, context, ())
    answer = str(row[columns.answer]).strip()
    start = -1
    if columns.answer_start and not _is_empty(row[columns.answer_start]):
        try:
            start = int(row[columns.answer_start])
        except (TypeError, ValueError):
            raise UnusableRow(f"{columns.answer_start!r} is not a number") from None
    if start < 0 or not context.startswith(answer, start):
        start = context.find(answer)
    if start < 0:
        raise UnusableRow("answer is not in the context")
    return SpanExample(row_id, question, context, ((answer, start),))


def parse_multiple_choice(row_id: str, row: dict[str, Any], columns: Columns, is_test: bool) -> ChoiceExample:
    """A text with at least two choices; the label is the text of a choice or its index from 0."""
    text = text_in(row, columns.text)
    if len(columns.choices) == 1:
        items = list_items(row[columns.choices[0]], columns.separator)
    else:
        items = [row[name] for name in columns.choices]
    if len(items) < 2 or any(_is_empty(item) for item in items):
        raise UnusableRow("fewer than two choices")
    choices = [str(item) for item in items]
    answer = _answer(row, columns.label, is_test)
    return ChoiceExample(row_id, tuple((text, choice) for choice in choices), _choice_index(answer, choices))


def parse_seq2seq(row_id: str, row: dict[str, Any], columns: Columns, is_test: bool) -> Seq2SeqExample:
    """A source and its target; a cell may be a number."""
    source, target = row[columns.source], _answer(row, columns.target, is_test)
    if _is_empty(source):
        raise UnusableRow(f"no text in {columns.source!r}")
    text = None if target is None else cell_text(target, columns.target)
    return Seq2SeqExample(row_id, cell_text(source, columns.source), text)


def cell_text(cell: Any, name: str) -> str:
    """Return the text of a cell without surrounding space; a table stores 12 as 12.0."""
    if isinstance(cell, list | tuple | dict):
        raise UnusableRow(f"no text in {name!r}")
    return cell.strip() if isinstance(cell, str) else label_name(cell)


def _choice_index(answer: Any, choices: Sequence[str]) -> int | None:
    if answer is None:
        return None
    name = label_name(answer)
    if name in choices:
        return choices.index(name)
    if name.isdecimal() and int(name) < len(choices):
        return int(name)
    raise unknown_label(answer)


def label_name(value: Any) -> str:
    """Return the name of a label; 1, 1.0 and "1" have the same name."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    name = str(value).strip()
    whole, point, fraction = name.partition(".")
    return whole if point and whole.lstrip("-").isdecimal() and not fraction.strip("0") else name


def _texts(row: dict[str, Any], columns: Columns) -> tuple[str, str | None]:
    """Return the text and its pair, if any."""
    return text_in(row, columns.text), text_in(row, columns.pair) if columns.pair else None


def _answer(row: dict[str, Any], name: str, is_test: bool) -> Any:
    """Return the answer of a row; None if a test set does not have it."""
    value = row.get(name)
    if not _is_empty(value):
        return value
    if not is_test:
        raise UnusableRow(f"column {name!r} is empty")
    return None


def _is_empty(value: Any) -> bool:
    """Whether a cell is empty: None, NaN or blank."""
    return value is None or (isinstance(value, str) and not value.strip()) or value != value


def list_items(cell: Any, separator: str | None) -> list[Any]:
    """Return the items of a list, or of a text that is a JSON list or has separators (white space for None)."""
    if isinstance(cell, list | tuple):
        return list(cell)
    if _is_empty(cell):
        return []
    text = str(cell).strip()
    if text.startswith("[") and text.endswith("]"):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, list):
            return values
    return text.split(separator)


def _entity_tags_to_iob2(examples: list[WordsExample]) -> list[WordsExample]:
    """Convert tags that mark entities to IOB2; other tags, such as parts of speech, are unchanged."""
    tags = [example.tags for example in examples if example.tags is not None]
    if not all(is_entity_tag(tag) for sentence in tags for tag in sentence):
        return examples
    scheme = scheme_of(tags)
    return [
        example if example.tags is None else example._replace(tags=tuple(to_iob2(example.tags, scheme)))
        for example in examples
    ]


def _adapt_token(task: Task, examples: Sequence[WordsExample]) -> Task:
    """Measure the accuracy of tags that do not mark entities."""
    if all(is_entity_tag(tag) for tag in collect_tags(examples)):
        return task
    return dataclasses.replace(task, metrics=score_tags, best_metric="accuracy")


def _adapt_extractive_qa(task: Task, examples: Sequence[SpanExample]) -> Task:
    """Predict "no answer" if the data have questions without an answer."""
    return dataclasses.replace(task, may_lack_answers=any(example.answers == () for example in examples))


def _adapt_seq2seq(task: Task, examples: Sequence[Seq2SeqExample]) -> Task:
    """Check that the metrics can be computed, before anything is trained or predicted."""
    check_rouge()
    return task


def _text_columns(columns: Columns) -> tuple[str | None, ...]:
    return columns.text, columns.pair


def _label_column(columns: Columns) -> tuple[str | None, ...]:
    return (columns.label,)


SINGLE_LABEL = RowParser(parse_single_label, _text_columns, _label_column, collect_classes)
REGRESSION = RowParser(parse_regression, _text_columns, _label_column, regression_label)
MULTI_LABEL = RowParser(parse_multi_label, _text_columns, _label_column, collect_label_sets)
TOKEN = RowParser(
    parse_token,
    lambda columns: (columns.words,),
    lambda columns: (columns.tags,),
    collect_tags,
    finish=_entity_tags_to_iob2,
    adapt=_adapt_token,
)
EXTRACTIVE_QA = RowParser(
    parse_extractive_qa,
    lambda columns: (columns.question, columns.context),
    lambda columns: (columns.answer, columns.answer_start),
    adapt=_adapt_extractive_qa,
)
SEQ2SEQ = RowParser(
    parse_seq2seq, lambda columns: (columns.source,), lambda columns: (columns.target,), adapt=_adapt_seq2seq
)
MULTIPLE_CHOICE = RowParser(parse_multiple_choice, lambda columns: (columns.text, *columns.choices), _label_column)
