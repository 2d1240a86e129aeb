"""Prediction files in the formats of the leaderboards, written atomically."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.files import make_folder, write_text
from deberta_jax.tasks.task import Write


def write_lines(path: Path, lines: Iterable[str]) -> list[Path]:
    """Write lines to a file, and create its folder."""
    make_folder(path.parent)
    return [write_text(path, "".join(f"{line}\n" for line in lines))]


def write_tsv(path: Path, examples: Sequence[Any], values: Sequence[str]) -> list[Path]:
    """Write GLUE's format: index and prediction."""
    rows = (f"{example.id}\t{value}" for example, value in zip(examples, values, strict=True))
    return write_lines(path, ["index\tprediction", *rows])


def write_objects(path: Path, objects: Iterable[Any]) -> list[Path]:
    """Write one JSON object per line."""
    return write_lines(path, (json.dumps(value, ensure_ascii=False) for value in objects))


def objects_writer(file_name: Callable[[str], str], to_object: Callable[[Any, Any], dict[str, Any]]) -> Write:
    """Return a writer of one JSON object per example, `to_object(example, prediction)`, to `file_name(split)`."""

    def write(folder: Path, split: str, examples: Sequence[Any], predictions: Sequence[Any]) -> list[Path]:
        objects = (to_object(*pair) for pair in zip(examples, predictions, strict=True))
        return write_objects(folder / file_name(split), objects)

    return write


def id_label_writer(name: str, label: Callable[[Any], Any] = lambda prediction: prediction) -> Write:
    """Return a writer of ids and labels to NAME-SPLIT.jsonl."""
    return objects_writer(
        lambda split: f"{name}-{split}.jsonl",
        lambda example, prediction: {"id": example.id, "label": label(prediction)},
    )
