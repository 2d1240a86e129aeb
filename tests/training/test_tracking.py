"""Weights & Biases: what is sent, once, by one process, and that its errors never reach the run. A stub replaces it."""

import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import pytest
from stub_wandb import stub_wandb

from deberta_jax.errors import InputError
from deberta_jax.training import tracking as tracking_module
from deberta_jax.training.recorder import Recorder
from deberta_jax.training.tracking import RUN_FILE, check_wandb, tracking

SETTINGS = {"optimizer": {"learning_rate": 1e-3}, "model": "tiny"}


@pytest.fixture
def wandb(monkeypatch):
    return stub_wandb(monkeypatch)


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.WARNING)
    return caplog


def record(folder, start, steps, **options):
    """Record steps as the training loop does."""
    with tracking("toys", folder, SETTINGS) as tracker:
        recorder = Recorder(folder, 100, start, {}, log=tracker.log)
        for step in range(start + 1, steps + 1):
            recorder.step(step, {"loss": jnp.float32(step), "tokens": jnp.int32(100)})
            if step % 4 == 0:
                recorder.evaluation(step, {"f1": step / 10})
        recorder.flush()
        recorder.close()
        tracker.summarize({"f1": 0.7, "empty": float("nan")})


def test_settings_metrics_and_the_summary_are_sent(wandb, tmp_path):
    record(tmp_path / "run", 0, 5)
    ((options, run),) = wandb.runs
    assert options["project"] == "toys" and options["entity"] is None and options["config"] == SETTINGS
    assert options["resume"] == "allow" and options["id"] == json.loads((tmp_path / "run" / RUN_FILE).read_text())["id"]
    assert options["settings"].x_disable_meta and options["settings"].disable_git
    assert run.axes == [("step", None), ("*", "step")]
    train = [row for row in run.rows if "train/loss" in row]
    assert [(row["step"], row["train/loss"]) for row in train] == [(step, float(step)) for step in range(1, 6)]
    assert [row for row in run.rows if "held_out/f1" in row] == [{"step": 4, "held_out/f1": 0.4}]
    assert run.summary == {"best/f1": 0.7} and run.exit_code == 0


def test_a_resumed_run_continues_the_same_run_and_sends_each_step_once(wandb, tmp_path):
    record(tmp_path / "run", 0, 6)
    # The steps after the checkpoint of step 3 are trained again.
    record(tmp_path / "run", 3, 9)
    (first, before), (second, after) = wandb.runs
    assert first["id"] == second["id"]
    assert [row["step"] for row in after.rows if "train/loss" in row] == [7, 8, 9]
    assert [row["step"] for row in [*before.rows, *after.rows] if "held_out/f1" in row] == [4, 8]


def test_an_entity_is_read_from_the_name(wandb, tmp_path):
    with tracking("team/toys", tmp_path, {}):
        pass
    assert (wandb.runs[0][0]["entity"], wandb.runs[0][0]["project"]) == ("team", "toys")


def test_no_environment_variable_is_sent(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("WANDB_API_KEY", "key_secret")
    record(tmp_path / "run", 0, 5)
    options, run = wandb.runs[0]
    settings = vars(options.pop("settings"))
    assert "secret" not in f"{options} {settings} {run.rows} {run.summary}"
    assert "secret" not in (tmp_path / "run" / RUN_FILE).read_text()


@pytest.mark.parametrize("where", ["init", "log"])
def test_an_error_of_wandb_is_one_warning_and_the_run_continues(wandb, tmp_path, log, where):
    if where == "init":
        wandb.error = SystemExit("server\nis down")
    else:

        def fail(values):
            raise ConnectionError("server\nis down")

        wandb.on_log = fail
    record(tmp_path / "run", 0, 50)
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 62
    (message,) = log.messages
    assert message == "wandb: server; the run continues without it, and its folder has all metrics"


def test_a_slow_connection_delays_neither_the_steps_nor_the_end(wandb, tmp_path, monkeypatch, log):
    blocked = threading.Event()
    monkeypatch.setattr(tracking_module, "_SECONDS_TO_FINISH", 0.2)
    monkeypatch.setattr(tracking_module, "_MAX_WAITING", 30)
    wandb.on_log = lambda values: blocked.wait()
    start = time.perf_counter()
    record(tmp_path / "run", 0, 60)
    assert time.perf_counter() - start < 20
    blocked.set()
    assert len(log.messages) == 1 and "the connection is too slow; the run continues" in log.messages[0]


def test_the_end_waits_for_a_limited_time(wandb, tmp_path, monkeypatch, log):
    blocked = threading.Event()
    monkeypatch.setattr(tracking_module, "_SECONDS_TO_FINISH", 0.2)
    wandb.on_log = lambda values: blocked.wait()
    record(tmp_path / "run", 0, 2)
    blocked.set()
    assert "wandb: not all metrics were sent within 0 s; the run continues without it" in log.messages[0]


def test_a_run_that_fails_is_marked(wandb, tmp_path):
    with pytest.raises(InputError), tracking("toys", tmp_path, {}):
        raise InputError("not finite")
    assert wandb.runs[0][1].exit_code == 1


def test_only_the_first_process_sends_and_nothing_without_a_project(wandb, tmp_path, monkeypatch):
    with tracking(None, tmp_path, {}) as tracker:
        tracker.log("train", 1, {"loss": 1.0})
        tracker.summarize({"loss": 1.0})
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with tracking("toys", tmp_path, {}) as tracker:
        tracker.log("train", 1, {"loss": 1.0})
    assert not wandb.runs and not list(tmp_path.iterdir())


def test_a_missing_package_a_missing_key_and_a_wrong_name_are_reported_before_the_run(monkeypatch, tmp_path):
    check_wandb(None)
    for name in ("a/b/c", "", "toys#1", "/toys"):
        with pytest.raises(InputError, match="write a project, or entity/project"):
            check_wandb(name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"wandb is not installed; install the extra: pip install 'deberta-jax\[wandb\]'"
    ):
        check_wandb("toys")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no API key; run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline"):
        check_wandb("toys")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    check_wandb("toys")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    (tmp_path / "settings").write_text("[default]\nentity = team\n")
    with pytest.raises(InputError, match="no API key"):
        check_wandb("toys")
    (tmp_path / "settings").write_text("[default]\nmode = offline\n")
    check_wandb("toys")
    (tmp_path / "settings").unlink()
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_wandb("team/toys")


REAL = """
import sys
from pathlib import Path
from deberta_jax.training.tracking import check_wandb, tracking
check_wandb("toys")
with tracking("toys", Path(sys.argv[1]), {"optimizer": {"learning_rate": 1e-3}}) as tracker:
    for step in range(1, 6):
        tracker.log("train", step, {"loss": 1.0 / step})
    tracker.summarize({"f1": 0.5})
"""


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the package wandb (extra `wandb`) is missing")
def test_the_real_package_writes_an_offline_run_without_secrets(tmp_path):
    environment = os.environ | {
        "WANDB_MODE": "offline",
        "WANDB_API_KEY": "0123456789abcdef" * 3,
        "HF_TOKEN": "hf_secret",
    }
    process = subprocess.run(
        [sys.executable, "-c", REAL, tmp_path / "run"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    assert "continues without it" not in process.stderr
    identifier = json.loads((tmp_path / "run" / RUN_FILE).read_text())["id"]
    (written,) = (tmp_path / "run/wandb").glob(f"offline-run-*-{identifier}/run-{identifier}.wandb")
    assert written.stat().st_size > 0 and b"train/loss" in written.read_bytes()
    contents = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert b"hf_secret" not in contents and b"0123456789abcdef" not in contents
