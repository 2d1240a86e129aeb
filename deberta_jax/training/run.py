"""How a run goes: its settings, and the folder that belongs to them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.training.config import MeshConfig as MeshConfig
from deberta_jax.training.config import TrainingConfig as TrainingConfig

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
