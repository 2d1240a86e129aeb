"""Runs in real processes and in this one: exact to the last bit through kills, stopped clearly by what cannot go on."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from stub_lm import StubLM, make_batch
from train_stub import batches_of, config, train_stub

from deberta_jax.errors import InputError
from deberta_jax.pretraining.objectives import masked_lm
from deberta_jax.sharding import make_mesh
from deberta_jax.training.loop import over_batches, train
from deberta_jax.training.method import one_objective
from deberta_jax.training.optimizer import OptimizerConfig
from deberta_jax.training.run import MeshConfig

SCRIPT = Path(__file__).parents[1] / "support/train_stub.py"


def lines_of(folder, split="train"):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if line["split"] == split}


def exact(folder, split="train"):
    """All that must be the same to the last bit."""
    timed = {"seconds", "tokens_per_second"}
    return {step: {k: v for k, v in line.items() if k not in timed} for step, line in lines_of(folder, split).items()}


def each_step_once(folder, steps=60):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line["split"] == "train"] == list(range(1, steps + 1))


def start(folder, devices=8, **options):
    # Compiled with less care: compiling is most of the time of so short a run.
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, SCRIPT, folder, json.dumps(options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for_step(folder, step, process):
    path = folder / "metrics.jsonl"
    while not (path.exists() and any(line["step"] >= step for line in lines_of_partial(path))):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)


def lines_of_partial(path):
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run that was never stopped, in a process of its own."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = start(folder)
    out, err = process.communicate()
    assert out == "complete 60\n", err
    return folder


def test_a_run_leaves_metrics_events_checkpoints_config_and_a_plot(uninterrupted):
    assert each_step_once(uninterrupted)
    assert sorted(lines_of(uninterrupted, "held_out")) == [20, 40, 60]
    last = lines_of(uninterrupted, "held_out")[60]
    assert last["perplexity"] == pytest.approx(np.exp(last["loss"]))
    assert last["accuracy"] > lines_of(uninterrupted)[1]["accuracy"]
    assert sorted(path.name for path in (uninterrupted / "checkpoints").iterdir()) == ["56", "60"]
    assert json.loads((uninterrupted / "config.json").read_text())["training"]["steps"] == 60
    assert (uninterrupted / "loss.png").stat().st_size > 10_000
    assert list((uninterrupted / "tensorboard").iterdir())


def test_killed_at_random_moments_the_same_command_gives_the_same_losses_to_the_last_bit(uninterrupted, tmp_path):
    rng = random.Random(1)
    partial_saves = 0
    for goal, saving in ((10, False), (24, True), (36, False), (49, True)):
        process = start(tmp_path, pause=0.02)
        wait_for_step(tmp_path, goal, process)
        if saving:
            while not list((tmp_path / "checkpoints").glob("*tmp*")):
                assert process.poll() is None
        else:
            time.sleep(rng.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        partial_saves += bool(list((tmp_path / "checkpoints").glob("*tmp*")))
    out, err = start(tmp_path).communicate()
    assert out == "complete 60\n", err
    assert each_step_once(tmp_path)
    assert exact(tmp_path) == exact(uninterrupted)
    assert exact(tmp_path, "held_out") == exact(uninterrupted, "held_out")
    assert partial_saves, "no kill fell into a save"


def test_sigterm_saves_and_ends_with_code_0_and_the_same_command_goes_on(uninterrupted, tmp_path):
    process = start(tmp_path, pause=0.02, checkpoint_every=1000)
    wait_for_step(tmp_path, 10, process)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert time.monotonic() - asked < 10
    assert process.returncode == 0, err
    assert out.startswith("stopped")
    stopped = int(out.split()[1])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [str(stopped)]
    assert start(tmp_path, checkpoint_every=1000).communicate()[0] == "complete 60\n"
    assert exact(tmp_path) == exact(uninterrupted)
    assert each_step_once(tmp_path)


def test_on_another_number_of_devices_a_run_goes_on_the_same_up_to_rounding(uninterrupted, tmp_path):
    process = start(tmp_path, pause=0.02)
    wait_for_step(tmp_path, 25, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    out, err = start(tmp_path, devices=4, mesh=(1, 4, 1)).communicate()
    assert out == "complete 60\n", err
    for step, line in exact(uninterrupted).items():
        assert lines_of(tmp_path)[step]["loss"] == pytest.approx(line["loss"], rel=1e-5), step


def test_what_a_method_is_alarmed_by_is_said_in_the_log_after_each_evaluation(tmp_path, capsys):
    settings = config(steps=20, evaluate_every=10)
    method = one_objective(settings, lambda key: StubLM(key=key), masked_lm)
    method = method._replace(warning=lambda step, found: f"loss above 0 at {step}" if found["loss"] > 0 else None)
    batches = batches_of(settings.mesh)
    judge = over_batches(method, make_mesh(2, 2, 2), lambda: [make_batch(10_000)])
    trained = train(settings, tmp_path / "run", {}, method, batches, judge)
    assert trained.complete
    said = capsys.readouterr().err
    assert said.count("warning: loss above 0 at 10\n") == said.count("warning: loss above 0 at 20\n") == 1


def test_a_run_may_be_ended_after_an_evaluation_and_stays_so_when_started_again(tmp_path):
    settings = config(steps=60, evaluate_every=10, checkpoint_every=1000)
    method = one_objective(settings, lambda key: StubLM(key=key), masked_lm)
    batches = batches_of(settings.mesh)

    def judge(step, model, asked):
        return {"loss": float(step)}

    for _ in range(2):
        trained = train(settings, tmp_path, {}, method, batches, judge, ended=lambda step: step >= 20)
        assert (trained.complete, int(trained.state.step), trained.held_out) == (True, 20, {"loss": 20.0})
    assert each_step_once(tmp_path, 20)
    assert sorted(lines_of(tmp_path, "held_out")) == [10, 20]


def test_a_complete_run_is_only_evaluated_when_started_again(uninterrupted, tmp_path):
    before = (uninterrupted / "metrics.jsonl").read_text()
    trained = train_stub(uninterrupted, config())
    assert trained.complete
    # Sums over devices may be taken in another order, and the loss is a small difference of large logits.
    assert trained.held_out["loss"] == pytest.approx(lines_of(uninterrupted, "held_out")[60]["loss"], abs=1e-6)
    assert (uninterrupted / "metrics.jsonl").read_text() == before


def test_a_folder_of_another_config_is_refused_and_says_which_fields_differ(uninterrupted):
    with pytest.raises(
        InputError,
        match=r"another config: training.batch_size \(24 there, 48 here\); training.optimizer.learning_rate \(0.01",
    ):
        train_stub(uninterrupted, config(batch_size=48, optimizer=OptimizerConfig(learning_rate=0.02)))
    with pytest.raises(InputError, match=r"another config: tokenizer \(absent there, other here\)"):
        train_stub(uninterrupted, config(), tokenizer="other")


def test_a_few_steps_that_are_not_finite_are_skipped_and_counted(tmp_path):
    trained = train_stub(tmp_path, config(steps=12), poisoned=(3, 4, 8))
    assert trained.complete and int(trained.state.skipped) == 3
    skipped = {step: line["skipped_in_row"] for step, line in lines_of(tmp_path).items()}
    assert [skipped[step] for step in (3, 4, 5, 6, 9, 10)] == [0, 1, 2, 0, 1, 0]
    assert lines_of(tmp_path)[4]["loss"] is None


def test_too_many_such_steps_in_a_row_stop_the_run_and_the_last_checkpoint_stays(tmp_path):
    with pytest.raises(InputError) as caught:
        train_stub(tmp_path, config(steps=40), poisoned=range(9, 40))
    assert str(caught.value) == (
        "step 12 (batch 11): loss nan, gradient norm nan; "
        "3 steps in a row were not finite and changed nothing; the checkpoint of step 7 stays"
    )
    # Mended, the same command goes on.
    assert train_stub(tmp_path, config(steps=40)).complete
    assert each_step_once(tmp_path, 40)


def test_a_batch_that_the_mesh_does_not_divide_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="batch of 25 rows does not divide by 4"):
        train_stub(tmp_path / "run", config(batch_size=25))
    with pytest.raises(InputError, match="mesh: data 3 x fsdp 1 x tensor 1 does not make the 8 devices"):
        train_stub(tmp_path / "run", config(mesh=MeshConfig(data=3)))
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_while_saving_ends_in_one_line_and_the_former_checkpoint_stays(tmp_path, monkeypatch):
    from deberta_jax.training import checkpoint

    def full(self, step, *_, **__):
        if step > 10:
            raise OSError(28, "No space left on device")
        return original(self, step, *_, **__)

    original = checkpoint.ocp.training.Checkpointer.save_async
    monkeypatch.setattr(checkpoint.ocp.training.Checkpointer, "save_async", full)
    with pytest.raises(
        InputError, match="cannot save step 14 in .*: no space left on the disk; the checkpoint of step 7 is intact"
    ):
        train_stub(tmp_path, config())
    monkeypatch.undo()
    assert train_stub(tmp_path, config()).complete


def test_the_loop_leaves_signal_handlers_as_they_were(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train_stub(tmp_path, config(steps=2))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert len(jax.devices()) == 8


def sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_in_the_last_step_leaves_the_last_evaluation_to_the_same_command(tmp_path, monkeypatch):
    settings = config(steps=5, evaluate_every=100, checkpoint_every=100)

    def asked_in_the_last_step(k):
        return make_batch(k) if k < 4 else (sigterm(), make_batch(k))[1]

    with monkeypatch.context() as patch:
        patch.setattr("train_stub.make_batch", asked_in_the_last_step)
        stopped = train_stub(tmp_path, settings)
    assert not stopped.complete and int(stopped.state.step) == 5
    assert not lines_of(tmp_path, "held_out")
    complete = train_stub(tmp_path, settings)
    assert complete.complete and int(complete.state.step) == 5
    assert lines_of(tmp_path, "held_out")[5]["loss"] == complete.held_out["loss"]


def test_sigterm_in_an_evaluation_ends_it_and_the_same_command_makes_up_for_it(tmp_path, monkeypatch):
    settings = config(steps=6, evaluate_every=3, checkpoint_every=100)

    def asked_in_an_evaluation(k):
        return make_batch(k) if k < 10_000 else (sigterm(), make_batch(k))[1]

    with monkeypatch.context() as patch:
        patch.setattr("train_stub.make_batch", asked_in_an_evaluation)
        stopped = train_stub(tmp_path, settings)
    assert not stopped.complete and int(stopped.state.step) == 3
    assert train_stub(tmp_path, settings).complete
    assert sorted(lines_of(tmp_path, "held_out")) == [3, 6]
    assert each_step_once(tmp_path, 6)
