"""Prediction files in the forms that leaderboards take, each whole or as it was before."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any


def write_lines(path: Path, lines: Iterable[str]) -> list[Path]:
    """Lines into a file, whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
    os.replace(partial, path)
    return [path]


def write_tabs(path: Path, examples: Sequence[Any], values: Sequence[str]) -> list[Path]:
    """GLUE's form: index and prediction."""
    rows = (f"{example.id}\t{value}" for example, value in zip(examples, values, strict=True))
    return write_lines(path, ["index\tprediction", *rows])


def write_objects(path: Path, objects: Iterable[Any]) -> list[Path]:
    """A JSON object on each line."""
    return write_lines(path, (json.dumps(value, ensure_ascii=False) for value in objects))


def labelled_lines(name: str, label: Callable[[Any], Any] = lambda value: value) -> Callable[..., list[Path]]:
    """A writer of lines of id and label, NAME-SPLIT.jsonl."""

    def write(folder: Path, split: str, examples: Sequence[Any], predictions: Sequence[Any]) -> list[Path]:
        its = zip(examples, predictions, strict=True)
        lines = [{"id": example.id, "label": label(prediction)} for example, prediction in its]
        return write_objects(folder / f"{name}-{split}.jsonl", lines)

    return write
