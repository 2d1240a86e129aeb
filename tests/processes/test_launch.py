"""`deberta-jax launch` starts, watches and restarts the processes of a run; a script stands for the command here."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from stub_runs import environment
from toy_text import write_texts

from deberta_jax.cli.main import main
from deberta_jax.errors import InputError
from deberta_jax.processes.launch import environments, launch
from deberta_jax.training.recorder import read_metrics

SCRIPT = """
    import os, signal, sys, time
    from pathlib import Path
    folder, action = Path(sys.argv[1]), sys.argv[2]
    options = dict(zip(sys.argv[3:], sys.argv[4:]))
    index = int(options["--processes.index"])
    starts = len(list(folder.glob(f"{index}-*")))
    (folder / f"{index}-{starts}").write_text(" ".join(sys.argv[3:]))
    print("error of", index, file=sys.stderr)
    if action == "killed once" and index == 1 and not starts:
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "suspended" and index == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    if action == "refused":
        sys.exit(2)
    if action == "terminated":
        # The second process has not installed its handler yet.
        if not index:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        time.sleep(60)
    if action in ("failing", "killed once", "suspended"):
        time.sleep(0.5)
        sys.exit(int(action != "killed once" or not starts))
"""


@pytest.fixture
def run(tmp_path):
    """Run the script in a folder, and return the exit code and what was reported."""
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    (tmp_path / "starts").mkdir()

    def run(action, count=2, restarts=2, timeout=1.0):
        reports = []
        program = (sys.executable, str(tmp_path / "script.py"))
        command = [str(tmp_path / "starts"), action]
        shared = [dict(os.environ)] * count
        code = launch(command, shared, restarts=restarts, timeout=timeout, report=reports.append, program=program)
        return code, reports

    return run


def starts(tmp_path):
    return sorted(path.name for path in (tmp_path / "starts").iterdir())


def test_each_process_gets_its_index_and_the_same_address(run, tmp_path, capfd):
    assert run("complete", count=3) == (0, [])
    assert starts(tmp_path) == ["0-0", "1-0", "2-0"]
    words = [(tmp_path / f"starts/{index}-0").read_text().split() for index in range(3)]
    assert [(w[0], w[1], w[3:5], w[5:7], w[7:]) for w in words] == [
        ("--processes.join", "--processes.coordinator", ["--processes.count", "3"], ["--processes.timeout", "1"],
         ["--processes.index", str(index)])
        for index in range(3)
    ]  # fmt: skip
    assert len({w[2] for w in words}) == 1 and words[0][2].startswith("localhost:")
    assert sorted(capfd.readouterr().err.splitlines()) == ["[1] error of 1", "[2] error of 2", "error of 0"]


def test_after_a_killed_process_all_are_started_again(run, tmp_path):
    code, reports = run("killed once")
    assert (code, starts(tmp_path)) == (0, ["0-0", "0-1", "1-0", "1-1"])
    assert reports == ["process 1 was killed by SIGKILL; starting all processes again (1 of 2 restarts)"]


def test_a_failure_is_repeated_as_often_as_the_restarts_allow(run, tmp_path):
    code, reports = run("failing", restarts=1)
    assert (code, starts(tmp_path)) == (1, ["0-0", "0-1", "1-0", "1-1"])
    assert reports[-1] == "process 0 ended with exit code 1; all processes have ended"


def test_an_error_of_the_input_is_not_repeated(run, tmp_path):
    assert run("refused") == (2, ["process 0 ended with exit code 2; all processes have ended"])
    assert starts(tmp_path) == ["0-0", "1-0"]


def test_a_suspended_process_is_killed_after_the_others_have_ended(run, monkeypatch):
    monkeypatch.setattr("deberta_jax.processes.launch._GRACE_SECONDS", 0.5)
    start = time.monotonic()
    code, reports = run("suspended", restarts=0)
    assert code == 1 and len(reports) == 1
    assert time.monotonic() - start < 10


def test_sigterm_is_forwarded_and_all_end_in_success(run, tmp_path):
    (tmp_path / "launcher.py").write_text(
        "import os, sys\nfrom deberta_jax.processes.launch import launch\n"
        "sys.exit(launch(sys.argv[2:], [dict(os.environ)] * 2, restarts=3, timeout=5.0, report=print, "
        "program=(sys.executable, sys.argv[1])))\n"
    )
    words = [tmp_path / "launcher.py", tmp_path / "script.py", tmp_path / "starts", "terminated"]
    launcher = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
    while len(starts(tmp_path)) < 2:
        time.sleep(0.05)
    time.sleep(0.5)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.communicate(timeout=30)[0] == ""
    assert launcher.returncode == 0
    assert starts(tmp_path) == ["0-0", "1-0"]


def test_gpus_are_shared_equally(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    variables = {"CUDA_VISIBLE_DEVICES": "0,1,4,5"}
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments(2, variables)] == ["0,1", "4,5"]
    with pytest.raises(InputError, match="4 GPUs cannot be shared equally by 3 processes"):
        environments(3, variables)
    assert environments(3, variables | {"JAX_PLATFORMS": "cpu"}) == [variables | {"JAX_PLATFORMS": "cpu"}] * 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no command is given; write pretrain or finetune with its options after --"),
        (["--", "predict", "x"], "launch cannot run 'predict'; write pretrain or finetune with its options after --"),
        (["--", "pretrain", "demo", "--processes.join"], "--processes.join is an option that launch sets; omit it"),
        (["--processes", "0", "--", "pretrain"], "processes is 0; it must be at least 1"),
        (["--timeout", "nan", "--", "pretrain"], "timeout is nan; it must be at least 3 and finite"),
    ],
)
def test_wrong_commands_are_one_line(words, message, capsys):
    assert main(["launch", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_run_of_two_processes_is_launched_and_stops_after_a_step(tmp_path):
    [pattern] = write_texts(tmp_path)
    folder = tmp_path / "run"
    options = ["--data.files", pattern, "--data.length", "32", "--data.evaluate-batches", "1", "--batch-size", "4"]
    words = ["launch", "--processes", "2", "--", "pretrain", "tiny", "--folder", str(folder), *options]
    command = [sys.executable, "-m", "deberta_jax", *words, "--vocabulary", "290", "--steps", "30"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(1))
    while not (folder / "metrics.jsonl").exists() or len(read_metrics(folder / "metrics.jsonl")) < 3:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.terminate()
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 0 and "Traceback" not in error, error
    stopped = read_metrics(folder / "metrics.jsonl")[-1]["step"]
    assert 3 <= stopped < 30
    assert (folder / f"checkpoints/{stopped}").is_dir()
