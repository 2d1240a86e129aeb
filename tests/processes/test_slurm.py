"""The script of docs/scaling.md on a real Slurm, whose four nodes are this machine."""

import contextlib
import getpass
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from documents import blocks, read_page
from stub_runs import each_step_once, environment
from toy_runs import call
from toy_text import write_texts

from deberta_jax.training.recorder import read_metrics

STEPS = 40
ENDS = "COMPLETED", "FAILED", "CANCELLED"
# The names of the nodes are addresses of this machine, so that nothing has to resolve them.
NODES = "127.0.1.[1-4]"
CONFIG = """
    ClusterName=test
    SlurmctldHost={host}(127.0.0.1)
    SlurmctldPort={port}
    SlurmUser={user}
    SlurmdUser={user}
    AuthType=auth/none
    CredType=cred/none
    # Seconds before a job is repeated.
    AuthInfo=cred_expire=5
    StateSaveLocation={folder}/state
    SlurmdSpoolDir={folder}/spool-%n
    SlurmctldPidFile={folder}/controller.pid
    SlurmdPidFile={folder}/%n.pid
    SlurmctldLogFile={folder}/controller.log
    SlurmdLogFile={folder}/%n.log
    ProctrackType=proctrack/linuxproc
    TaskPlugin=task/none
    SwitchType=switch/none
    MpiDefault=none
    SelectType=select/cons_tres
    GresTypes=gpu
    NodeName={nodes} NodeHostname={host} NodeAddr={nodes} Port={node_ports} Gres=gpu:8
    PartitionName=main Nodes=ALL Default=YES State=UP
"""

pytestmark = pytest.mark.slurm


def free_ports(count):
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def job(number):
    """What Slurm knows about a job, by name."""
    words = output_of("scontrol", "show", "job", number, "--oneliner").split()
    return dict(word.partition("=")[::2] for word in words)


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def wait_for_end(number):
    wait_for(lambda: job(number)["JobState"] in ENDS, 300)
    return job(number)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A controller, and the daemons of four nodes with eight GPUs each, which are empty files."""
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "state").mkdir()
    for n in range(8):
        (folder / f"gpu{n}").touch()
    (folder / "gres.conf").write_text(f"NodeName={NODES} Name=gpu File={folder}/gpu[0-7]\n")
    port, *node_ports = free_ports(5)
    values = {
        "folder": folder,
        "host": socket.gethostname(),
        "user": getpass.getuser(),
        "port": port,
        "nodes": NODES,
        "node_ports": ",".join(map(str, node_ports)),
    }
    (folder / "slurm.conf").write_text(textwrap.dedent(CONFIG).format(**values))
    commands = [["slurmctld", "-D"], *(["slurmd", "-D", "-N", f"127.0.1.{n}"] for n in range(1, 5))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        daemons = [subprocess.Popen(command, **quiet) for command in commands]
        try:
            wait_for(lambda: output_of("sinfo", "-h", "-o", "%D %t") == "4 idle\n", 60)
            yield
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The shared folder of the script: shards and a tokenizer."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "texts").mkdir()
    pattern = write_texts(folder / "texts")
    assert call("tokenizer", "--files", *pattern, "--vocabulary", 290, "--output", folder / "spm.model") == 0
    words = ["--tokenizer", folder / "spm.model", "--output", folder / "shards", "--length", 32, "--shards", 25]
    assert call("prepare", "--files", *pattern, *words) == 0
    return folder


def submit(shared, folder, options):
    """Submit the script of the page for a small model; returns the number of the job and the file of its output."""
    [block] = [block for block in blocks(read_page("docs/scaling.md")) if "#SBATCH" in block.text]
    script, output = folder / "run.sh", folder / "output"
    text = block.text.replace("v3-base", f"tiny {options}").replace("/shared", str(shared))
    # The recipe tiny trains one model.
    script.write_text(text.replace("discriminator", "model"))
    settings = environment(2) | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["sbatch", "--parsable", f"--output={output}", "--open-mode=append", script]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=settings, cwd=folder)
    return process.stdout.strip(), output


def last_step(run):
    path = run / "metrics.jsonl"
    return max((line["step"] for line in read_metrics(path)), default=0) if path.exists() else 0


def find_task(index):
    """The number of the process that is this task of a run."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words, variables = ((folder / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
            if b"pretrain" in words and f"SLURM_PROCID={index}".encode() in variables:
                return int(folder.name)
    raise AssertionError(f"task {index} does not run")


def test_a_run_continues_after_the_death_of_a_task_and_after_a_sigterm(slurm, shared, tmp_path):
    run = shared / "runs/v3"
    options = f"--steps {STEPS} --data.length 32 --batch-size 8 --checkpoint-every 5"
    number, output = submit(shared, tmp_path, options)
    wait_for(lambda: last_step(run) >= 12 or job(number)["JobState"] in ENDS, 300)
    os.kill(find_task(2), signal.SIGKILL)
    wait_for(lambda: last_step(run) >= 25 or job(number)["JobState"] in ENDS, 300)
    # As before the time limit.
    subprocess.run(["scancel", "--signal=TERM", number], check=True)
    end, text = wait_for_end(number), output.read_text()
    assert (end["JobState"], end["Restarts"], end["ExitCode"]) == ("COMPLETED", "2", "0:0"), text
    assert text.count("resuming from step") == 2
    # At least one: Gloo, the collectives on CPUs, can abort a process before it notices the death.
    assert "ended or lost its connection; to resume" in text and "Traceback" not in text
    assert each_step_once(run, STEPS)


def test_an_error_of_the_input_is_not_repeated(slurm, shared, tmp_path):
    number, output = submit(shared, tmp_path, "--steps none")
    end = wait_for_end(number)
    assert (end["JobState"], end["Restarts"], end["ExitCode"]) == ("FAILED", "0", "2:0")
    assert "deberta-jax pretrain tiny: --steps: " in output.read_text()
