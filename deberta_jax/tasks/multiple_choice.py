"""Multiple choice: RACE (Lai et al. 2017) and SWAG (Zellers et al. 2018)."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError, list_names
from deberta_jax.tasks.examples import ChoiceExample, Examples, ReadReport
from deberta_jax.tasks.jsonl import load_json
from deberta_jax.tasks.metrics import accuracy
from deberta_jax.tasks.rows import UnusableRow, is_test, read_rows, unknown_label
from deberta_jax.tasks.submissions import id_label_writer
from deberta_jax.tasks.task import Task

_LETTERS = tuple("ABCDEFGH")
_GAP = "_"
_ENDINGS = tuple(f"ending{number}" for number in range(4))


def _read_race(path: Path, split: str) -> Examples:
    """Read a folder of exams, with subfolders `middle` and `high`; each file has one passage and its questions."""
    files = sorted(path.glob("*/*.txt")) or sorted(path.glob("*.txt"))

    def parse(file: Path, report: ReadReport) -> list[ChoiceExample]:
        try:
            questions = list(_questions(load_json(file), file))
        except InputError as error:
            raise UnusableRow(str(error)[:80]) from None
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UnusableRow("no passage with questions") from None
        if not is_test(split) and any(question.label is None for question in questions):
            raise UnusableRow("a question without an answer")
        return questions

    return read_rows(path, lambda report: ((str(file.relative_to(path)), file) for file in files), parse)


def _questions(values: dict[str, Any], file: Path) -> Iterator[ChoiceExample]:
    """Yield each question with the passage first, then the question with a choice in its gap or after it.

    See docs/numerics.md, "Task inputs".
    """
    article = values["article"].strip()
    answers = values.get("answers") or [None] * len(values["questions"])
    rows = zip(values["questions"], values["options"], answers, strict=True)
    for number, (question, options, answer) in enumerate(rows):
        pairs = tuple((article, _fill_gap(question, option)) for option in options)
        label = None if answer is None else _LETTERS.index(answer)
        if label is not None and label >= len(pairs):
            raise ValueError(answer)
        yield ChoiceExample(f"{file.stem}-{number}", pairs, label, file.parent.name)


def _fill_gap(question: str, option: str) -> str:
    if _GAP in question:
        return question.replace(_GAP, option.strip(), 1).strip()
    return f"{question.strip()} {option.strip()}"


def _read_swag(path: Path, split: str) -> Examples:
    """Read csv rows with two beginnings and four endings."""

    def parse(row: dict[Any, Any], report: ReadReport) -> Iterator[ChoiceExample]:
        if row.get(None) or any(row[name] is None for name in ("sent1", "sent2", *_ENDINGS)):
            raise UnusableRow("wrong number of fields")
        label = (row.get("label") or "").strip()
        if not label and not is_test(split):
            raise UnusableRow("no label")
        if label not in ("", "0", "1", "2", "3"):
            raise unknown_label(label)
        pairs = tuple((row["sent1"].strip(), f"{row['sent2']} {row[name]}".strip()) for name in _ENDINGS)
        yield ChoiceExample(row.get("fold-ind") or str(report.used), pairs, int(label) if label else None)

    return read_rows(path, lambda report: _csv_rows(path), parse)


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[Any, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        try:
            names = rows.fieldnames or ()
            if missing := sorted({"sent1", "sent2", *_ENDINGS} - set(names)):
                raise InputError(f"{path}: no column {list_names(missing)}; the columns are {list_names(names)}")
            for row in rows:
                yield rows.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path} line {rows.line_num}: {error}") from None


MULTIPLE_CHOICE = (
    Task(
        name="race",
        kind="multiple_choice",
        description="RACE: school exams, four choices",
        files={split: (split,) for split in ("train", "dev", "test")},
        read=_read_race,
        labels=(),
        write=id_label_writer("RACE", lambda index: _LETTERS[index]),
        metrics=accuracy,
        best_metric="accuracy",
    ),
    Task(
        name="swag",
        kind="multiple_choice",
        description="SWAG: which of four endings follows",
        files={"train": ("train.csv",), "dev": ("val.csv", "dev.csv"), "test": ("test.csv",)},
        read=_read_swag,
        labels=(),
        write=id_label_writer("SWAG"),
        metrics=accuracy,
        best_metric="accuracy",
    ),
)
