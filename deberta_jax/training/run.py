"""The settings of a run, and the run folder that belongs to them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError, list_names
from deberta_jax.files import make_folder, read_json, write_json

# Settings that may change when a run resumes: they change where and when work is done. (`accumulate` also changes the
# dropout masks, and `decay_steps` the learning rate of the remaining steps.)
_MAY_CHANGE = {
    "mesh",
    "attention",
    "accumulate",
    "evaluate_every",
    "checkpoint_every",
    "keep",
    "keep_every",
    "stop_after",
    "workers",
    "decay_steps",
}
# Settings that may grow: the length of the run.
_MAY_GROW = {"training.steps", "epochs"}
# Digests of what was read, under the settings "rows" and "content"; unknown before it is read.
_MAY_BE_ABSENT = ("rows", "content.")
# Settings that say where something is read. They may change if the content, whose digests are compared, does not.
_NO_LOCATIONS = {"None", "[]", "fresh", "absent"}
_LOCATIONS = {"data.files", "data.held_out", "data.shards", "tokenizer", "init_from", "generator"}
# In fine-tuning, the pretrained model; in pretraining, where its digest is not in the settings, the name of a preset.
_MODEL = "model"


def claim_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings as `config.json` into a run folder; raises InputError as `check_settings` does."""
    check_settings(folder, settings)
    write_json(make_folder(folder) / "config.json", settings)


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise InputError, naming the settings that differ, if a folder contains a run with other settings.

    The number of steps or epochs may be larger than before. Digests of content that is not read yet may be absent.
    Paths and names of the same content may change; without its digests in the folder they may not.
    """
    path = folder / "config.json"
    if path.exists():
        check_same_settings(folder, read_json(path), settings)


def check_same_settings(source: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise InputError, naming the settings that differ, as `check_settings` does; `source` is named in the message."""
    previous, current = _flatten(before), _flatten(json.loads(json.dumps(now)))
    has_digests = any(name.startswith("content.") for name in previous)
    locations = _LOCATIONS | ({_MODEL} if f"content.{_MODEL}" in previous else set())
    differences: list[str] = []
    moved: list[str] = []
    for name in sorted(previous.keys() | current.keys()):
        old, new = previous.get(name, "absent"), current.get(name, "absent")
        if old == new or _MAY_CHANGE & set(name.split(".")):
            continue
        if name.startswith(_MAY_BE_ABSENT) and "absent" in (old, new):
            continue
        if has_digests and name in locations and not {str(old), str(new)} & _NO_LOCATIONS:
            moved.append(name)
            continue
        if name in _MAY_GROW and isinstance(old, int | float) and isinstance(new, int | float):
            if new < old:
                raise InputError(
                    f"{source}: this run has {old:.15g} {name.rpartition('.')[2]}, and {new:.15g} would be fewer; "
                    f"give at least {old:.15g}, or another folder"
                )
            continue
        is_digest = all(re.fullmatch("[0-9a-f]{64}", str(value)) for value in (old, new))
        differences.append(f"{name} (other content)" if is_digest else f"{name} ({old} in the folder, {new} now)")
    if differences:
        differences += [f"{name} ({previous.get(name)} in the folder, {current.get(name)} now)" for name in moved]
        raise InputError(
            f"{source} contains a run with other settings: {list_names(differences, '; ')}; use another folder"
        )


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in settings.items():
        fields |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return fields
