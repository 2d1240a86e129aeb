"""How a row of a custom table becomes a question with its context and answers."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from deberta_jax.tasks.cells import cell_value, is_empty, list_items
from deberta_jax.tasks.columns import Columns
from deberta_jax.tasks.custom import RowParser
from deberta_jax.tasks.examples import SpanExample
from deberta_jax.tasks.predicted_tables import text_cells
from deberta_jax.tasks.rows import UnusableRow, text_in
from deberta_jax.tasks.squad import nearest_start
from deberta_jax.tasks.task import Task

# The fields of answers in SQuAD's format, which has several answers in an object of lists or in a list of objects.
_TEXT, _START = "text", "answer_start"
_LAYOUT = re.compile(r"\s*(\{|\[\s*\{|\[\s*\]\s*$)")


def parse_extractive_qa(row_id: str, row: dict[str, Any], columns: Columns) -> SpanExample:
    """A question and a context with an answer, or with several; an empty cell means that there is none."""
    question, context = text_in(row, columns.question), row[columns.context]
    if not isinstance(context, str) or not context.strip():
        raise UnusableRow(f"no text in {columns.context!r}")
    if columns.answer not in row:
        return SpanExample(row_id, question, context, None)
    start_cell = row.get(columns.answer_start) if columns.answer_start else None
    texts, starts = _answers(row[columns.answer], start_cell)
    answers = []
    for number, text in enumerate(texts):
        start = _number(starts[number], columns.answer_start or _START) if number < len(starts) else None
        answer = str(text) if start is not None else str(text).strip()
        position = nearest_start(context, answer, start) if start is not None else context.find(answer)
        if position is None or position < 0:
            raise UnusableRow("answer is not in the context")
        answers.append((answer, position))
    return SpanExample(row_id, question, context, tuple(dict.fromkeys(answers)))


def _answers(cell: Any, start_cell: Any) -> tuple[list[Any], list[Any]]:
    """Return the texts of the answers, and their positions if they are known."""
    value = cell_value(cell) if isinstance(cell, str) and _LAYOUT.match(cell) else cell
    if isinstance(value, dict):
        return _list(value.get(_TEXT)), _list(value.get(_START))
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return [item.get(_TEXT) for item in value], [item.get(_START) for item in value]
    starts = _list(start_cell)
    if isinstance(value, list):
        return value, starts
    if isinstance(cell, str) and isinstance(start_cell, str) and start_cell.lstrip().startswith("["):
        return list_items(cell, None), starts
    return ([] if is_empty(cell) else [cell]), starts


def _list(cell: Any) -> list[Any]:
    value = cell_value(cell)
    if isinstance(value, list | tuple):
        return list(value)
    return [] if is_empty(value) else [value]


def _number(cell: Any, name: str) -> int | None:
    if is_empty(cell):
        return None
    try:
        return int(float(cell))
    except (TypeError, ValueError, OverflowError):
        raise UnusableRow(f"{name!r} is not a number") from None


def _adapt_extractive_qa(task: Task, examples: Sequence[SpanExample]) -> Task:
    """Predict "no answer" if the data have questions without an answer."""
    return dataclasses.replace(task, may_lack_answers=any(example.answers == () for example in examples))


EXTRACTIVE_QA = RowParser(
    parse_extractive_qa,
    lambda columns: (columns.question, columns.context),
    lambda columns: (columns.answer, columns.answer_start),
    adapt=_adapt_extractive_qa,
    cells=text_cells,
)
