"""Checkpoints are restored to the last bit, on any mesh, and damage of any kind is detected."""

import contextlib
import errno
import functools
import gc
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_lm import build, make_batch, mesh_of
from stub_runs import SUPPORT, environment, kill_during_save

from deberta_jax.errors import InputError
from deberta_jax.model.shardings import shardings
from deberta_jax.pretraining.objectives import masked_lm_objective
from deberta_jax.training import fingerprint as fingerprints
from deberta_jax.training.checkpoint import Checkpointer
from deberta_jax.training.config import OptimizerConfig
from deberta_jax.training.fingerprint import fingerprint
from deberta_jax.training.optimizer import learning_rate, make_optimizer
from deberta_jax.training.state import abstract_state, initial_state
from deberta_jax.training.step import make_step, place

# After a load that fails, Orbax's event loop has unfinished work and warns when it is garbage-collected.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]

CONFIG = OptimizerConfig(learning_rate=0.01)
OPTIMIZER = make_optimizer(CONFIG, 100)
SCRIPT = SUPPORT / "save_repeatedly.py"


@functools.cache
def abstract(mesh):
    return abstract_state(build, OPTIMIZER, 0, mesh)


def assert_same_bits(actual, expected):
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        x, y = (jax.random.key_data(z) if jnp.issubdtype(z.dtype, jax.dtypes.prng_key) else z for z in (x, y))
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.fixture(scope="module")
def step(standard_promotion):
    """A step on a mesh of 2 x 2 x 2."""
    mesh = mesh_of(2, 2, 2)
    return make_step(masked_lm_objective, OPTIMIZER, learning_rate(CONFIG, 100), shardings(abstract(mesh), mesh))


@pytest.fixture(scope="module")
def history(step):
    """States after steps 0, 1, 2, 3 on that mesh."""
    mesh = mesh_of(2, 2, 2)
    state = initial_state(build, OPTIMIZER, 0, mesh)
    states = [jax.tree.map(jnp.copy, state)]
    for number in range(3):
        state, _ = step(state, place(make_batch(number), mesh))
        states.append(jax.tree.map(jnp.copy, state))
    return states


@pytest.fixture(scope="module")
def template(history, tmp_path_factory):
    """A folder with the checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("template")
    checkpointer = Checkpointer(folder)
    for state in history[1:3]:
        checkpointer.save(state, {"batch": int(state.step)})
    checkpointer.close()
    return folder


@pytest.fixture
def saved(template, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(template, tmp_path / "saved")


@pytest.fixture
def collected():
    """Collect the garbage of a failed load within the test."""
    yield
    gc.collect()


def restored(folder, mesh=None):
    checkpointer = Checkpointer(folder)
    try:
        return checkpointer.restore_latest(abstract(mesh or mesh_of(2, 2, 2)))
    finally:
        checkpointer.close()


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 8, 1), (1, 1, 1), (1, 2, 2)])
def test_a_state_is_restored_to_the_last_bit_on_any_mesh(shape, template, history):
    mesh = mesh_of(*shape)
    state, note = restored(template, mesh)
    assert note == {"batch": 2}
    assert_same_bits(state, history[2])
    for x, expected in zip(jax.tree.leaves(state), jax.tree.leaves(abstract(mesh)), strict=True):
        assert x.sharding.is_equivalent_to(expected.sharding, x.ndim)


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
    assert restored(tmp_path / "new") is None


def test_the_latest_and_every_nth_step_are_kept(tmp_path, history):
    checkpointer = Checkpointer(tmp_path, keep=1, keep_every=2)
    for state in history:
        checkpointer.save(state, {})
    checkpointer.wait()
    assert checkpointer.steps == [0, 2, 3]
    checkpointer.close()


def test_a_save_is_not_affected_by_the_steps_that_follow(tmp_path, history, step):
    state = jax.tree.map(jnp.copy, history[1])
    batch = place(make_batch(1), mesh_of(2, 2, 2))
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(state, {})
    for _ in range(5):
        state, _ = step(state, batch)
    checkpointer.close()
    assert_same_bits(restored(tmp_path)[0], history[1])


def data_files(step_folder):
    return sorted(
        (path for path in step_folder.rglob("*") if path.is_file() and path.parent.name == "d"),
        key=lambda p: -p.stat().st_size,
    )


def truncate(step_folder):
    for path in data_files(step_folder):
        os.truncate(path, path.stat().st_size // 2)


def delete_data(step_folder):
    for path in data_files(step_folder):
        path.unlink()


def truncate_manifest(step_folder):
    for path in step_folder.rglob("manifest.ocdbt"):
        os.truncate(path, 5)


def delete_metadata(step_folder):
    (step_folder / "_CHECKPOINT_METADATA").unlink()


def change_metadata(step_folder):
    path = step_folder / "_CHECKPOINT_METADATA"
    path.write_text(path.read_text().replace("float32", "float31", 1))


def truncate_tree(step_folder):
    path = next(step_folder.rglob("_METADATA"))
    os.truncate(path, path.stat().st_size // 2)


def empty(step_folder):
    for path in sorted(step_folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    "damage", [truncate, delete_data, truncate_manifest, delete_metadata, change_metadata, truncate_tree, empty]
)
def test_a_damaged_checkpoint_is_logged_and_renamed_and_the_previous_one_is_restored(
    damage, saved, history, caplog, collected
):
    damage(saved / "2")
    state, note = restored(saved)
    assert note == {"batch": 1}
    assert_same_bits(state, history[1])
    assert (saved / "2.damaged").is_dir() and not (saved / "2").exists()
    assert f"checkpoint {saved / '2'} is damaged" in caplog.text
    # One line, and no stack traces of the arrays that were read at the same time.
    assert [record.name.partition(".")[0] for record in caplog.records if record.levelno >= logging.WARNING] == [
        "deberta_jax"
    ]


def test_a_step_can_be_saved_again_after_it_was_renamed_as_damaged_twice(saved, history, collected):
    for _ in range(2):
        delete_data(saved / "2")
        restored(saved)
        checkpointer = Checkpointer(saved)
        checkpointer.save(history[2], {"batch": 2})
        checkpointer.close()
    assert_same_bits(restored(saved)[0], history[2])
    assert (saved / "2.damaged2").is_dir()


def test_flipped_bits_in_the_data_are_detected(template, tmp_path, history, collected):
    """Orbax itself loads many of these checkpoints without an error."""
    rng = random.Random(0)
    changed = 0
    for turn in range(6):
        folder = shutil.copytree(template, tmp_path / str(turn))
        for path in data_files(folder / "2"):
            content = bytearray(path.read_bytes())
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            path.write_bytes(content)
        # A flipped bit that no array depends on may stay undetected.
        state, _ = restored(folder)
        assert_same_bits(state, history[int(state.step)])
        changed += int(state.step) == 1
    assert changed >= 4


def test_an_array_that_changed_on_disk_is_named_in_the_log(saved, history, monkeypatch, caplog):
    checkpointer = Checkpointer(saved)
    load = checkpointer._orbax.load

    def flip(step, expected):
        arrays = load(step, expected)
        if step == 2:
            arrays["model.up.value"] = arrays["model.up.value"].at[0, 0, 0].multiply(1 + 2**-23)
        return arrays

    monkeypatch.setattr(checkpointer._orbax, "load", flip)
    state, _ = checkpointer.restore_latest(abstract(mesh_of(2, 2, 2)))
    checkpointer.close()
    assert int(state.step) == 1
    assert "content changed since it was saved, in model.up.value" in caplog.text


def test_damage_to_every_step_is_an_error(saved, collected):
    for step in ("1", "2"):
        delete_data(saved / step)
    for _ in range(2):
        # Also at the second start, when both were renamed: the run must not start again from step 0.
        with pytest.raises(InputError, match=r"all checkpoints are damaged \(1.damaged, 2.damaged\)"):
            restored(saved)


def test_an_error_that_does_not_mean_damage_renames_nothing(saved, monkeypatch):
    checkpointer = Checkpointer(saved)

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(checkpointer._orbax, "load", fail)
    with pytest.raises(InputError, match="MemoryError; it is unchanged"):
        checkpointer.restore_latest(abstract(mesh_of(2, 2, 2)))
    checkpointer.close()
    assert (saved / "2").is_dir()


def test_too_many_open_files_are_not_reported_as_damage(saved, monkeypatch):
    checkpointer = Checkpointer(saved)

    def load(self, step, expected):
        raise ValueError("cannot open") from OSError(24, "Too many open files")

    monkeypatch.setattr(type(checkpointer._orbax), "load", load)
    with pytest.raises(InputError, match="cannot read checkpoint .*2: Too many open files; it is unchanged"):
        checkpointer.restore_latest(abstract(mesh_of(2, 2, 2)))
    checkpointer.close()
    assert (saved / "2").is_dir()


def test_arrays_of_another_model_are_not_reported_as_damage(saved):
    def wider(key):
        model = build(key)
        model.bias.set_value(jnp.zeros(50))
        return model

    other = abstract_state(wider, OPTIMIZER, 0, mesh_of(2, 2, 2))
    checkpointer = Checkpointer(saved)
    with pytest.raises(InputError, match=r"has float32\[48\] where the run has float32\[50\], for model.bias.value"):
        checkpointer.restore_latest(other)
    checkpointer.close()
    assert (saved / "2").is_dir()


def save_repeatedly(folder, mode):
    pipe = subprocess.PIPE
    command = [sys.executable, SCRIPT, folder, mode]
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment())


def test_a_full_disk_leaves_the_previous_checkpoint_and_is_reported_in_one_line(saved, history):
    """Each write of more than a few bytes fails, as on a full disk."""
    process = save_repeatedly(saved, "full-disk")
    out, err = process.communicate()
    assert process.returncode == 2, err
    reason = "(File too large|a write failed; check whether the disk is full)"
    assert re.fullmatch(f"cannot save step 3 in {saved}: {reason}; the checkpoint of step 2 is intact", out.strip())
    # Orbax logs stack traces in each of its threads; JAX warns about programs that it cannot cache.
    assert "Traceback" not in err and "ERROR" not in err
    assert_same_bits(restored(saved)[0], history[2])
    assert not list(saved.glob("*tmp*"))


def test_a_folder_that_cannot_be_written_ends_a_save_at_once(tmp_path, history):
    """Orbax's threads would wait ten minutes for the one that fails to create the folder of the step."""
    folder = tmp_path / "checkpoints"
    checkpointer = Checkpointer(folder)
    folder.rmdir()
    folder.write_text("")
    start = time.monotonic()
    # The error comes while the save starts, or after.
    with (
        pytest.raises(
            InputError, match="cannot save step 0 in .*: (NotADirectory|FileNotFound)Error: .*; there is no earlier"
        ),
        contextlib.closing(checkpointer),
    ):
        checkpointer.save(history[0], {})
    assert time.monotonic() - start < 10
    assert not [thread for thread in threading.enumerate() if type(thread).__module__.startswith("orbax.")]


def test_a_process_killed_during_a_save_leaves_a_usable_previous_checkpoint(saved):
    process = save_repeatedly(saved, "until-killed")
    for line in process.stdout:
        if line.startswith("saving 8"):
            break
    kill_during_save(saved, process)
    state, note = restored(saved)
    # Step 7 may be incomplete; step 6 is complete.
    assert int(state.step) == note["step"] >= 6
    assert not list(saved.glob("*.damaged*"))


@given(
    dtype=st.sampled_from(["float32", "bfloat16", "float16", "int32", "uint8", "bool"]),
    shape=st.sampled_from([(7,), (3, 2, 5)]),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_one_flipped_bit_changes_the_fingerprint(dtype, shape, data):
    content = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 256, shape).astype(jnp.dtype(dtype))
    flipped = content.copy()
    raw = flipped.view(np.uint8).reshape(-1)
    bit = 0 if dtype == "bool" else data.draw(st.integers(0, 7))
    raw[data.draw(st.integers(0, raw.size - 1))] ^= 1 << bit
    before, after = fingerprint({"x": jnp.asarray(content)})["x"], fingerprint({"x": jnp.asarray(flipped)})["x"]
    assert before[0] != after[0] and before[1] != after[1]


def test_fingerprints_of_arrays_are_computed_one_after_the_other(monkeypatch):
    """Programs with collectives that run at once on XLA's CPU devices wait for each other forever."""
    calls = []
    monkeypatch.setattr(fingerprints, "_array_sums", lambda x: calls.append("start") or [0, 0])
    monkeypatch.setattr("jax.device_get", lambda x: calls.append("end") or x)
    assert fingerprint({"a": 1, "b": 2}) == {"a": [0, 0], "b": [0, 0]}
    assert calls == ["start", "end"] * 2


def test_two_swapped_rows_change_the_fingerprint():
    x = jax.random.normal(jax.random.key(0), (64, 8))
    assert fingerprint({"x": x}) != fingerprint({"x": x[jnp.arange(64).at[3].set(9).at[9].set(3)]})


def test_a_fingerprint_does_not_depend_on_the_sharding():
    x = jax.random.normal(jax.random.key(0), (16, 8, 4))
    fingerprints = [fingerprint({"x": x})]
    for axes in [("data", None, None), (None, "fsdp", "tensor"), ("tensor", None, "data")]:
        sharding = jax.NamedSharding(mesh_of(2, 2, 2), jax.P(*axes))
        fingerprints.append(fingerprint({"x": jax.device_put(x, sharding)}))
    assert all(other == fingerprints[0] for other in fingerprints)


def test_an_error_of_a_save_is_raised_by_the_next_save(tmp_path, history, monkeypatch):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(history[0], {})
    checkpointer.wait()

    class Failed:
        def result(self, timeout=None):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpointer._orbax, "save_async", lambda *_, **__: Failed())
    checkpointer.save(history[1], {})
    with pytest.raises(
        InputError, match="cannot save step 1 in .*: no space left on the disk; the checkpoint of step 0 is intact"
    ):
        checkpointer.save(history[2], {})
    checkpointer.close()
