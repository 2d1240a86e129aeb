"""`--micro-batch`: a number of sequences, or the largest that fits, before any text is read."""

import dataclasses
import json
import re

import pytest

from deberta_jax.cli import pretrain as command
from deberta_jax.errors import InputError
from deberta_jax.planning.compiled_step import CompiledStep, Memory
from deberta_jax.planning.micro_batch import resolve_micro_batch
from deberta_jax.pretraining.config import DataConfig
from deberta_jax.pretraining.run import pretrain

CAPACITY = 1 << 30


@pytest.fixture
def compiled(monkeypatch):
    """The numbers of micro-batches that were compiled; a device has room for one sequence, of eight micro-batches."""
    numbers = []

    def compile_run(config, target):
        numbers.append(config.training.accumulate)
        memory = Memory(CAPACITY // 2, CAPACITY * 4 // config.training.accumulate // 2)
        return CompiledStep(memory, memory.peak <= target.capacity, None, 0.0)

    monkeypatch.setattr("deberta_jax.planning.search.compile_run", compile_run)
    monkeypatch.setattr("deberta_jax.planning.micro_batch.compile_run", compile_run)
    monkeypatch.setattr("deberta_jax.planning.plan.device_capacity", lambda topology: CAPACITY)
    return numbers


@pytest.fixture
def automatic(config, tmp_path):
    return dataclasses.replace(config, micro_batch="auto", folder=tmp_path / "run")


def test_auto_chooses_the_fewest_micro_batches_that_fit_and_reports_them_in_one_line(automatic, compiled):
    resolved, line = resolve_micro_batch(automatic)
    assert (resolved.training.accumulate, resolved.micro_batch) == (4, None)
    assert line == "micro-batch: 8 sequences, accumulate 4; 1.00 GiB of 1.00 GiB per device"
    assert compiled == [1, 4, 2]


def test_the_step_that_is_chosen_fits_and_one_with_fewer_micro_batches_does_not(automatic, monkeypatch):
    # Enough sequences for activations that are large beside the gradients that micro-batches add up.
    training = dataclasses.replace(automatic.training, batch_size=512)
    automatic = dataclasses.replace(automatic, training=training, data=DataConfig(length=("64",)))
    # The steps need 117 MiB, and 64 MiB with two micro-batches.
    monkeypatch.setattr("deberta_jax.planning.plan.device_capacity", lambda topology: 90 << 20)
    resolved, line = resolve_micro_batch(automatic)
    assert resolved.training.accumulate == 2
    assert re.fullmatch(r"micro-batch: 256 sequences, accumulate 2; [4-8]\d\.\d MiB of 90.0 MiB per device", line)


def test_a_resumed_run_keeps_its_number_of_micro_batches(automatic, compiled):
    automatic.folder.mkdir()
    settings = {"training": {"accumulate": 4}}
    (automatic.folder / "config.json").write_text(json.dumps(settings))
    resolved, line = resolve_micro_batch(automatic)
    assert resolved.training.accumulate == 4 and ", as before; " in line
    assert compiled == [4]


def test_no_micro_batch_that_fits_is_an_error_that_names_the_next_command(automatic, compiled, monkeypatch):
    monkeypatch.setattr("deberta_jax.planning.plan.device_capacity", lambda topology: CAPACITY // 2)
    with pytest.raises(InputError, match="needs 1.00 GiB of 512.0 MiB per device .*plan RECIPE --search"):
        resolve_micro_batch(automatic)


def test_a_number_of_sequences_gives_the_number_of_micro_batches(config):
    resolved, line = resolve_micro_batch(dataclasses.replace(config, micro_batch="16"))
    assert resolved.training.accumulate == 2
    assert line == "micro-batch: 16 sequences, accumulate 2"
    assert resolve_micro_batch(config) == (config, "")


@pytest.mark.parametrize("value", ["5", "0", "-8", "all", "8.0"])
def test_a_micro_batch_that_does_not_divide_the_batch_is_refused(config, value):
    with pytest.raises(InputError, match=f"micro_batch is {value}; it must be auto or divide batch_size, 32"):
        dataclasses.replace(config, micro_batch=value)


def test_a_micro_batch_and_a_number_of_them_exclude_each_other(config):
    training = dataclasses.replace(config.training, accumulate=2)
    with pytest.raises(InputError, match="micro_batch and accumulate are both set"):
        dataclasses.replace(config, training=training, micro_batch="16")


def test_the_settings_of_a_run_contain_the_number_of_micro_batches_only(config):
    resolved, _ = resolve_micro_batch(dataclasses.replace(config, micro_batch="16"))
    assert "micro_batch" not in resolved.settings() and resolved.settings()["training"]["accumulate"] == 2


def test_training_refuses_a_micro_batch_that_was_not_resolved(automatic):
    with pytest.raises(InputError, match="micro_batch is auto; set training.accumulate"):
        pretrain(automatic)


def test_pretrain_chooses_after_its_checks_and_before_it_reads_text(automatic, compiled, monkeypatch, capsys):
    runs = []
    monkeypatch.setattr("deberta_jax.pretraining.run.pretrain", runs.append)
    command.run(automatic)
    assert [run.training.accumulate for run in runs] == [4]
    assert capsys.readouterr().out.startswith("micro-batch: 8 sequences, accumulate 4; ")
    compiled.clear()
    missing = dataclasses.replace(automatic, data=dataclasses.replace(automatic.data, files=("nowhere.txt",)))
    with pytest.raises(InputError, match="nowhere.txt: no such file"):
        command.run(missing)
    assert not compiled
