"""Runs on a disk that is full, and with a limit on the size of files: one line, and nothing is lost."""

import os
import re
import subprocess
import sys

import pytest
from stub_runs import SUPPORT, environment, exact
from train_stub import config, train_stub


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a new file system of this size at a folder; skips the test where it is not permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a file system is not permitted")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


# Set the limit, then become the command: a fork of this process, which has threads, would warn.
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def run(folder, file_limit=None):
    """Train the stub in a process of its own; its exit code, output and errors."""
    words = [str(SUPPORT / "train_stub.py"), str(folder), '{"checkpoint_every": 2}']
    limited = ["-c", LIMITED, str(file_limit)] if file_limit else []
    # Compiled programs and modules are files, too: Python would cut the latter at the limit.
    ignored = {"JAX_ENABLE_COMPILATION_CACHE": "0", "PYTHONDONTWRITEBYTECODE": "1"} if file_limit else {}
    command = [sys.executable, *limited, *words]
    process = subprocess.run(command, capture_output=True, text=True, env=environment() | ignored, check=False)
    return process.returncode, process.stdout, process.stderr


def assert_one_line(code, out, err, reason):
    assert code == 2
    *printed, error = err.splitlines()
    assert re.fullmatch(f"train_stub: cannot (save step \\d+ in|write) .*: {reason}; .*", error), err
    assert all(line.startswith(("step ", "training in ")) for line in printed), err
    assert not out


def test_a_full_disk_ends_a_run_in_one_line_and_it_continues_on_a_larger_one(small_disk, uninterrupted):
    folder = small_disk("300k") / "run"
    assert_one_line(*run(folder), "(no space left on the disk|No space left on device)")
    subprocess.run(["mount", "-o", "remount,size=20m", str(folder.parent)], check=True)
    train_stub(folder, config(checkpoint_every=2))
    assert exact(folder) == exact(uninterrupted)


def test_a_file_that_may_not_grow_ends_a_run_in_one_line(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    assert_one_line(*run(folder, file_limit=3000), "File too large")
    assert not list((folder / "checkpoints").glob("*"))
    train_stub(folder, config(checkpoint_every=2))
    assert exact(folder) == exact(uninterrupted)
