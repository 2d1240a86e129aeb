"""How a row of a custom table becomes an example with texts: one `RowParser` per kind."""

from collections.abc import Mapping, Sequence
from typing import Any

from deberta_jax.tasks.cells import cell_text, cell_value, is_empty, is_missing, label_name, number_in
from deberta_jax.tasks.columns import Columns
from deberta_jax.tasks.custom import RowParser
from deberta_jax.tasks.examples import PROBABILITIES, Seq2SeqExample, TextExample
from deberta_jax.tasks.labels import collect_classes, named_label, regression_label
from deberta_jax.tasks.predicted_tables import text_cells
from deberta_jax.tasks.rows import UnusableRow, text_in
from deberta_jax.tasks.seq2seq_metrics import check_rouge
from deberta_jax.tasks.task import Task

# How exports of data sets write that a label is hidden.
HIDDEN = -1


def parse_single_label(row_id: str, row: dict[str, Any], columns: Columns) -> TextExample:
    """A text or a pair with one label, or with a probability for each label."""
    texts = row_texts(row, columns)
    if len(columns.label) > 1:
        return _with_probabilities(row_id, texts, numbers_in(row, columns.label))
    cell = row.get(columns.label[0])
    if is_missing(cell):
        return TextExample(row_id, *texts, None)
    value = _single(cell)
    if isinstance(value, dict):
        return _with_probabilities(row_id, texts, _probabilities(value, columns.label[0]))
    return TextExample(row_id, *texts, named_label(value, columns.names))


def _single(cell: Any) -> Any:
    """Return a label, the only one of a list, or an object with probabilities; brackets may be part of a name."""
    try:
        value = cell_value(cell)
    except UnusableRow:
        return cell
    if not isinstance(value, list):
        return value
    if len(value) != 1:
        raise UnusableRow(f"{len(value)} labels; for any number of labels use --columns.kind multi_label")
    return value[0]


def _probabilities(value: Mapping[Any, Any], column: str) -> dict[str, float | None]:
    try:
        return {label_name(label): number_in(number) for label, number in value.items()}
    except UnusableRow:
        raise UnusableRow(
            f"{column!r} is an object without probabilities; name one of its fields, such as "
            f"--columns.label {column}.{next(iter(value))}"
        ) from None


def _with_probabilities(row_id: str, texts: tuple[str, str | None], numbers: dict[str, float | None]) -> TextExample:
    """An example with soft labels: its numbers divided by their sum; the label is the most likely one."""
    if not numbers or any(number is None for number in numbers.values()) or set(numbers.values()) == {HIDDEN}:
        return TextExample(row_id, *texts, None)
    values = {label: number or 0.0 for label, number in numbers.items()}
    total = sum(values.values())
    if min(values.values()) < 0 or not total:
        raise UnusableRow("the labels have no probabilities: numbers of at least 0 whose sum is positive")
    shares = {label: value / total for label, value in values.items()}
    return TextExample(row_id, *texts, max(shares, key=shares.__getitem__), extra={PROBABILITIES: shares})


def parse_regression(row_id: str, row: dict[str, Any], columns: Columns) -> TextExample:
    """A text or a pair with a finite number, or with several."""
    texts = row_texts(row, columns)
    numbers = tuple(numbers_in(row, columns.label).values())
    if any(number is None for number in numbers):
        return TextExample(row_id, *texts, None)
    return TextExample(row_id, *texts, numbers if len(numbers) > 1 else numbers[0])  # type: ignore[arg-type]


def parse_seq2seq(row_id: str, row: dict[str, Any], columns: Columns) -> Seq2SeqExample:
    """A source and its target; a cell may be a number."""
    source, target = row[columns.source], row.get(columns.target)
    if is_empty(source):
        raise UnusableRow(f"no text in {columns.source!r}")
    text = None if is_empty(target) else cell_text(target, columns.target)
    return Seq2SeqExample(row_id, cell_text(source, columns.source), text)


def numbers_in(row: dict[str, Any], names: Sequence[str]) -> dict[str, float | None]:
    """The number in each of some columns; None for a missing one."""
    return {name: truth_or_number(row.get(name)) for name in names}


def truth_or_number(cell: Any) -> float | None:
    """The number of a cell, 1 or 0 for true or false; None if it is missing."""
    name = label_name(cell) if isinstance(cell, str | bool) else ""
    return float(name == "true") if name in ("true", "false") else number_in(cell)


def row_texts(row: dict[str, Any], columns: Columns) -> tuple[str, str | None]:
    """Return the text and its pair, if any."""
    return _text(row, columns.text), _text(row, columns.pair) if columns.pair else None


def _text(row: dict[str, Any], name: str) -> str:
    """Return a text; a cell may be a number."""
    cell = row[name]
    return cell_text(cell, name) if isinstance(cell, int | float) and not is_empty(cell) else text_in(row, name)


def _adapt_seq2seq(task: Task, examples: Sequence[Seq2SeqExample]) -> Task:
    """Check that the metrics can be computed, before anything is trained or predicted."""
    check_rouge()
    return task


def text_columns(columns: Columns) -> tuple[str | None, ...]:
    """The columns of a text and of its pair."""
    return columns.text, columns.pair


def label_columns(columns: Columns) -> tuple[str | None, ...]:
    """The columns of the label."""
    return columns.label


def _number_cells(
    columns: Columns, row: dict[str, Any], prediction: Any, probabilities: Mapping[str, Any] | None
) -> dict[str, Any]:
    if not isinstance(prediction, tuple):
        return {"prediction": prediction}
    return {f"prediction_{name}": number for name, number in zip(columns.label, prediction, strict=True)}


SINGLE_LABEL = RowParser(parse_single_label, text_columns, label_columns, collect_classes)
REGRESSION = RowParser(parse_regression, text_columns, label_columns, regression_label, cells=_number_cells)
SEQ2SEQ = RowParser(
    parse_seq2seq,
    lambda columns: (columns.source,),
    lambda columns: (columns.target,),
    adapt=_adapt_seq2seq,
    cells=text_cells,
)
