"""Checkpoints: saved behind the step's back, whole or not at all, and checked when they come back."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from deberta_jax.errors import InputError
from deberta_jax.training.fingerprint import fingerprint
from deberta_jax.training.state import TrainState

_log = logging.getLogger(__name__)
_policies = ocp.training.preservation_policies


class Checkpointer:
    """The checkpoints of one run: a folder for each saved step, written by Orbax, with a fingerprint of every array.

    The latest `keep` steps stay, and each `keep_every`-th one. A step's folder appears under its name only when it is
    complete, so a process killed while saving leaves the former steps as they were. `read_only` leaves what another
    process is saving.
    """

    def __init__(self, folder: Path, keep: int = 2, keep_every: int = 0, *, read_only: bool = False):
        self.folder = folder.absolute()
        policies: list[Any] = [_policies.LatestN(keep)]
        if keep_every:
            policies.append(_policies.EveryNSteps(keep_every))
        self._orbax = ocp.training.Checkpointer(
            self.folder,
            preservation_policy=_policies.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=not read_only,
        )
        self._saving: tuple[int, Any] | None = None

    @property
    def steps(self) -> list[int]:
        """Complete checkpoints, the oldest first."""
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    def save(self, state: TrainState, note: Mapping[str, Any]) -> None:
        """Begin to save a state with a note (JSON), unless its step is there; returns once the state may be donated.

        Raises InputError if this or the former save fails, the disk being full for one.
        """
        self.wait()
        step = int(state.step)
        if step in self.steps:
            return
        arrays = _named(state)
        marks = fingerprint(arrays)
        leaves = {name: [list(x.shape), str(x.dtype), *marks[name]] for name, x in arrays.items()}
        try:
            metadata = {"note": dict(note), "leaves": leaves, "digest": _digest(leaves, dict(note))}
            response = self._orbax.save_async(step, arrays, force=True, custom_metadata=metadata)
        except Exception as error:
            raise self._failed(step, error) from error
        self._saving = step, response

    def wait(self) -> None:
        """Until what is being saved is on the disk."""
        if self._saving:
            (step, response), self._saving = self._saving, None
            try:
                response.result()
            except Exception as error:
                raise self._failed(step, error) from error

    def restore_latest(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest undamaged state, with the shardings of `abstract`, and its note; None if nothing was ever saved.

        A damaged step is named in the log and renamed. Raises InputError if all are damaged, or were at an earlier
        start, if one cannot be read for want of memory or permission, or if it has other arrays than `abstract`.
        """
        for step in self.steps[::-1]:
            damage, restored = self._restore(step, abstract)
            if not _anywhere(damage is not None):
                return restored
            self._set_aside(step, damage or "damaged on another host")
        if damaged := sorted(path.name for path in self.folder.glob("*.damaged*")):
            raise InputError(
                f"no usable checkpoint in {self.folder}, only damaged ones ({_few(damaged)}); remove it to begin anew"
            )
        return None

    def shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of every array of the newest checkpoint, by name; empty if there is none."""
        if not self.steps:
            return {}
        saved = self._orbax.metadata(self.steps[-1]).custom_metadata or {}
        return {name: (tuple(shape), dtype) for name, (shape, dtype, *_) in saved.get("leaves", {}).items()}

    def restore_model(self, abstract: Any) -> Any:
        """The model alone of the newest checkpoint, which stays as it is; raises InputError where it is damaged."""
        step = self.steps[-1]
        wanted = {f"model.{name}": leaf for name, leaf in _named(abstract).items()}
        leaves = (self._orbax.metadata(step).custom_metadata or {}).get("leaves", {})
        self._check_arrays(step, wanted, {name: leaf for name, leaf in leaves.items() if name.startswith("model.")})
        some = ocp.Context()
        some.pytree.loading.partial_load = True
        try:
            with some:
                arrays = self._orbax.load(step, wanted)
        except Exception as error:
            raise InputError(f"checkpoint {self.folder / str(step)} cannot be read: {_one_line(error)}") from error
        marks = fingerprint(arrays)
        if changed := [name for name in wanted if marks[name] != leaves[name][2:]]:
            raise InputError(f"checkpoint {self.folder / str(step)} changed since it was saved, in {_few(changed)}")
        return jax.tree.unflatten(jax.tree.structure(abstract), [arrays[name] for name in wanted])

    def close(self) -> None:
        """Wait, and end Orbax's threads."""
        try:
            self.wait()
        finally:
            self._orbax.close()

    def _restore(self, step: int, abstract: TrainState) -> tuple[str | None, Any]:
        """What is wrong with a step, and what was restored; one of them is None."""
        wanted = _named(abstract)
        try:
            saved = self._orbax.metadata(step).custom_metadata or {}
        except Exception as error:
            return self._damage(step, error), None
        if not saved.keys() >= {"leaves", "note", "digest"}:
            return "its metadata is missing", None
        leaves, note = saved["leaves"], saved["note"]
        if saved["digest"] != _digest(leaves, note):
            return "its metadata changed since it was saved", None
        self._check_arrays(step, wanted, leaves)
        try:
            arrays = self._orbax.load(step, wanted)
        except Exception as error:
            return self._damage(step, error), None
        marks = fingerprint(arrays)
        changed = [name for name in wanted if marks[name] != leaves[name][2:]]
        if changed:
            return f"content changed since it was saved, in {_few(changed)}", None
        return None, (jax.tree.unflatten(jax.tree.structure(abstract), [arrays[name] for name in wanted]), note)

    def _damage(self, step: int, error: Exception) -> str:
        """What an error in reading says of the files; raises InputError where it says nothing of them."""
        reason = _one_line(error)
        if reason.startswith(("MemoryError", "PermissionError")) or "RESOURCE_EXHAUSTED" in reason:
            raise InputError(
                f"cannot read checkpoint {self.folder / str(step)}: {reason}; it stays as it is"
            ) from error
        return reason

    def _check_arrays(self, step: int, wanted: dict[str, Any], leaves: dict[str, Any]) -> None:
        missing, extra = wanted.keys() - leaves.keys(), leaves.keys() - wanted.keys()
        problems = [f"lacks {_few(sorted(missing))}"] if missing else []
        problems += [f"has {_few(sorted(extra))} which the run has not"] if extra else []
        for name in wanted.keys() & leaves.keys():
            ours, theirs = (list(wanted[name].shape), str(wanted[name].dtype)), (leaves[name][0], leaves[name][1])
            if ours != theirs:
                problems.append(f"has {theirs[1]}{theirs[0]} where the run has {ours[1]}{ours[0]}, for {name}")
        if problems:
            raise InputError(f"checkpoint {self.folder / str(step)} is of another run: it {'; '.join(problems)}")

    def _set_aside(self, step: int, damage: str) -> None:
        source = self.folder / str(step)
        target = source.with_name(f"{step}.damaged")
        number = 1
        while target.exists():
            number += 1
            target = source.with_name(f"{step}.damaged{number}")
        _log.warning("checkpoint %s is damaged (%s): set aside as %s", source, damage, target.name)
        if jax.process_index() == 0:
            os.rename(source, target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {step}")
        self._orbax.reload()

    def _failed(self, step: int, error: Exception) -> InputError:
        for partial in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(partial, ignore_errors=True)
        intact = [other for other in self.steps if other != step and (self.folder / str(other)).exists()]
        former = f"the checkpoint of step {intact[-1]} is intact" if intact else "there is no former checkpoint"
        return InputError(f"cannot save step {step} in {self.folder}: {_one_line(error)}; {former}")


def _named(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): x
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def _digest(leaves: Mapping[str, Any], note: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([leaves, note], sort_keys=True).encode()).hexdigest()


def _anywhere(verdict: bool) -> bool:
    """Whether any process says so; all get the same answer."""
    if jax.process_count() == 1:
        return verdict
    return bool(np.any(multihost_utils.process_allgather(np.array(verdict))))


def _one_line(error: BaseException) -> str:
    # Orbax wraps what happened in what it tried.
    while inner := error.__cause__ or error.__context__:
        error = inner
    if "No space left" in str(error):
        return "no space left on the disk"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
