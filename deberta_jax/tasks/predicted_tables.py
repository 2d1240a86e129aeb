"""Predictions in the layout of the table that they are for: its rows and columns, and more columns."""

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.files import make_folder, replace_file, write_bytes
from deberta_jax.tasks.delimited import is_quoted
from deberta_jax.tasks.examples import ReadReport
from deberta_jax.tasks.tables import TableOptions, separated_lines, table_format, table_rows
from deberta_jax.tasks.text_files import TextFile, plain_name

# With more labels, a table has no column for the probability of each.
_MAX_LABELS = 50
_DIGITS = 6
_log = logging.getLogger(__name__)


def label_cells(
    columns: Any, row: dict[str, Any], prediction: Any, probabilities: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The prediction, and the probability of each label if there are not too many."""
    return {"prediction": prediction} | probability_cells(probabilities)


def text_cells(
    columns: Any, row: dict[str, Any], prediction: Any, probabilities: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The prediction: a text, the text of a span, or one tag per word."""
    text = getattr(prediction, "text", prediction)
    return {"prediction": list(text) if isinstance(text, tuple) else text}


def probability_cells(probabilities: Mapping[str, Any] | None) -> dict[str, Any]:
    """One cell per label; none if there are too many."""
    if probabilities is None or len(probabilities) > _MAX_LABELS:
        return {}
    return {f"probability_{label}": round(float(value), _DIGITS) for label, value in sorted(probabilities.items())}


def write_predicted_table(
    folder: Path,
    source: Path,
    options: TableOptions,
    cells: Mapping[int, Mapping[str, Any]],
    separator: str = " ",
) -> Path:
    """Write the rows of a table with more cells, by the number of the row, to a file of the same name and format.

    A compressed table is written without compression. Rows without cells, which could not be used, have empty ones;
    they are counted in the log. `separator` joins the items of a cell that the format cannot represent as a list.
    """
    suffix = table_format(source)
    path = make_folder(folder) / plain_name(source).name
    rows = list(table_rows(source, ReadReport(str(source)), options))
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    added = _unique(list(dict.fromkeys(name for row in cells.values() for name in row)), names)
    values = [{new: cells.get(number, {}).get(name) for name, new in added.items()} for number, _ in rows]
    if missing := sum(number not in cells for number, _ in rows):
        _log.warning("%s: %d of %d rows have no prediction", path, missing, len(rows))
    if suffix == "parquet":
        return replace_file(path, lambda temporary: _write_parquet(temporary, source, list(added.values()), values))
    table = [row | more for (_, row), more in zip(rows, values, strict=True)]
    if suffix in ("json", "jsonl"):
        lines = [json.dumps(row, ensure_ascii=False, default=str) for row in table]
        text = "".join(f"{line}\n" for line in lines) if suffix == "jsonl" else "[" + ",\n".join(lines) + "]\n"
        return write_bytes(path, text.encode("utf-8", "replace"))
    header = [*names, *added.values()]
    grid = [[_joined(row.get(name), separator) for name in header] for row in table]
    if suffix == "xlsx":
        return replace_file(path, lambda temporary: _write_excel(temporary, [header, *grid]))
    if not options.header:
        grid.insert(0, header)
    file = TextFile(source, options.encoding)
    text = _tab_separated(file, grid) if suffix == "tsv" else _csv(grid, separated_lines(file)[0])
    # Excel needs the byte-order mark of UTF-8.
    encoding = "utf-8-sig" if file.codec() == "utf-8-sig" else "utf-8"
    return write_bytes(path, text.encode(encoding, "replace"))


def _unique(names: Sequence[str], existing: Sequence[str]) -> dict[str, str]:
    """Names for new columns that the table does not have."""
    unique: dict[str, str] = {}
    for name in names:
        new, copies = name, 0
        while new in existing or new in unique.values():
            copies += 1
            new = f"{name}.{copies}"
        unique[name] = new
    return unique


def _joined(cell: Any, separator: str) -> Any:
    return separator.join(map(str, cell)) if isinstance(cell, list | tuple) else cell


def _csv(grid: Sequence[Sequence[Any]], separator: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows(grid)
    return text.getvalue()


def _tab_separated(file: TextFile, grid: Sequence[Sequence[Any]]) -> str:
    """The rows as the source has them: with quoted fields, or with one line per row where quotes are text."""
    if is_quoted(file.lines(), "\t"):
        return _csv(grid, "\t")
    lines = ("\t".join("" if cell is None else " ".join(str(cell).split("\t")) for cell in row) for row in grid)
    return "".join(" ".join(line.splitlines()) + "\n" for line in lines)


def _write_parquet(path: Path, source: Path, names: Sequence[str], values: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(source)
    for name in names:
        try:
            column = pyarrow.array([row[name] for row in values])
        except pyarrow.ArrowException as error:
            raise InputError(f"{path}: the column {name!r} cannot be written as parquet ({error})") from None
        table = table.append_column(name, column)
    pyarrow.parquet.write_table(table, path)


def _write_excel(path: Path, grid: Sequence[Sequence[Any]]) -> None:
    import openpyxl

    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet()
    for row in grid:
        sheet.append(list(row))
    # The name of a temporary file has no suffix that the library accepts.
    with path.open("wb") as file:
        book.save(file)
