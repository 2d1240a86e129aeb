"""A run that branches off from a checkpoint of another run, with other steps and another decay."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.files import make_folder, read_json
from deberta_jax.training.run import check_same_settings

_COPIED = "metrics.jsonl", "tokenizer"


def check_branch(checkpoint: Path, settings: Mapping[str, Any]) -> None:
    """Raise InputError if the checkpoint, RUN/checkpoints/STEP, is missing, or if its run has other settings.

    What may change when a run resumes may also change here, and the number of steps may be any from STEP on.
    """
    if not (checkpoint.name.isdigit() and checkpoint.is_dir()):
        raise InputError(f"{checkpoint}: no checkpoint; give the folder of a step, RUN/checkpoints/STEP")
    previous = read_json(_run_of(checkpoint) / "config.json")
    step = int(checkpoint.name)
    previous["training"] = {**previous.get("training", {}), "steps": step}
    check_same_settings(checkpoint, previous, settings)


def copy_branch(checkpoint: Path, folder: Path) -> None:
    """Copy the checkpoint, the metrics and the tokenizer of its run into a run folder that has no checkpoint yet."""
    checkpoints = make_folder(folder / "checkpoints")
    if any(path.name.isdigit() for path in checkpoints.iterdir()):
        return
    for name in _COPIED:
        source, target = _run_of(checkpoint) / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.exists():
            shutil.copyfile(source, target)
    # The checkpoint gets its name when it is complete.
    temporary = checkpoints / f"{checkpoint.name}.branch"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        shutil.copytree(checkpoint, temporary)
    except (OSError, shutil.Error) as error:
        raise InputError(f"{checkpoint}: cannot be copied to {checkpoints} ({error}); free disk space") from None
    os.replace(temporary, checkpoints / checkpoint.name)


def _run_of(checkpoint: Path) -> Path:
    return checkpoint.absolute().parents[1]
