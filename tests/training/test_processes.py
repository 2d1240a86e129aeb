"""Two processes as one run: the same losses as one process on as many devices, through kills and preemption."""

import os
import signal
import socket

import numpy as np
import pytest
from test_loop import each_step_once, lines_of, start, wait_for_step

from deberta_jax.errors import InputError
from deberta_jax.training.config import ProcessesConfig

PROCESSES = 2


def start_all(folder, **options):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    return [start(folder, devices=4, processes=[address, PROCESSES, n], **options) for n in range(PROCESSES)]


def end_all(processes):
    """The last line that each prints; the collectives of a CPU say something before it."""
    return [process.communicate(timeout=120)[0].splitlines()[-1:] for process in processes]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    out, err = start(folder, steps=30).communicate()
    assert out == "complete 30\n", err
    return lines_of(folder)


def test_killed_and_started_again_two_processes_train_as_one_does(alone, tmp_path):
    processes = start_all(tmp_path, steps=30, pause=0.02)
    wait_for_step(tmp_path, 16, processes[0])
    for process in processes:
        process.send_signal(signal.SIGKILL)
    end_all(processes)
    assert end_all(start_all(tmp_path, steps=30)) == [["complete 30"]] * PROCESSES
    assert each_step_once(tmp_path, 30)
    losses = [[lines[step]["loss"] for step in sorted(lines)] for lines in (lines_of(tmp_path), alone)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_sigterm_to_one_process_stops_all_after_the_same_step(alone, tmp_path):
    # Every process holds a part of each row's work, and so all rows.
    processes = start_all(tmp_path, mesh=[1, 1, 8], steps=30, pause=0.05, checkpoint_every=1000)
    wait_for_step(tmp_path, 5, processes[0])
    os.kill(processes[1].pid, signal.SIGTERM)
    (first,), second = end_all(processes)
    assert [process.returncode for process in processes] == [0] * PROCESSES
    assert second == [first]
    assert first.startswith("stopped")
    stopped = int(first.split()[1])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [str(stopped)]
    losses = [[lines_of(tmp_path)[step]["loss"], alone[step]["loss"]] for step in range(1, stopped + 1)]
    np.testing.assert_allclose(*zip(*losses, strict=True), rtol=1e-5)


def test_a_half_described_group_is_refused():
    with pytest.raises(InputError, match="go together"):
        ProcessesConfig(join=True, coordinator="localhost:1")
    with pytest.raises(InputError, match="go together"):
        ProcessesConfig(count=2)
