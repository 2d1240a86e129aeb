"""The loop: bit-exact through kills and stop requests, extendable, and clear about errors that end it."""

import dataclasses
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from stub_lm import make_batch
from stub_runs import each_step_once, exact, kill_during_save, lines_of, start, wait_for_step
from train_stub import STEPS, config, stub_method, train_stub

from deberta_jax.errors import InputError, StopRequested
from deberta_jax.training import checkpoint
from deberta_jax.training.config import MeshConfig, OptimizerConfig
from deberta_jax.training.optimizer import learning_rate


@pytest.fixture(scope="module")
def killed(standard_promotion, tmp_path_factory):
    """The folder of a run that was killed during a save."""
    folder = tmp_path_factory.mktemp("killed")
    process = start(folder, pause=0.02, checkpoint_every=2)
    wait_for_step(folder, 8, process)
    kill_during_save(folder / "checkpoints", process)
    return folder


@pytest.fixture
def copy_of_killed(killed, tmp_path):
    return shutil.copytree(killed, tmp_path / "copy")


def stop_run(folder, settings, monkeypatch, number, at):
    """Send a signal to this process while it makes batch `at` of a run, and return what the run raises."""

    def make(k):
        if k == at:
            os.kill(os.getpid(), number)
        return make_batch(k)

    with monkeypatch.context() as patch:
        patch.setattr("train_stub.make_batch", make)
        with pytest.raises(StopRequested) as stop:
            train_stub(folder, settings)
    return stop.value


def test_a_run_writes_metrics_events_checkpoints_config_and_a_plot(uninterrupted):
    assert each_step_once(uninterrupted)
    assert sorted(lines_of(uninterrupted, "held_out")) == [10, 20, 30]
    last = lines_of(uninterrupted, "held_out")[30]
    assert last["perplexity"] == pytest.approx(np.exp(last["loss"]))
    assert last["accuracy"] > lines_of(uninterrupted)[1]["accuracy"]
    assert sorted(path.name for path in (uninterrupted / "checkpoints").iterdir()) == ["28", "30"]
    assert json.loads((uninterrupted / "config.json").read_text())["training"]["steps"] == STEPS
    assert (uninterrupted / "loss.png").stat().st_size > 10_000
    assert list((uninterrupted / "tensorboard").iterdir())


def test_a_run_killed_during_a_save_and_resumed_has_the_same_losses_to_the_last_bit(uninterrupted, copy_of_killed):
    train_stub(copy_of_killed, config())
    assert each_step_once(copy_of_killed)
    assert exact(copy_of_killed) == exact(uninterrupted)
    assert exact(copy_of_killed, "held_out") == exact(uninterrupted, "held_out")


def test_a_run_resumed_on_another_number_of_devices_is_the_same_up_to_rounding(uninterrupted, copy_of_killed):
    out, err = start(copy_of_killed, devices=4, mesh=(1, 4, 1)).communicate()
    assert out == f"complete {STEPS}\n", err
    for step, line in exact(uninterrupted).items():
        assert lines_of(copy_of_killed)[step]["loss"] == pytest.approx(line["loss"], rel=1e-5), step


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_request_saves_the_state_and_raises_and_the_run_resumes_bit_exactly(
    number, uninterrupted, tmp_path, monkeypatch
):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    settings = config(checkpoint_every=1000)
    stop = stop_run(tmp_path, settings, monkeypatch, number, at=12)
    assert (stop.signal, stop.step) == (number, 13)
    assert str(stop) == "stopped after step 13; to resume, run the same command again"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["13"]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers

    stop = stop_run(tmp_path, settings, monkeypatch, number, at=10_000)
    # The evaluation after step 20 was interrupted, and is repeated.
    assert (stop.signal, stop.step) == (number, 20)
    assert sorted(lines_of(tmp_path, "held_out")) == [10]

    train_stub(tmp_path, settings)
    assert exact(tmp_path) == exact(uninterrupted)
    assert exact(tmp_path, "held_out") == exact(uninterrupted, "held_out")
    assert each_step_once(tmp_path)


def test_a_stop_request_in_the_last_step_leaves_the_last_evaluation_to_the_resumed_run(tmp_path, monkeypatch):
    settings = config(steps=5, evaluate_every=100, checkpoint_every=100)
    for batch in (4, 10_001):
        assert stop_run(tmp_path, settings, monkeypatch, signal.SIGTERM, at=batch).step == 5
        assert not lines_of(tmp_path, "held_out")
    result = train_stub(tmp_path, settings)
    assert int(result.state.step) == 5
    assert lines_of(tmp_path, "held_out")[5]["loss"] == result.metrics["loss"]


def test_a_signal_after_the_last_step_is_left_to_the_handler_of_the_caller(tmp_path, monkeypatch):
    received = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    monkeypatch.setattr(
        "deberta_jax.training.recorder.Recorder.plot", lambda self: os.kill(os.getpid(), signal.SIGTERM)
    )
    train_stub(tmp_path, config(steps=5, evaluate_every=100, checkpoint_every=100))
    signal.signal(signal.SIGTERM, previous)
    assert received == [signal.SIGTERM]


def test_the_decay_of_a_run_may_change_and_the_learning_rates_are_printed(tmp_path, capsys):
    optimizer = OptimizerConfig(learning_rate=0.01, schedule="wsd", warmup=2.0, decay_steps=0.0)
    train_stub(tmp_path, config(steps=6, checkpoint_every=4, optimizer=optimizer))
    capsys.readouterr()
    (tmp_path / "checkpoints" / "6").rename(tmp_path / "6")
    train_stub(tmp_path, config(steps=6, optimizer=dataclasses.replace(optimizer, decay_steps=4.0)))
    message = "resuming from step 4: the learning rate is recomputed for 6 steps; at step 4 it is 0.0029 (0.01 before)"
    assert message in capsys.readouterr().err
    assert [round(lines_of(tmp_path)[step]["learning_rate"], 4) for step in (4, 5, 6)] == [0.01, 0.0029, 0.0013]


def test_a_finished_run_can_be_extended_and_follows_the_longer_schedule_from_there(tmp_path, capsys):
    train_stub(tmp_path, config(steps=5))
    first = exact(tmp_path)
    capsys.readouterr()
    result = train_stub(tmp_path, config())
    assert (
        "extending the run from 5 to 30 steps: the learning rate is recomputed for 30 steps; at step 5 it is 0.0093 "
        "(0 before)"
    ) in capsys.readouterr().err
    assert int(result.state.step) == STEPS
    assert each_step_once(tmp_path)
    assert {step: line for step, line in exact(tmp_path).items() if step <= 5} == first
    rate = learning_rate(config().optimizer, STEPS)
    for step in range(6, STEPS + 1):
        assert lines_of(tmp_path)[step]["learning_rate"] == pytest.approx(float(rate(step - 1)))
    assert sorted(lines_of(tmp_path, "held_out")) == [5, 10, 20, 30]
    train_stub(tmp_path, config())
    assert "resuming from step 30" in capsys.readouterr().err
    with pytest.raises(InputError, match="this run has 30 steps, and 29 would be fewer; give at least 30, or another"):
        train_stub(tmp_path, config(steps=29))


def test_a_warning_of_the_method_is_printed_after_each_evaluation(tmp_path, capsys):
    settings = config(steps=5, evaluate_every=3)
    method = stub_method(settings)._replace(warning=lambda step, metrics: f"loss {metrics['loss']} at {step}")
    train_stub(tmp_path, settings, method=method, evaluate=lambda step, model, check_stop: {"loss": 1.0})
    printed = capsys.readouterr().err
    assert printed.count("warning: loss 1.0 at 3\n") == printed.count("warning: loss 1.0 at 5\n") == 1


def test_a_run_that_ends_early_after_an_evaluation_stays_complete_when_started_again(tmp_path):
    settings = config(evaluate_every=3, checkpoint_every=1000)
    arguments = {
        "evaluate": lambda step, model, check_stop: {"loss": float(step)},
        "should_end": lambda step: step >= 6,
    }
    for _ in range(2):
        result = train_stub(tmp_path, settings, **arguments)
        assert (int(result.state.step), result.metrics) == (6, {"loss": 6.0})
    assert each_step_once(tmp_path, 6)
    assert sorted(lines_of(tmp_path, "held_out")) == [3, 6]


def test_a_complete_run_is_only_evaluated_when_started_again(uninterrupted):
    before = (uninterrupted / "metrics.jsonl").read_text()
    result = train_stub(uninterrupted, config())
    assert result.metrics["loss"] == lines_of(uninterrupted, "held_out")[STEPS]["loss"]
    assert (uninterrupted / "metrics.jsonl").read_text() == before


def test_a_folder_of_a_run_with_other_settings_is_refused_and_the_error_names_them(uninterrupted):
    with pytest.raises(
        InputError,
        match=r"other settings: training.batch_size \(24 in the folder, 48 now\); training.optimizer.learning_rate \(0",
    ):
        train_stub(uninterrupted, config(batch_size=48, optimizer=OptimizerConfig(learning_rate=0.02)))
    with pytest.raises(InputError, match=r"other settings: tokenizer \(absent in the folder, other now\)"):
        train_stub(uninterrupted, config(), tokenizer="other")


def test_a_few_steps_that_are_not_finite_are_skipped_and_counted(tmp_path):
    result = train_stub(tmp_path, config(), poisoned=(3, 4, 8))
    assert int(result.state.skipped) == 3
    skipped = {step: line["skipped_in_row"] for step, line in lines_of(tmp_path).items()}
    assert [skipped[step] for step in (3, 4, 5, 6, 9, 10)] == [0, 1, 2, 0, 1, 0]
    assert lines_of(tmp_path)[4]["loss"] is None


def test_too_many_steps_in_a_row_that_are_not_finite_stop_the_run_and_the_last_checkpoint_stays(tmp_path):
    with pytest.raises(InputError) as caught:
        train_stub(tmp_path, config(), poisoned=range(9, STEPS))
    assert str(caught.value) == (
        "step 12 (batch 11): loss nan, gradient norm nan; "
        "3 steps in a row were not finite and were skipped; the checkpoint of step 7 is intact"
    )
    # With finite batches the same command resumes.
    train_stub(tmp_path, config())
    assert each_step_once(tmp_path)


def test_a_batch_that_the_mesh_does_not_divide_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="batch_size is 25; it must be a multiple of 4"):
        train_stub(tmp_path / "run", config(batch_size=25))
    with pytest.raises(InputError, match="mesh: data 3 x fsdp 1 x tensor 1 does not match the number of devices, 8"):
        train_stub(tmp_path / "run", config(mesh=MeshConfig(data=3)))
    assert not (tmp_path / "run").exists()
    assert len(jax.devices()) == 8


def test_a_full_disk_while_saving_is_one_line_and_the_previous_checkpoint_stays(tmp_path, monkeypatch):
    save_async = checkpoint.ocp.training.Checkpointer.save_async

    def full(self, step, *arguments, **options):
        if step > 10:
            raise OSError(28, "No space left on device")
        return save_async(self, step, *arguments, **options)

    monkeypatch.setattr(checkpoint.ocp.training.Checkpointer, "save_async", full)
    with pytest.raises(
        InputError, match="cannot save step 14 in .*: no space left on the disk; the checkpoint of step 7 is intact"
    ):
        train_stub(tmp_path, config())
    monkeypatch.undo()
    train_stub(tmp_path, config())
    assert each_step_once(tmp_path)
