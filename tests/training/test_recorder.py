"""Each step is recorded once, however the run stopped before."""

import json
import subprocess
import sys

import jax.numpy as jnp
import pytest

from deberta_jax.errors import InputError
from deberta_jax.training.plot import plot_losses
from deberta_jax.training.recorder import Recorder, read_metrics

CURVES = {"loss": "loss (nats)", "accuracy": "accuracy"}


def metrics(loss):
    return {"loss": jnp.float32(loss), "tokens": jnp.int32(100), "skipped_in_row": jnp.int32(0)}


def test_metrics_are_recorded_one_step_late_and_flushed_on_request(tmp_path):
    recorder = Recorder(tmp_path, 10, 0, CURVES)
    recorder.step(1, metrics(3))
    assert read_metrics(tmp_path / "metrics.jsonl") == [] and recorder.latest == {}
    recorder.step(2, metrics(2))
    assert [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [3]
    assert recorder.latest_step == 1
    recorder.flush()
    assert [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [3, 2]
    recorder.close()


def test_lines_after_the_restored_step_and_an_incomplete_line_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        "".join(json.dumps({"step": step, "split": "train", "loss": 1.0}) + "\n" for step in range(1, 9))
        + '{"step": 9, "lo'
    )
    recorder = Recorder(tmp_path, 10, 5, CURVES)
    for step in (6, 7):
        recorder.step(step, metrics(0.5))
    recorder.flush()
    recorder.close()
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4, 5, 6, 7]


def test_a_value_that_is_not_finite_is_null_and_the_file_stays_json(tmp_path):
    recorder = Recorder(tmp_path, 10, 0, CURVES)
    recorder.step(1, metrics(float("nan")))
    recorder.flush()
    recorder.plot()
    recorder.close()
    assert '"loss": null' in (tmp_path / "metrics.jsonl").read_text()


def test_utilization_is_shown_only_if_the_peak_is_known(tmp_path, capsys):
    for peak in (0.0, 1e15):
        recorder = Recorder(tmp_path / str(peak), 3, 0, CURVES, flops=lambda step: 10**12, peak_flops=peak)
        for step in (1, 2, 3):
            recorder.step(step, metrics(1))
        recorder.flush()
        recorder.close()
        assert ("mfu" in read_metrics(tmp_path / str(peak) / "metrics.jsonl")[-1]) == bool(peak)
        assert ("MFU" in capsys.readouterr().err) == bool(peak)


def test_a_full_disk_is_reported_in_one_line(tmp_path):
    recorder = Recorder(tmp_path, 10, 0, CURVES)
    recorder._file.close()
    with open("/dev/full", "ab", buffering=0) as recorder._file:
        recorder.step(1, metrics(1))
        with pytest.raises(InputError, match=r"cannot write .*metrics\.jsonl: No space left on device"):
            recorder.flush()
    recorder.close()


def test_metrics_with_values_are_plotted(tmp_path):
    plot_losses([], tmp_path / "none.png", CURVES)
    assert not (tmp_path / "none.png").exists()
    line = {"step": 1, "split": "train", "loss": 2.0, "other": 1.0}
    for name, curves in ("one", CURVES), ("three", {"loss": "loss", "step": "step", "other": "another metric"}):
        plot_losses([line], tmp_path / f"{name}.png", curves)
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "three.png"]


def test_the_progress_shows_the_losses_among_the_curves(tmp_path, capsys):
    for curves in (CURVES, {"first_loss": "", "second_loss": ""}):
        recorder = Recorder(tmp_path / str(len(curves)), 1, 0, curves)
        recorder.step(1, metrics(3) | {"first_loss": jnp.float32(1), "second_loss": jnp.float32(2)})
        recorder.flush()
        recorder.close()
    printed = capsys.readouterr().err.splitlines()
    assert printed == ["step 1/1  loss 3.0000", "step 1/1  first loss 1.0000  second loss 2.0000"]


def test_training_can_be_imported_without_plots_events_or_devices():
    code = (
        "import sys, deberta_jax.training.loop, jax; "
        "assert not {'matplotlib', 'tensorboardX', 'torch'} & set(sys.modules); "
        "assert not jax._src.xla_bridge._backends"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
