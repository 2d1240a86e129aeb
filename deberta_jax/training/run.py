"""The settings of a run, and the run folder that belongs to them."""

import json
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
# Settings that are known only after the data was read, and absent before.
_MAY_BE_ABSENT = {"rows"}


def claim_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings as `config.json` into a run folder; raises InputError as `check_settings` does."""
    check_settings(folder, settings)
    write_json(make_folder(folder) / "config.json", settings)


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise InputError, naming the settings that differ, if a folder contains a run with other settings.

    The number of steps or epochs may be larger than before. Settings that are known only after reading the data may be
    absent on either side.
    """
    path = folder / "config.json"
    if not path.exists():
        return
    previous, current = _flatten(read_json(path)), _flatten(json.loads(json.dumps(settings)))
    differences = []
    for name in sorted(previous.keys() | current.keys()):
        before, now = previous.get(name, "absent"), current.get(name, "absent")
        if before == now or _MAY_CHANGE & set(name.split(".")):
            continue
        if name in _MAY_BE_ABSENT and "absent" in (before, now):
            continue
        if name in _MAY_GROW and isinstance(before, int | float) and isinstance(now, int | float):
            if now < before:
                raise InputError(
                    f"{folder}: this run has {before} {name.rpartition('.')[2]}, and {now} would be fewer; "
                    f"give at least {before}, or another folder"
                )
            continue
        differences.append(f"{name} ({before} in the folder, {now} now)")
    if differences:
        raise InputError(
            f"{folder} contains a run with other settings: {list_names(differences, '; ')}; use another folder"
        )


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in settings.items():
        fields |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return fields
