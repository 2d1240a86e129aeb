"""Runs of the stub in processes of their own, and the records of runs."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from train_stub import STEPS

from deberta_jax.training.recorder import read_metrics

SUPPORT = Path(__file__).parent


def environment(devices=8):
    """The environment of this process, with another number of CPU devices; compiled programs are shared."""
    flags = re.sub(r"device_count=\d+", f"device_count={devices}", os.environ["XLA_FLAGS"])
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def start(folder, devices=8, **options):
    command = [sys.executable, SUPPORT / "train_stub.py", folder, json.dumps(options)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment(devices))


def wait_for_step(folder, step, process):
    while not any(line["step"] >= step for line in read_metrics(folder / "metrics.jsonl")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)


def kill_during_save(folder, process):
    """Kill a process while it saves a checkpoint into a folder."""
    while True:
        while not list(folder.glob("*orbax-checkpoint-tmp*")):
            assert process.poll() is None, "the process ended before it was killed during a save"
            time.sleep(0.001)
        # A save may end before the signal arrives, but not while the process is suspended.
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        if list(folder.glob("*orbax-checkpoint-tmp*")):
            process.kill()
            process.communicate()
            return
        process.send_signal(signal.SIGCONT)


def lines_of(folder, split="train"):
    """The records of a split by step."""
    return {line["step"]: line for line in read_metrics(folder / "metrics.jsonl") if line["split"] == split}


def exact(folder, split="train"):
    """The records of a split by step, without those that depend on the time."""
    timed = {"seconds", "tokens_per_second"}
    return {step: {k: v for k, v in line.items() if k not in timed} for step, line in lines_of(folder, split).items()}


def each_step_once(folder, steps=STEPS):
    lines = read_metrics(folder / "metrics.jsonl")
    return [line["step"] for line in lines if line["split"] == "train"] == list(range(1, steps + 1))
