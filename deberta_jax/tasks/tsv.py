"""Tab-separated files as GLUE and XNLI have them: no quoting, so that a double quote is a character like others."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from deberta_jax.errors import InputError
from deberta_jax.tasks.examples import Examples, ReadReport, TextExample
from deberta_jax.tasks.jsonl import numbered_lines


class Columns(NamedTuple):
    """The header's names of what is read, each with its alternatives.

    Of a file without a header `headless` names the columns. `spelt` maps how a label may be written to its name.
    """

    text: tuple[str, ...]
    pair: tuple[str, ...] = ()
    label: tuple[str, ...] = ("label",)
    id: tuple[str, ...] = ("index", "id", "pairID")
    group: tuple[str, ...] = ()
    headless: tuple[str, ...] = ()


def tab_rows(path: Path, account: ReadReport, headless: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Number and fields of each row; one with another number of fields than the header is skipped.

    Names that `headless` gives hold where the first line has as many fields, and is not the header of a test file.
    """
    lines = numbered_lines(path, account)
    header: list[str] | None = list(headless) or None
    for number, line in lines:
        fields = line.split("\t")
        if header is None or (number == 1 and headless and fields[:2] == ["index", "sentence"]):
            header = fields
            continue
        if len(fields) != len(header):
            account.skip(f"{len(fields)} fields in place of {len(header)}", number)
            continue
        yield number, dict(zip(header, fields, strict=True))


def read_tabs(
    path: Path, split: str, columns: Columns, value: Callable[[str], str | float | None], *, hidden: bool = False
) -> Examples:
    """Texts or pairs of a file; `value` makes of a label's text the label, None where there is none of that name.

    In a test split, and where `hidden`, labels may be absent.
    """
    account = ReadReport(str(path))
    examples: list[TextExample] = []
    tested = hidden or split.startswith("test")
    for number, row in tab_rows(path, account, columns.headless):
        text, pair, label = (_field(row, names) for names in (columns.text, columns.pair, columns.label))
        if text is None or (columns.pair and pair is None):
            wanted = [*columns.text[:1], *columns.pair[:1]]
            raise InputError(f"{path}: no column {' or '.join(wanted)}; there are {', '.join(row)}")
        if not text.strip() or (columns.pair and not (pair or "").strip()):
            account.skip("no text", number)
            continue
        if label is None and not tested:
            raise InputError(f"{path}: no column {columns.label[0]}; there are {', '.join(row)}")
        meant = None if label is None else value(label)
        if meant is None and label is not None and not (tested and not label.strip()):
            unsure = label == "-"
            account.skip("no gold label" if unsure else f"label {label[:20]!r}", number, malformed=not unsure)
            continue
        name = _field(row, columns.id) if columns.id else None
        account.use()
        examples.append(
            TextExample(
                name if name is not None else str(len(examples)),
                text.strip(),
                pair.strip() if columns.pair and pair is not None else None,
                meant,
                _field(row, columns.group) or "",
            )
        )
    account.check()
    return Examples(examples, [account])


def _field(row: Mapping[str, str], names: Sequence[str]) -> str | None:
    return next((row[name] for name in names if name in row), None)
