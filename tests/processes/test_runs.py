"""Two processes as one run: the losses of one process on as many devices, through kills and preemption."""

import os
import signal
import socket

import pytest
from stub_runs import STEPS, each_step_once, lines_of, start, wait_for_step
from train_stub import config, train_stub

from deberta_jax.errors import InputError
from deberta_jax.processes.config import ProcessesConfig

PROCESSES = 2


def start_all(folder, **options):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    return [start(folder, devices=4, processes=[address, PROCESSES, n], **options) for n in range(PROCESSES)]


def end_all(processes):
    """The last line that each process prints; the collectives of the CPU backend print other lines before it."""
    return [process.communicate(timeout=300)[0].splitlines()[-1:] for process in processes]


def test_two_processes_train_as_one_through_a_kill_and_a_sigterm_to_one_of_them(uninterrupted, tmp_path):
    processes = start_all(tmp_path, pause=0.02)
    wait_for_step(tmp_path, 10, processes[0])
    for process in processes:
        process.kill()
    end_all(processes)

    # On this mesh every process has a part of each row's computation, and so every row.
    processes = start_all(tmp_path, mesh=[1, 1, 8], pause=0.05, checkpoint_every=1000)
    wait_for_step(tmp_path, 14, processes[0])
    os.kill(processes[1].pid, signal.SIGTERM)
    (first,), second = end_all(processes)
    assert [process.returncode for process in processes] == [0] * PROCESSES
    assert second == [first]
    words = first.split()
    assert (words[0], words[2]) == ("stopped", "SIGTERM")
    stopped = int(words[1])
    assert 14 <= stopped < STEPS
    assert str(stopped) in {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert each_step_once(tmp_path, stopped)

    # One process resumes what several have saved.
    train_stub(tmp_path, config())
    assert each_step_once(tmp_path)
    actual, expected = lines_of(tmp_path), lines_of(uninterrupted)
    for step in range(1, STEPS + 1):
        assert actual[step]["loss"] == pytest.approx(expected[step]["loss"], rel=1e-5), step


def test_an_incomplete_description_of_the_processes_is_refused():
    with pytest.raises(InputError, match="require each other"):
        ProcessesConfig(join=True, coordinator="localhost:1")
    with pytest.raises(InputError, match="require each other"):
        ProcessesConfig(count=2)
