"""Checkpoints: saved in the background, each complete or absent, and verified when they are restored."""

import asyncio
import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from deberta_jax.errors import InputError, list_names
from deberta_jax.model.tree import named_leaves
from deberta_jax.training.checkpoint_errors import LIMITS, one_line
from deberta_jax.training.fingerprint import fingerprint
from deberta_jax.training.orbax_output import OrbaxOutput
from deberta_jax.training.state import TrainState

_log = logging.getLogger(__name__)
_policies = ocp.training.preservation_policies
# Devices with copies of an array save a slice each if a slice has this size; Orbax compiles a program per slice.
_MIN_SLICE_BYTES = 2**20
# What Orbax raises if a save fails. It cancels what other threads are doing, and sometimes that error comes first.
_FAILURES = Exception, asyncio.CancelledError
# How often a wait for Orbax looks for errors that it has only logged.
_POLL_SECONDS = 0.5


class DamagedCheckpoint(Exception):
    """A checkpoint cannot be restored because its files are damaged."""


class Checkpointer:
    """The checkpoints of one run: a folder per saved step, written by Orbax, with a fingerprint of every array.

    The latest `keep` steps are kept, and every step divisible by `keep_every`. The folder of a step gets its name only
    when it is complete, so a process killed while saving leaves the previous steps intact. `read_only` leaves
    unfinished saves of another process alone.
    """

    def __init__(self, folder: Path, keep: int = 2, keep_every: int = 0, *, read_only: bool = False):
        self.folder = folder.absolute()
        policies: list[Any] = [_policies.LatestN(keep)]
        if keep_every:
            policies.append(_policies.EveryNSteps(keep_every))
        context = ocp.Context()
        context.array.saving.min_slice_bytes_for_replica_parallel = _MIN_SLICE_BYTES
        self._output = OrbaxOutput()
        try:
            self._orbax = ocp.training.Checkpointer(
                self.folder,
                context=context,
                preservation_policy=_policies.AnyPreservationPolicy(policies),
                cleanup_tmp_directories=not read_only,
            )
        except BaseException:
            self._output.restore()
            raise
        self._saving: tuple[int, Any] | None = None
        self._failed: int | None = None

    @property
    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, in ascending order."""
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    def save(self, state: TrainState, note: Mapping[str, Any]) -> None:
        """Start to save a state with a note (JSON), unless its step is saved already.

        Returns as soon as the state may be donated. Raises InputError if this save or the previous one fails, for
        example because the disk is full.
        """
        self.wait()
        step = int(state.step)
        if step in self.steps:
            return
        arrays = named_leaves(state)
        fingerprints = fingerprint(arrays)
        leaves = {name: [list(x.shape), str(x.dtype), *fingerprints[name]] for name, x in arrays.items()}
        try:
            metadata = {"note": dict(note), "leaves": leaves, "digest": _digest(leaves, dict(note))}
            response = self._orbax.save_async(step, arrays, force=True, custom_metadata=metadata)
        except _FAILURES as error:
            raise self._save_error(step, error) from error
        self._saving = step, response

    def wait(self) -> None:
        """Wait until the save in progress is on disk."""
        while self._saving:
            self._check(seconds=_POLL_SECONDS)

    def check(self) -> None:
        """Raise InputError if the save in progress has failed already; waits for nothing."""
        if self._saving:
            self._check(seconds=0.0)

    def _check(self, seconds: float) -> None:
        """Wait for the save in progress, but not longer; raises InputError if it has failed."""
        assert self._saving
        step, response = self._saving
        try:
            response.result(timeout=seconds)
        except TimeoutError as error:
            if self._output.error is not None:
                self._saving = None
                raise self._save_error(step, self._output.error) from error
            return
        except _FAILURES as error:
            self._saving = None
            raise self._save_error(step, error) from error
        self._saving = None

    def restore_latest(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Restore the latest undamaged state, with the shardings of `abstract`, and its note; None if there is none.

        Damaged checkpoints are logged and renamed. Raises InputError if all checkpoints are damaged (renamed ones
        included), if one cannot be read for lack of memory or permission, or if its arrays differ from `abstract`.
        """
        for step in self.steps[::-1]:
            restored, damage = None, None
            try:
                restored = self._restore(step, abstract)
            except DamagedCheckpoint as error:
                damage = str(error)
            if not _on_any_process(damage is not None):
                return restored
            self._rename_damaged(step, damage or "damaged on another host")
        if damaged := sorted(path.name for path in self.folder.glob("*.damaged*")):
            raise InputError(
                f"{self.folder}: all checkpoints are damaged ({_join_names(damaged)}); remove this folder to start "
                "from step 0"
            )
        return None

    def shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of every array of the latest checkpoint, by name; empty if there is none."""
        if not self.steps:
            return {}
        metadata = self._orbax.metadata(self.steps[-1]).custom_metadata or {}
        return {name: (tuple(shape), dtype) for name, (shape, dtype, *_) in metadata.get("leaves", {}).items()}

    def restore_model(self, abstract: Any) -> Any:
        """Restore only the model of the latest checkpoint; raises InputError if it is damaged, and leaves it there."""
        step = self.steps[-1]
        expected = {f"model.{name}": leaf for name, leaf in named_leaves(abstract).items()}
        partial = ocp.Context()
        partial.pytree.loading.partial_load = True
        try:
            leaves, _ = self._read_metadata(step)
            leaves = {name: leaf for name, leaf in leaves.items() if name.startswith("model.")}
            with partial:
                arrays = self._load(step, expected, leaves)
        except DamagedCheckpoint as error:
            raise InputError(f"checkpoint {self.folder / str(step)} is damaged: {error}") from error
        return jax.tree.unflatten(jax.tree.structure(abstract), [arrays[name] for name in expected])

    def close(self) -> None:
        """Wait for the save in progress, and stop Orbax's threads."""
        try:
            self.wait()
        finally:
            self._close()

    def _close(self) -> None:
        if self._failed is None:
            self._orbax.close()
            self._output.restore()
        elif jax.process_count() == 1:
            # After a failed save Orbax raises the same error again.
            with suppress(*_FAILURES):
                self._orbax.close()
            self._output.end_threads()
            self._remove_unfinished(self._failed)
        # With several processes Orbax would wait for the others, which wait for this one to end.

    def _restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        expected = named_leaves(abstract)
        leaves, note = self._read_metadata(step)
        arrays = self._load(step, expected, leaves)
        return jax.tree.unflatten(jax.tree.structure(abstract), [arrays[name] for name in expected]), note

    def _read_metadata(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Shape, dtype and fingerprint of every array, and the note; raises DamagedCheckpoint."""
        try:
            metadata = self._orbax.metadata(step).custom_metadata or {}
        except Exception as error:
            raise self._read_error(step, error) from error
        if not metadata.keys() >= {"leaves", "note", "digest"}:
            raise DamagedCheckpoint("its metadata is missing")
        if metadata["digest"] != _digest(metadata["leaves"], metadata["note"]):
            raise DamagedCheckpoint("its metadata changed since it was saved")
        return metadata["leaves"], metadata["note"]

    def _load(self, step: int, expected: dict[str, Any], leaves: dict[str, Any]) -> dict[str, Any]:
        """Load arrays and verify their fingerprints; raises DamagedCheckpoint, or InputError for other arrays."""
        self._check_arrays(step, expected, leaves)
        try:
            with warnings.catch_warnings():
                # The reads that an error interrupts.
                warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
                arrays = self._orbax.load(step, expected)
        except Exception as error:
            raise self._read_error(step, error) from error
        fingerprints = fingerprint(arrays)
        if changed := [name for name in expected if fingerprints[name] != leaves[name][2:]]:
            raise DamagedCheckpoint(f"content changed since it was saved, in {_join_names(changed)}")
        return arrays

    def _check_arrays(self, step: int, expected: dict[str, Any], leaves: dict[str, Any]) -> None:
        missing, extra = expected.keys() - leaves.keys(), leaves.keys() - expected.keys()
        problems = [f"lacks {_join_names(sorted(missing))}"] if missing else []
        problems += [f"has {_join_names(sorted(extra))}, which the run does not have"] if extra else []
        for name in expected.keys() & leaves.keys():
            shape, dtype = list(expected[name].shape), str(expected[name].dtype)
            saved_shape, saved_dtype = leaves[name][:2]
            if (saved_shape, saved_dtype) != (shape, dtype):
                problems.append(f"has {saved_dtype}{saved_shape} where the run has {dtype}{shape}, for {name}")
        if problems:
            raise InputError(
                f"checkpoint {self.folder / str(step)} belongs to another run: it {list_names(problems, '; ')}"
            )

    def _read_error(self, step: int, error: Exception) -> Exception:
        """DamagedCheckpoint, or InputError if the error does not mean that the files are damaged."""
        reason = one_line(error)
        if reason.startswith(("MemoryError", "PermissionError", *LIMITS)) or "RESOURCE_EXHAUSTED" in reason:
            return InputError(f"cannot read checkpoint {self.folder / str(step)}: {reason}; it is unchanged")
        return DamagedCheckpoint(reason)

    def _rename_damaged(self, step: int, damage: str) -> None:
        source = self.folder / str(step)
        target = source.with_name(f"{step}.damaged")
        number = 1
        while target.exists():
            number += 1
            target = source.with_name(f"{step}.damaged{number}")
        _log.warning("checkpoint %s is damaged (%s): renamed to %s", source, damage, target.name)
        if jax.process_index() == 0:
            os.rename(source, target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"rename damaged {step}")
        self._orbax.reload()

    def _save_error(self, step: int, error: BaseException) -> InputError:
        """The error to raise after removing what was written of the step."""
        self._failed = step
        self._remove_unfinished(step)
        intact = [other for other in self.steps if other != step and (self.folder / str(other)).exists()]
        previous = f"the checkpoint of step {intact[-1]} is intact" if intact else "there is no earlier checkpoint"
        return InputError(f"cannot save step {step} in {self.folder}: {one_line(error)}; {previous}")

    def _remove_unfinished(self, step: int) -> None:
        for unfinished in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished, ignore_errors=True)


def _digest(leaves: Mapping[str, Any], note: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([leaves, note], sort_keys=True).encode()).hexdigest()


def _on_any_process(condition: bool) -> bool:
    """Whether the condition holds on any process; the same answer on all."""
    if jax.process_count() == 1:
        return condition
    return bool(np.any(multihost_utils.process_allgather(np.array(condition))))


def _join_names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
