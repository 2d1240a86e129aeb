"""Each step stands once in the record, whatever stopped the run before."""

import json
import subprocess
import sys

import jax.numpy as jnp
import pytest

from deberta_jax.errors import InputError
from deberta_jax.training.plot import plot_losses
from deberta_jax.training.recorder import Recorder, read_metrics


def metrics(loss):
    return {"loss": jnp.float32(loss), "tokens": jnp.int32(100), "skipped_in_row": jnp.int32(0)}


def test_metrics_are_recorded_one_step_late_and_flushed_on_request(tmp_path):
    recorder = Recorder(tmp_path, 10, 0)
    recorder.step(1, metrics(3))
    assert read_metrics(tmp_path / "metrics.jsonl") == [] and recorder.latest == {}
    recorder.step(2, metrics(2))
    assert [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [3]
    assert recorder.latest_step == 1
    recorder.flush()
    assert [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [3, 2]
    recorder.close()


def test_lines_after_the_restored_step_and_a_line_cut_short_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        "".join(json.dumps({"step": step, "split": "train", "loss": 1.0}) + "\n" for step in range(1, 9))
        + '{"step": 9, "lo'
    )
    recorder = Recorder(tmp_path, 10, 5)
    for step in (6, 7):
        recorder.step(step, metrics(0.5))
    recorder.flush()
    recorder.close()
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4, 5, 6, 7]


def test_what_is_not_finite_is_null_and_the_file_stays_json(tmp_path):
    recorder = Recorder(tmp_path, 10, 0)
    recorder.step(1, metrics(float("nan")))
    recorder.flush()
    recorder.plot()
    recorder.close()
    assert '"loss": null' in (tmp_path / "metrics.jsonl").read_text()


def test_utilisation_is_shown_only_where_the_peak_is_known(tmp_path, capsys):
    for peak in (0.0, 1e15):
        recorder = Recorder(tmp_path / str(peak), 3, 0, flops=10**12, peak=peak)
        for step in (1, 2, 3):
            recorder.step(step, metrics(1))
        recorder.flush()
        recorder.close()
        assert ("mfu" in read_metrics(tmp_path / str(peak) / "metrics.jsonl")[-1]) == bool(peak)
        assert ("MFU" in capsys.readouterr().err) == bool(peak)


def test_a_disk_that_is_full_is_one_line(tmp_path):
    recorder = Recorder(tmp_path, 10, 0)
    recorder._file.close()
    with open("/dev/full", "ab", buffering=0) as recorder._file:
        recorder.step(1, metrics(1))
        with pytest.raises(InputError, match=r"cannot write .*metrics\.jsonl: No space left on device"):
            recorder.flush()
    recorder.close()


def test_a_picture_is_drawn_from_any_lines(tmp_path):
    plot_losses([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    plot_losses([{"step": 1, "split": "train", "loss": 2.0}], tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 1000


def test_training_can_be_imported_without_plots_events_or_devices():
    code = (
        "import sys, deberta_jax.training.loop, jax; "
        "assert not {'matplotlib', 'tensorboardX', 'torch'} & set(sys.modules); "
        "assert not jax._src.xla_bridge._backends"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
