"""Several processes as one run: the losses of one process on as many devices, and an end of all of them together."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from stub_runs import STEPS, each_step_once, environment, lines_of, start, wait_for_step
from train_stub import config, train_stub

from deberta_jax.errors import InputError
from deberta_jax.processes.config import ProcessesConfig

TIMEOUT = 20.0


def free_address():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return f"localhost:{probe.getsockname()[1]}"


def start_all(folder, count=2, devices=4, **options):
    address = free_address()
    return [start(folder, devices, processes=[address, count, n, TIMEOUT], **options) for n in range(count)]


def end_all(processes):
    """The last line that each process prints, the error in one line, and the exit codes.

    The collectives of the CPU backend print other lines before it.
    """
    ends = [process.communicate(timeout=300) for process in processes]
    errors = [
        [line for line in error.splitlines() if line.startswith(("deberta-jax:", "train_stub:"))] for _, error in ends
    ]
    assert not any("Traceback" in error for _, error in ends), ends
    return [output.splitlines()[-1:] for output, _ in ends], errors, [process.returncode for process in processes]


def disturb(processes, stack):
    """Connect to all ports of processes, and send what they do not expect."""
    sockets = [one for process in processes for one in psutil.Process(process.pid).net_connections("tcp")]
    # Those of the run, of JAX's coordinator, and of the collectives.
    ports = [one.laddr.port for one in sockets if one.status == psutil.CONN_LISTEN]
    assert len(ports) >= 2 + len(processes)
    # None of them listens on all interfaces.
    assert {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN} <= {
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
    }
    for port in ports:
        for content in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(1000), b"\xff" * 100_000):
            stray = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            with contextlib.suppress(ConnectionError):
                stray.sendall(content)


def test_two_processes_train_as_one_through_stray_connections_a_kill_and_a_sigterm_to_one_of_them(
    uninterrupted, tmp_path
):
    processes = start_all(tmp_path, pause=0.02)
    wait_for_step(tmp_path, 10, processes[0])
    processes[1].kill()
    _, errors, codes = end_all(processes)
    assert codes == [1, -signal.SIGKILL]
    (error,) = errors[0]
    assert error.startswith("deberta-jax: process 1 (") and "to resume, run the same command again" in error

    # On this mesh every process has a part of each row's computation, and so every row.
    processes = start_all(tmp_path, mesh=[1, 1, 8], pause=0.05, checkpoint_every=1000)
    wait_for_step(tmp_path, 12, processes[0])
    with contextlib.ExitStack() as stack:
        disturb(processes, stack)
        wait_for_step(tmp_path, 14, processes[0])
        os.kill(processes[1].pid, signal.SIGTERM)
        ((first,), second), errors, codes = end_all(processes)
    assert codes == [0, 0]
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
    assert_same_losses(tmp_path, uninterrupted)


def assert_same_losses(folder, uninterrupted):
    actual, expected = lines_of(folder), lines_of(uninterrupted)
    for step in range(1, STEPS + 1):
        assert actual[step]["loss"] == pytest.approx(expected[step]["loss"], rel=1e-5), step


def test_the_first_process_dies(tmp_path):
    processes = start_all(tmp_path, pause=0.02)
    wait_for_step(tmp_path, 3, processes[0])
    processes[0].kill()
    killed = time.monotonic()
    _, errors, codes = end_all(processes)
    assert codes == [-signal.SIGKILL, 1]
    assert time.monotonic() - killed < TIMEOUT
    (error,) = errors[1]
    assert error.startswith("deberta-jax: process 0 (localhost:")


def test_a_suspended_process_ends_the_others_within_the_timeout(tmp_path):
    processes = start_all(tmp_path, pause=0.02)
    wait_for_step(tmp_path, 3, processes[0])
    processes[1].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    _, errors, codes = end_all(processes[:1])
    assert codes == [1]
    # The last heartbeat came up to a second before, and the process needs some time to end.
    assert time.monotonic() - stopped < TIMEOUT + 10
    assert f"did not respond for {TIMEOUT:g} s" in errors[0][0]
    processes[1].send_signal(signal.SIGCONT)
    _, errors, codes = end_all(processes[1:])
    assert codes == [1]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_failing_disk_on_one_host_ends_all_and_the_previous_checkpoint_is_intact(uninterrupted, tmp_path, victim):
    processes = start_all(tmp_path, pause=0.2, steps=STEPS, checkpoint_every=5)
    wait_for_step(tmp_path, 7, processes[0])
    # From now on this process cannot write files that are larger.
    resource.prlimit(processes[victim].pid, resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    limited = time.monotonic()
    _, errors, codes = end_all(processes)
    assert codes == [2, 2]
    # With the steps before the next checkpoint.
    assert time.monotonic() - limited < TIMEOUT
    for lines in errors:
        assert len(lines) == 1 and "cannot" in lines[0], errors
    train_stub(tmp_path, config(checkpoint_every=5))
    assert_same_losses(tmp_path, uninterrupted)


def test_a_run_moves_between_numbers_of_processes_and_devices(uninterrupted, tmp_path):
    for until, count, devices, mesh in (
        (8, 4, 2, [2, 2, 2]),
        (15, 2, 1, [2, 1, 1]),
        (22, 1, 8, [1, 8, 1]),
        (STEPS, 4, 2, [4, 2, 1]),
    ):
        if count == 1:
            process = start(tmp_path, devices, mesh=mesh, pause=0.05, checkpoint_every=1)
            wait_for_step(tmp_path, until, process)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=300)
            assert process.returncode == 0
            continue
        processes = start_all(tmp_path, count, devices, mesh=mesh, pause=0.05, checkpoint_every=1)
        if until < STEPS:
            wait_for_step(tmp_path, until, processes[0])
            processes[0].send_signal(signal.SIGTERM)
        _, _, codes = end_all(processes)
        assert codes == [0] * count
    assert each_step_once(tmp_path)
    assert_same_losses(tmp_path, uninterrupted)


def test_different_settings_end_all_before_anything_is_trained(tmp_path):
    address = free_address()
    processes = [
        start(tmp_path, 4, processes=[address, 2, n, TIMEOUT], settings={"--batch-size": 8 * (n + 1)}) for n in range(2)
    ]
    _, errors, codes = end_all(processes)
    assert codes == [2, 2]
    host = socket.gethostname()
    for lines in errors:
        assert f"--batch-size is 8 in process 0 ({host}) and 16 in process 1 ({host})" in lines[0]
    assert not list(tmp_path.iterdir())


def errors_of_hosts(folders, words, other_words=(), other_variables=None):
    """Run `deberta-jax pretrain` as two processes in these folders; the errors, which must have exit code 2.

    The second process has additional words and variables.
    """
    address = free_address()
    processes = []
    for index, folder in enumerate(folders):
        options = ["--processes.join", "--processes.coordinator", address, "--processes.count", "2"]
        options += ["--processes.index", str(index), "--processes.timeout", f"{TIMEOUT:g}"]
        command = [sys.executable, "-m", "deberta_jax", "pretrain", *words, *options, *(other_words if index else [])]
        variables = environment(1) | ((other_variables or {}) if index else {})
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables, cwd=folder))
    errors = [process.communicate(timeout=200)[1].strip() for process in processes]
    assert [process.returncode for process in processes] == [2, 2], errors
    return errors


@pytest.fixture
def hosts(tmp_path):
    """The folders of two hosts; only the first has a text."""
    folders = [tmp_path / "host", tmp_path / "other host"]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "text.txt").write_text("A text.\n")
    return folders


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(["--stepz", "3"], "no option --stepz; did you mean --steps?"), ([], "text.txt: no such file")],
)
def test_wrong_input_on_one_host_ends_all_with_its_message(tmp_path, hosts, wrong, message):
    words = ["demo", "--data.files", "text.txt", "--folder", str(tmp_path / "run")]
    host = socket.gethostname()
    for index, error in enumerate(errors_of_hosts(hosts, words, wrong)):
        assert "\n" not in error and message in error, error
        assert (f"process 1 ({host}): " in error) == (index != 1)


def test_another_variable_on_one_host_and_a_folder_that_is_not_shared_end_all(tmp_path, hosts):
    host = socket.gethostname()
    words = ["tiny", "--data.files", "text.txt", "--folder", str(tmp_path / "run")]
    message = f"the variable JAX_ENABLE_X64 is unset in process 0 ({host}) and 1 in process 1 ({host})"
    for error in errors_of_hosts(hosts, words, other_variables={"JAX_ENABLE_X64": "1"}):
        assert message in error
    for error in errors_of_hosts(hosts, ["tiny", "--folder", "run", "--data.files", str(hosts[0] / "text.txt")]):
        assert "run: the first process has created this folder, but this host does not see it" in error


def test_an_incomplete_description_of_the_processes_is_refused():
    with pytest.raises(InputError, match="require each other"):
        ProcessesConfig(join=True, coordinator="localhost:1")
    with pytest.raises(InputError, match="require each other"):
        ProcessesConfig(count=2)
    with pytest.raises(InputError, match=r"processes.index is 2; it must be from 0 to 1"):
        ProcessesConfig(join=True, coordinator="localhost:1", count=2, index=2)
