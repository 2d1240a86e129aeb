"""The cells of a table: missing values, texts, lists, and the names of labels."""

import re
from typing import Any

from deberta_jax.tasks.literals import looks_like_list, parse_literal
from deberta_jax.tasks.rows import UnusableRow

# How tables write a missing label. "None" and "NA" are not among them: they are also names of classes.
_MISSING = {"nan", "n/a", "#n/a", "<na>", "null", "#na", "-nan", "nat"}
# Besides them, what is no number.
_NO_NUMBER = {"na", "none", "-", "n.a.", "?"}
_TRUTH = {"true", "false"}
# A number with a comma, or with points for thousands.
_COMMA = re.compile(r"\s*[-+]?\d[\d.]*,[\d.,]*\s*")


def is_empty(value: Any) -> bool:
    """Whether a cell is empty: None, NaN or blank."""
    return value is None or (isinstance(value, str) and not value.strip()) or (is_scalar(value) and value != value)


def is_scalar(value: Any) -> bool:
    """Whether a cell is no list and no object."""
    return not isinstance(value, list | tuple | dict | set)


def is_missing(value: Any) -> bool:
    """Whether a cell has no label: it is empty, or a text such as NaN or N/A."""
    return is_empty(value) or (isinstance(value, str) and value.strip().lower() in _MISSING)


def label_name(value: Any) -> str:
    """Return the name of a label; 1, 1.0 and "1" have the same name, as do True and "TRUE"."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    name = str(value).strip()
    if name.lower() in _TRUTH:
        return name.lower()
    whole, point, fraction = name.partition(".")
    return whole if point and whole.lstrip("-").isdecimal() and not fraction.strip("0") else name


def number_in(value: Any) -> float | None:
    """Return the number of a cell, None if it is missing; raises UnusableRow for another value."""
    if is_missing(value) or (isinstance(value, str) and value.strip().lower() in _NO_NUMBER):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        hint = "; write decimals with a point, and thousands without a sign" if _COMMA.fullmatch(str(value)) else ""
        raise UnusableRow(f"{str(value)[:20]!r} is not a number{hint}") from None
    if abs(number) == float("inf"):
        raise UnusableRow("infinite number")
    return number


def cell_text(cell: Any, name: str) -> str:
    """Return the text of a cell without surrounding space; a table stores 12 as 12.0."""
    if not is_scalar(cell):
        raise UnusableRow(f"no text in {name!r}")
    return cell.strip() if isinstance(cell, str) else label_name(cell)


def cell_value(cell: Any) -> Any:
    """Return a cell; a text that is a list or an object is parsed. Raises UnusableRow if it only looks like one."""
    if isinstance(cell, str) and looks_like_list(text := cell.strip()):
        return parse_literal(text)
    return cell


def list_items(cell: Any, separator: str | None) -> list[Any]:
    """Return the items of a list, of a text that is one, or of a text with separators (white space for None)."""
    value = cell_value(cell)
    if isinstance(value, list | tuple):
        return list(value)
    return [] if is_empty(value) else str(value).strip().split(separator)
