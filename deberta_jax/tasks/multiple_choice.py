"""Multiple choice: RACE (Lai et al. 2017) and SWAG (Zellers et al. 2018)."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.tasks.examples import ChoiceExample, Examples, ReadReport, TaskData
from deberta_jax.tasks.jsonl import whole_json
from deberta_jax.tasks.submissions import labelled_lines

_LETTERS = "ABCDEFGH"
_GAP = "_"


def _passages(path: Path, split: str) -> Examples:
    """A folder of examinations, `middle` and `high`, of files with one passage and its questions each."""
    files = sorted(path.glob("*/*.txt")) or sorted(path.glob("*.txt"))
    account = ReadReport(str(path))
    examples: list[ChoiceExample] = []
    for file in files:
        name = str(file.relative_to(path))
        try:
            values = whole_json(file)
            its = list(_questions(values, file))
        except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
            account.skip(str(error)[:80] if isinstance(error, InputError) else "no passage with questions", name)
            continue
        for example in its:
            account.use()
            examples.append(example)
    account.check()
    return Examples(examples, [account])


def _questions(values: dict[str, Any], file: Path) -> Iterator[ChoiceExample]:
    """The passage first, then the question with a choice in its gap or after it (spec 8.1)."""
    article = values["article"].strip()
    answers = values.get("answers") or [None] * len(values["questions"])
    for number, (question, options, answer) in enumerate(
        zip(values["questions"], values["options"], answers, strict=True)
    ):
        pairs = tuple((article, _completed(question, option)) for option in options)
        label = None if answer is None else _LETTERS.index(answer)
        if label is not None and label >= len(pairs):
            raise ValueError(answer)
        yield ChoiceExample(f"{file.stem}-{number}", pairs, label, file.parent.name)


def _completed(question: str, option: str) -> str:
    if _GAP in question:
        return question.replace(_GAP, option.strip(), 1).strip()
    return f"{question.strip()} {option.strip()}"


def _endings(path: Path, split: str) -> Examples:
    """Two beginnings and four endings in a file of comma-separated values."""
    account = ReadReport(str(path))
    examples: list[ChoiceExample] = []
    endings = [f"ending{number}" for number in range(4)]
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        missing = {"sent1", "sent2", *endings} - set(rows.fieldnames or ())
        if missing:
            raise InputError(
                f"{path}: no column {', '.join(sorted(missing))}; there are {', '.join(rows.fieldnames or ())}"
            )
        try:
            for row in rows:
                number, label = rows.line_num, (row.get("label") or "").strip()
                if row.get(None) or any(row[name] is None for name in ("sent1", "sent2", *endings)):
                    account.skip("another number of fields", number)
                elif label not in ("0", "1", "2", "3") and (label or not split.startswith("test")):
                    account.skip(f"label {label[:20]!r}" if label else "no label", number)
                else:
                    pairs = tuple((row["sent1"].strip(), f"{row['sent2']} {row[name]}".strip()) for name in endings)
                    account.use()
                    name = row.get("fold-ind") or str(len(examples))
                    examples.append(ChoiceExample(name, pairs, int(label) if label else None))
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path}, line {rows.line_num}: {error}") from None
    account.check()
    return Examples(examples, [account])


TASKS: dict[str, TaskData] = {
    "race": TaskData(
        "multiple_choice",
        {"train": ("train",), "dev": ("dev",), "test": ("test",)},
        _passages,
        write=labelled_lines("RACE", lambda place: _LETTERS[place]),
    ),
    "swag": TaskData(
        "multiple_choice",
        {"train": ("train.csv",), "dev": ("val.csv", "dev.csv"), "test": ("test.csv",)},
        _endings,
        write=labelled_lines("SWAG"),
    ),
}
