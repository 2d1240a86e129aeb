"""Each step is recorded once, however the run stopped before."""

import json
import logging
import struct
import subprocess
import sys

import jax.numpy as jnp
import pytest

from deberta_jax.errors import InputError
from deberta_jax.training.plot import Curve
from deberta_jax.training.recorder import Recorder, read_metrics

CURVES = {"loss": Curve("Loss", "loss (nats)"), "accuracy": Curve("Accuracy", "accuracy", percent=True)}


@pytest.fixture
def log(caplog, monkeypatch):
    """The messages of the recorder, also if a command has set up logging before."""
    logger = logging.getLogger("deberta_jax.training.recorder")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    return caplog


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


def test_a_full_disk_under_the_events_is_reported_in_one_line(tmp_path):
    """The writer of tensorboardX would wait forever after its queue is full."""
    recorder = Recorder(tmp_path, 100, 0, CURVES)
    recorder._events.close()
    with open("/dev/full", "ab", buffering=0) as recorder._events._file:
        recorder.step(1, metrics(1))
        with pytest.raises(InputError, match="cannot write .*: No space left on device"):
            recorder.flush()
    recorder.close()


def test_a_write_that_is_cut_short_is_reported_in_one_line(tmp_path):
    """A file that reaches the limit takes part of a line, without an error."""
    limit = 1000
    code = (
        "import resource, sys; sys.dont_write_bytecode = True\n"
        "from pathlib import Path; from deberta_jax.errors import InputError\n"
        "from deberta_jax.training.recorder import Recorder\n"
        "recorder = Recorder(Path(sys.argv[1]), 100, 0, {})\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try:\n"
        "    for step in range(100): recorder.step(step, {'loss': 1.0, 'tokens': 1.0})\n"
        "except InputError as error: print(error)\n"
        "recorder.close()"
    )
    process = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert process.stdout == f"cannot write {tmp_path}/metrics.jsonl: File too large; the last checkpoint is intact\n"
    assert "Traceback" not in process.stderr
    assert all(len(line) > 2 for line in read_metrics(tmp_path / "metrics.jsonl"))


def test_tensorboard_events_are_framed_with_checksums(tmp_path):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    recorder = Recorder(tmp_path, 10, 5, CURVES)
    recorder.step(6, metrics(0.5))
    recorder.flush()
    recorder.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    content, events = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        record = content[12 : 12 + length]
        assert struct.unpack("<I", content[8:12]) == (masked_crc32c(content[:8]),)
        assert struct.unpack("<I", content[12 + length : 16 + length]) == (masked_crc32c(record),)
        events.append(Event.FromString(record))
        content = content[16 + length :]
    version, start, step = events
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (6, 1)
    assert (step.step, {value.tag: value.simple_value for value in step.summary.value}["train/loss"]) == (6, 0.5)


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"step": 2, "split": "train", "lo\xffss": 1.0}',
        b'{"step": 2, "split": "train" "loss": 1.0}',
        b'{"sTep": 2, "split": "train", "loss": 1.0}',
        b'{"step": 2, "sqlit": "train", "loss": 1.0}',
        b'{"step": "2", "split": "train", "loss": 1.0}',
        b'{"step": 2, "split": "train", "loss": "1.0"}',
        b"[2]",
        b"[" * 100_000,
        b'{"step": ' + b"2" * 5000 + b', "split": "train"}',
        b"\x00\x00\x00",
        b"",
    ],
)
def test_a_damaged_line_costs_this_line_and_is_counted_in_the_log(damaged, tmp_path, log):
    lines = [json.dumps({"step": step, "split": "train", "loss": 1.0}).encode() for step in (1, 2, 3)]
    lines[1] = damaged
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    Recorder(tmp_path, 10, 3, CURVES).close()
    assert log.messages == [f"{path}: 1 of 3 lines are damaged and were dropped"]
    log.clear()
    assert [line["step"] for line in read_metrics(path)] == [1, 3]
    assert not log.messages


@pytest.mark.parametrize("remaining", [0, 1, 3])
def test_the_log_says_that_metrics_of_earlier_steps_are_lost(tmp_path, log, remaining):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "split": "train"}) + "\n" for step in range(1, remaining + 1)))
    Recorder(tmp_path, 10, 3, CURVES).close()
    expected = f"{path} ends at step {remaining} and the run continues after step 3: metrics are lost"
    assert log.messages == ([expected] if remaining < 3 else [])


def test_metrics_without_a_checkpoint_are_renamed_and_the_log_says_so(tmp_path, log):
    path = tmp_path / "metrics.jsonl"
    for number in (1, 2):
        line = json.dumps({"step": 40 + number, "split": "train", "loss": 1.0}) + "\n"
        path.write_text(line)
        Recorder(tmp_path, 100, 0, CURVES).close()
        assert log.messages == [
            f"{path}: metrics up to step {40 + number}, but no checkpoint after step 0: starting over; these metrics "
            f"are now in metrics.jsonl.{number}"
        ]
        log.clear()
        assert path.read_text() == "" and (tmp_path / f"metrics.jsonl.{number}").read_text() == line
    Recorder(tmp_path, 100, 0, CURVES).close()
    assert not log.messages


def test_the_progress_shows_the_losses_among_the_curves(tmp_path, capsys):
    for number, curves in enumerate((CURVES, dict.fromkeys(["first_loss", "second_loss"], Curve("", "")))):
        recorder = Recorder(tmp_path / str(number), 1, 0, curves)
        recorder.step(1, metrics(3) | {"first_loss": jnp.float32(1), "second_loss": jnp.float32(2)})
        recorder.flush()
        recorder.close()
    printed = capsys.readouterr().err.splitlines()
    assert printed == ["step 1/1  loss 3.0000", "step 1/1  first loss 1.0000  second loss 2.0000"]


def test_an_evaluation_is_printed_in_the_unit_of_the_plot(tmp_path, capsys):
    recorder = Recorder(tmp_path, 1, 0, CURVES)
    recorder.evaluation(1, {"loss": 2.34567, "accuracy": 0.2743, "perplexity": 10.44})
    recorder.close()
    assert capsys.readouterr().err == "step 1: held-out loss 2.346, accuracy 27.4%, perplexity 10.44\n"
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["accuracy"] == 0.2743


def test_training_can_be_imported_without_plots_events_or_devices():
    code = (
        "import sys, deberta_jax.training.loop, jax; "
        "assert not {'matplotlib', 'tensorboardX', 'torch'} & set(sys.modules); "
        "assert not jax._src.xla_bridge._backends"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lines_are_plain_text_in_a_notebook(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as set by the kernel of a notebook
    recorder = Recorder(tmp_path, 10, 0, CURVES)
    recorder.print("step 1")
    recorder.close()
    assert capsys.readouterr().err == "step 1\n"
