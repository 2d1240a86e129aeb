"""How a run goes: its settings, and the folder that belongs to them."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.training.optimizer import OptimizerConfig

# Settings that a run may change between two starts: they move work about (micro-batches also draw dropout anew).
_MAY_DIFFER = {
    "mesh",
    "accumulate",
    "evaluate_every",
    "checkpoint_every",
    "keep",
    "keep_every",
    "stop_after",
    "workers",
}
_KNOWN_LATE = {"rows"}
# Settings that runs begun before they were there have not, and what those did.
_ADDED = {"training.optimizer.layer_decay": 1.0}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices share a batch (data), the parameters too (fsdp), and each product (tensor); -1: the rest."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Length, batches and intervals of a run.

    `batch_size` rows are a step's, over all devices and over the `accumulate` micro-batches in which they are taken.
    The latest `keep` checkpoints stay, and each of a step that `keep_every` divides. The run stops with an error after
    `stop_after` steps in a row whose loss or gradient is not finite.
    """

    steps: int = 1000
    batch_size: int = 32
    accumulate: int = 1
    seed: int = 0
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    evaluate_every: int = 100
    checkpoint_every: int = 100
    keep: int = 2
    keep_every: int = 0
    stop_after: int = 10

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "evaluate_every", "checkpoint_every", "keep", "stop_after"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("steps", "seed", "keep_every"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it cannot be negative")


def claim_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write `config.json` in a run's folder, in place of its like; other settings there are refused."""
    refuse_other(folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "config.partial"
    partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / "config.json")


def refuse_other(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise InputError, naming the fields, if a folder belongs to a run with other settings.

    What is known only after text has been read may be absent.
    """
    path = folder / "config.json"
    if path.exists():
        ours = _fields(json.loads(json.dumps(settings)))
        theirs = {name: value for name, value in _ADDED.items() if name in ours} | _fields(_read(path))
        absent = "absent"
        differing = [
            f"{name} ({theirs.get(name, absent)} there, {ours.get(name, absent)} here)"
            for name in sorted(theirs.keys() | ours.keys())
            if theirs.get(name, absent) != ours.get(name, absent)
            and not _MAY_DIFFER & set(name.split("."))
            and not (name in _KNOWN_LATE and absent in (theirs.get(name, absent), ours.get(name, absent)))
        ]
        if differing:
            raise InputError(f"{folder} holds a run of another config: {'; '.join(differing)}")


def _read(path: Path) -> Any:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no settings of a run; name another folder")
    return values


def _fields(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in settings.items():
        fields |= _fields(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return fields
