"""`deberta-jax pretrain` in real processes: complete runs, killed and extended runs, several processes, bad options."""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from unittest import mock

import jax
import numpy as np
import pytest
from stub_runs import environment
from stub_wandb import stub_wandb
from toy_runs import call, two_devices

from deberta_jax.cli.main import main
from deberta_jax.config import OBJECTIVE_KEY
from deberta_jax.data.documentation import prose
from deberta_jax.data.manifest import read_manifest
from deberta_jax.data.split import split_held_out
from deberta_jax.errors import InputError, StopRequested
from deberta_jax.hub.pretrained import from_pretrained
from deberta_jax.hub.tensors import read_tensors
from deberta_jax.inference.fill_mask import fill_mask
from deberta_jax.inference.perplexity import perplexity
from deberta_jax.inference.replaced_tokens import detect_replaced
from deberta_jax.pretraining.run import OBJECTIVES
from deberta_jax.tokenizers.tokenizer import Tokenizer

OPTIONS = [
    *("--vocabulary", "400", "--data.length", "32", "--data.evaluate-batches", "3", "--batch-size", "8"),
    *("--steps", "14", "--evaluate-every", "7", "--checkpoint-every", "4"),
]
RTD = ["--objective", "rtd"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A file of documents: paragraphs of the documentation of numpy.linalg in random order."""
    paragraphs = prose(np.linalg.__doc__) + [
        line for name in np.linalg.__all__ for line in prose(getattr(np.linalg, name).__doc__ or "")
    ]
    rng = random.Random(0)
    documents = ["\n".join(rng.sample(paragraphs, 6)) for _ in range(120)]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(documents))
    return path


def words_of(folder, text, *options):
    return ["pretrain", "tiny", "--folder", folder, "--data.files", text, *OPTIONS, *options]


def start(folder, text, *options, devices=2):
    """Start the command in another process."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "deberta_jax", *map(str, words_of(folder, text, *options))]
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment(devices))


def complete(folder, text, *options):
    """Run the command to its end in this process; its folder and its output."""
    out, err = io.StringIO(), io.StringIO()
    with two_devices(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = call(*words_of(folder, text, *options))
    assert code == 0, err.getvalue()
    return folder, out.getvalue(), err.getvalue()


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = {"seconds", "tokens_per_second"}
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def training_steps(folder):
    return [line["step"] for line in metrics(folder) if line["split"] == "train"]


def error_of(capsys, *words):
    """The error of a refused command, which must be one line."""
    assert main(["pretrain", "tiny", *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.fixture(scope="module")
def mlm_run(tmp_path_factory, text):
    return complete(tmp_path_factory.mktemp("runs") / "mlm", text)


@pytest.fixture(scope="module")
def rtd_run(tmp_path_factory, text):
    return complete(tmp_path_factory.mktemp("runs") / "rtd", text, *RTD)


def test_a_run_writes_a_model_and_prints_held_out_examples_and_the_next_command(mlm_run):
    folder, out, _ = mlm_run
    files = {path.name for path in folder.iterdir()}
    assert files >= {"checkpoints", "config.json", "loss.png", "metrics.jsonl", "model"}
    assert training_steps(folder) == list(range(1, 15))
    assert "held-out masked LM: accuracy " in out and "(majority-class baseline " in out
    assert out.count("____") == 5
    assert out.splitlines()[-1].startswith(f"next: deberta-jax predict {folder / 'model'} --text ")
    model, tokenizer = from_pretrained(folder / "model", head="masked_lm")
    [[tokens]] = fill_mask(model, tokenizer, ["Compute the [MASK] of a matrix."], top_k=4)
    assert len(tokens) == 4
    assert tokens == sorted(tokens, key=lambda token: -token.probability)


def test_a_run_of_replaced_token_detection_writes_and_evaluates_both_models(rtd_run):
    folder, out, _ = rtd_run
    assert {path.name for path in folder.iterdir()} >= {"discriminator", "generator", "loss.png", "metrics.jsonl"}
    assert "held-out generator: accuracy " in out and "(majority-class baseline " in out
    assert "held-out discriminator: AUC 0." in out and "best constant: 0." in out
    assert out.count("____") == 5 and out.count("    replaced: ") == 5
    assert out.splitlines()[-1].startswith(f"next: deberta-jax finetune generic --model {folder / 'discriminator'} ")
    held_out = [line for line in metrics(folder) if line["split"] == "held_out"]
    assert [line["step"] for line in held_out] == [7, 14]
    names = {"generator_loss", "generator_perplexity", "generator_accuracy", "discriminator_loss", "gain", "auc"}
    assert all(line.keys() >= names | {"average_precision", "spread", "replaced"} for line in held_out)
    generator, tokenizer = from_pretrained(folder / "generator", head="masked_lm")
    discriminator, _ = from_pretrained(folder / "discriminator", head="replaced_token_detection")
    [[tokens]] = fill_mask(generator, tokenizer, ["Compute the [MASK] of a matrix."], top_k=4)
    assert len(tokens) == 4
    [tokens] = detect_replaced(discriminator, tokenizer, ["Compute the inverse of a matrix."])
    assert all(0 < token.probability < 1 for token in tokens)


def test_a_killed_run_resumes_with_bit_identical_metrics(rtd_run, tmp_path, text):
    folder = tmp_path / "run"
    process = start(folder, text, *RTD)
    file = folder / "metrics.jsonl"
    while not (file.exists() and len(file.read_text().splitlines()) > 6):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    complete(folder, text, *RTD)
    # The tokenizer is trained again on the same text, so all preparation is deterministic too.
    assert metrics(folder) == metrics(rtd_run[0])


def test_a_run_that_fails_resumes_with_bit_identical_metrics(mlm_run, tmp_path, text, monkeypatch):
    folder = tmp_path / "run"

    def fail(step, *_):
        raise RuntimeError(f"failed in step {step}")

    with monkeypatch.context() as patch:
        patch.setattr("deberta_jax.pretraining.run.held_out_evaluation", lambda *_: fail)
        with pytest.raises(RuntimeError, match="failed in step 7"):
            complete(folder, text)
    _, _, err = complete(folder, text)
    assert "resuming from step 4" in err
    assert metrics(folder) == metrics(mlm_run[0])


def test_a_run_that_is_terminated_while_it_exports_the_model_continues(mlm_run, tmp_path, text, monkeypatch, capsys):
    folder = shutil.copytree(mlm_run[0], tmp_path / "run")

    def write_file(path, tensors):
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    with two_devices(), monkeypatch.context() as patch:
        patch.setattr("deberta_jax.hub.tensors._write_file", write_file)
        assert call(*words_of(folder, text)) == 0
    error = capsys.readouterr().err
    assert error.endswith("deberta-jax pretrain tiny: stopped; to continue, run the same command again\n")
    assert "Traceback" not in error
    assert sorted(os.listdir(folder / "model")) == sorted(os.listdir(mlm_run[0] / "model"))
    complete(folder, text)
    for name in ("model/model.safetensors", "metrics.jsonl"):
        assert (folder / name).read_bytes() == (mlm_run[0] / name).read_bytes()


def test_a_run_with_shared_layers_resumes_with_bit_identical_metrics_and_its_model_loads(tmp_path, text, monkeypatch):
    shared = "--num-hidden-groups", "1"
    whole = complete(tmp_path / "whole", text, *shared)[0]
    with monkeypatch.context() as patch:
        patch.setattr("deberta_jax.pretraining.run.held_out_evaluation", mock.Mock(side_effect=RuntimeError("failed")))
        with pytest.raises(RuntimeError, match="failed"):
            complete(tmp_path / "run", text, *shared)
    complete(tmp_path / "run", text, *shared)
    assert metrics(tmp_path / "run") == metrics(whole)
    model, _ = from_pretrained(whole / "model", "masked_lm")
    assert model.config.num_hidden_groups == 1
    again = complete(tmp_path / "again", text, *shared, "--init-from", whole / "model", "--steps", "2")[0]
    assert metrics(again)[0]["loss"] < metrics(whole)[0]["loss"]


@pytest.mark.parametrize("objective", ["clm", "mt"])
def test_a_language_model_resumes_with_bit_identical_metrics_and_predicts_text(objective, tmp_path, text, monkeypatch):
    options = ["--objective", objective, "--steps", "5", "--evaluate-every", "5", "--checkpoint-every", "3"]
    folder, out, _ = complete(tmp_path / "whole", text, *options)
    with monkeypatch.context() as patch:
        patch.setattr("deberta_jax.pretraining.run.held_out_evaluation", mock.Mock(side_effect=RuntimeError("failed")))
        with pytest.raises(RuntimeError, match="failed"):
            complete(tmp_path / "run", text, *options)
    _, again, _ = complete(tmp_path / "run", text, *options)
    assert metrics(tmp_path / "run") == metrics(folder)
    assert out.splitlines()[-1].startswith(f"next: deberta-jax predict {folder / 'model'} --task generate --text ")
    assert out.count("held-out language model: accuracy ") == again.count("held-out language model: accuracy ") == 1
    [held_out] = [line for line in metrics(folder) if line["split"] == "held_out"]
    assert held_out["perplexity"] == pytest.approx(np.exp(held_out["loss"]))
    model, tokenizer = from_pretrained(folder / "model", head="masked_lm")
    assert model.config.extra[OBJECTIVE_KEY] == objective
    result = perplexity(model, tokenizer, [text.read_text()], max_length=32)
    assert 1 < result.per_token < model.config.vocab_size


def test_a_finished_run_is_extended_where_its_text_moved_but_not_shortened(
    mlm_run, tmp_path, text, capsys, monkeypatch
):
    folder = shutil.copytree(mlm_run[0], tmp_path / "run")
    moved = shutil.copy(text, tmp_path / "moved.txt")
    wandb = stub_wandb(monkeypatch)
    _, _, err = complete(folder, moved, "--steps", "16", "--wandb", "team/toys")
    assert "extending the run from 14 to 16 steps" in err
    assert training_steps(folder) == list(range(1, 17))
    assert metrics(folder)[: len(metrics(mlm_run[0]))] == metrics(mlm_run[0])
    weights = [read_tensors(run / "model" / "model.safetensors") for run in (folder, mlm_run[0])]
    name = "deberta.embeddings.word_embeddings.weight"
    assert not np.array_equal(*(tensors[name].read() for tensors in weights))
    fewer = error_of(capsys, "--folder", folder, "--data.files", text, *OPTIONS, "--steps", "15")
    assert "this run has 16 steps, and 15 would be fewer" in fewer
    # Metrics were also sent to Weights & Biases, by one run.
    ((options, run),) = wandb.runs
    assert (options["entity"], options["project"]) == ("team", "toys") and options["config"]["objective"] == "mlm"
    assert [row["step"] for row in run.rows if "train/loss" in row] == [15, 16]
    assert run.exit_code == 0 and run.summary


def test_two_processes_train_like_one(rtd_run, tmp_path, text):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    joined = ["--processes.join", "--processes.coordinator", address, "--processes.count", "2", "--processes.index"]
    folder = tmp_path / "run"
    processes = [start(folder, text, *RTD, *joined, str(n), devices=1) for n in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    for line, expected in zip(metrics(folder), metrics(rtd_run[0]), strict=True):
        assert line.pop("split") == expected.pop("split")
        assert line == pytest.approx(expected, rel=1e-4, abs=1e-5)
    for name, head in (("generator", "masked_lm"), ("discriminator", "replaced_token_detection")):
        models = [from_pretrained(run / name, head=head)[0] for run in (folder, rtd_run[0])]
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), *models)


def test_a_run_initialized_from_models_resumes_from_its_own_checkpoint(rtd_run, text, tmp_path, capsys, monkeypatch):
    folder, start = tmp_path / "run", rtd_run[0]
    command = ["pretrain", "tiny", *RTD, "--folder", str(folder), "--data.files", str(text), *OPTIONS]
    command += ["--steps", "1", "--optimizer.learning-rate", "0", "--optimizer.weight-decay", "0"]
    models = ["--init-from", str(start / "discriminator"), "--generator", str(start / "generator")]
    # Compiling the evaluation and the fingerprint takes half of the time, and this test needs neither.
    evaluation = {"auc": 1.0, "spread": 1.0, "replaced": 0.15}
    monkeypatch.setattr("deberta_jax.pretraining.run.held_out_evaluation", lambda *_: lambda *_: evaluation)
    monkeypatch.setattr("deberta_jax.training.checkpoint.fingerprint", lambda arrays: {name: [0] for name in arrays})
    no_report = OBJECTIVES["rtd"]._replace(report=lambda *_: [])
    monkeypatch.setitem(OBJECTIVES, "rtd", no_report)
    heads = {"generator": "masked_lm", "discriminator": "replaced_token_detection"}
    with two_devices(), jax.numpy_dtype_promotion("standard"):
        assert main([*command, *models]) == 0
        for name, head in heads.items():
            # With a learning rate of 0 the models do not change, apart from the rounding of E_G + E_Δ.
            trained, initial = (from_pretrained(run / name, head=head)[0] for run in (folder, start))
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-7), trained, initial)
        assert Tokenizer(folder / "discriminator").sha256 == Tokenizer(start / "discriminator").sha256
        assert capsys.readouterr().out.splitlines()[-1].startswith("next: ")

        def stop(step, *_):
            raise StopRequested(signal.SIGTERM, step)

        monkeypatch.setitem(OBJECTIVES, "rtd", no_report._replace(load_files=lambda *_: pytest.fail("loaded again")))
        monkeypatch.setattr("deberta_jax.pretraining.run.held_out_evaluation", lambda *_: stop)
        assert main([*command, *models]) == 0
    assert "resuming from step 1" in (err := capsys.readouterr().err)
    assert err.endswith("to resume, run the same command again\n")
    assert main([*command, *models[:2], "--generator", "fresh"]) == 2
    assert f"generator ({models[3]} in the folder, fresh now)" in capsys.readouterr().err
    assert main(command) == 2
    err = capsys.readouterr().err
    assert f"generator ({models[3]} in the folder, None now); init_from ({models[1]} in the folder, None now)" in err

    # `convert` writes the model that the run exports, with the tokenizer of --init-from.
    assert main(["convert", str(folder), str(tmp_path / "converted")]) == 0
    converted, exported = (
        {name: tensor.read() for name, tensor in read_tensors(path / "model.safetensors").items()}
        for path in (tmp_path / "converted", folder / "discriminator")
    )
    assert converted.keys() == exported.keys()
    assert all(np.array_equal(converted[name], exported[name]) for name in converted)
    assert Tokenizer(tmp_path / "converted").sha256 == Tokenizer(start / "discriminator").sha256


def test_the_folder_of_a_run_with_other_settings_is_refused_and_not_changed(mlm_run, text, capsys):
    folder = mlm_run[0]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    options = ["--folder", folder, "--data.files", text, *OPTIONS]
    error = error_of(capsys, *options, "--batch-size", "16", "--optimizer.weight-decay", "0.1")
    assert "training.batch_size (8 in the folder, 16 now)" in error
    assert "training.optimizer.weight_decay (0.01 in the folder, 0.1 now)" in error
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_zero_steps_print_the_sizes_of_the_largest_model_and_write_nothing(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["pretrain", "v2-xxlarge", "--folder", str(folder), "--steps", "0", "--mesh.fsdp", "8"]) == 0
    out = capsys.readouterr().out
    assert "1,567,828,068 parameters" in out
    assert "17.52 GiB, 2.20 GiB on each device" in out
    assert out.splitlines()[-1].startswith("next: ")
    assert not folder.exists()


def test_zero_steps_of_a_v3_recipe_print_its_size_and_the_published_settings(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["pretrain", "v3-base", "--folder", str(folder), "--steps", "0"]) == 0
    out = capsys.readouterr().out
    # Generator and discriminator, each with its head; the discriminator has no absolute positions.
    assert f"{141_697_536 + 720_228 + 183_831_552 + 592_897:,} parameters" in out
    assert "8,192 sequences of 512 tokens, 4,194,304 tokens" in out
    assert "500,000 steps: 2,097,152,000,000 tokens, 2.17e+21 FLOP" in out
    assert "paper: batch 8,192, 500,000 steps, learning rate 0.0006" in out
    assert "repository: batch 256, 1,000,000 steps, learning rate 0.0001" in out
    assert not folder.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.files", "nowhere/*.txt"], "nowhere/*.txt: no such file"),
        (["--data.length", "1024"], "data.length is 1024, but tiny has only 128 positions"),
        (["--batch-size", "12"], "batch_size is 12; it must be a multiple of 8"),
        (["--mesh.fsdp", "3"], "mesh: data -1 x fsdp 3 x tensor 1"),
        (["--optimizer.warmup", "500"], "optimizer.warmup is 500"),
        (["--tokenizer", "nowhere.model"], "nowhere.model: no tokenizer found"),
        (["--data.shards", "nowhere"], "nowhere: shards need the tokenizer they were made with"),
        (["--model", "v9"], "no model 'v9'"),
        (["--data.workers", "-1"], "data.workers is -1; it must be at least 0"),
        (["--data.evaluate-batches", "0"], "data.evaluate_batches is 0; it must be at least 1"),
        (["--data.shards", "here", "--data.files", "x.txt"], "data.shards and data.files are both set"),
        (["--data.files", "nowhere.txt", "--steps", "0"], "nowhere.txt: no such file"),
        ([*RTD, "--rtd.sharing", "es"], "rtd.sharing es needs rtd.step joint"),
        (["--generator", "fresh"], "generator is an option of objective rtd"),
        (["--rtd.loss-weight", "7"], "rtd options are set, but the objective is mlm; add --objective rtd"),
        (["--init-from", "./nowhere", "--steps", "0"], "'./nowhere': no such folder"),
        ([*RTD, "--init-from", "./nowhere", "--generator", "fresh"], "'./nowhere': no such folder"),
        (["--objective", "xlm"], "--objective"),
        (["--mt.masked-share", "0.5"], "mt options are set, but the objective is mlm; add --objective mt"),
        (["--objective", "mt", "--batch-size", "8"], "batch_size is 8; objective mt needs at least 16"),
        ([*RTD, "--absolute-positions", "input"], "a generator of objective rtd has them in its decoder"),
        (["--lr", "1"], "did you mean --optimizer.learning-rate?"),
        (["--vocabulary", "100000"], "vocab"),
        (["--attention", "pallas_gpu"], "'pallas_gpu' runs on GPU, and the current device is a CPU; use 'auto'"),
    ],
)
def test_bad_options_are_refused_in_one_line_and_leave_no_folder(options, message, text, tmp_path, capsys):
    folder = tmp_path / "run"
    files = [] if options[0] in ("--data.files", "--data.shards") else ["--data.files", text]
    assert message in error_of(capsys, "--folder", folder, *files, *OPTIONS, *options)
    assert not folder.exists()


@pytest.mark.parametrize("folder", ["/proc/nope", "FILE/run"])
def test_a_folder_that_cannot_be_created_is_refused_in_one_line(folder, tmp_path, text, capsys):
    (tmp_path / "file").touch()
    folder = folder.replace("FILE", str(tmp_path / "file"))
    assert f"{folder}: " in error_of(capsys, "--folder", folder, "--data.files", text, *OPTIONS)


def test_one_shard_in_twenty_is_held_out_and_no_sequence_is_on_both_sides(mlm_run, tmp_path):
    shards = mlm_run[0] / "shards"
    whole, training, held_out = (read_manifest(shards / name) for name in ("all", "train", "held_out"))
    assert training.sequences + held_out.sequences == whole.sequences
    assert 0.02 < held_out.sequences / whole.sequences < 0.12
    assert not {shard.source for shard in training.shards} & {shard.source for shard in held_out.shards}
    single = tmp_path / "single"
    single.mkdir()
    (single / "one").touch()
    manifest = json.loads((shards / "all" / "manifest.json").read_text())
    manifest["shards"] = [manifest["shards"][0] | {"name": "one"}]
    (single / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="1 shards are too few to hold out one in 20"):
        split_held_out(single, tmp_path)


def test_shards_with_another_sequence_length_are_refused(mlm_run, tmp_path, capsys):
    shards = ["--data.shards", mlm_run[0] / "shards" / "all", "--tokenizer", mlm_run[0] / "tokenizer"]
    error = error_of(capsys, "--folder", tmp_path / "run", *shards, "--data.length", "64")
    assert "sequences of 32 tokens, but data.length is 64; set --data.length 32" in error


def test_a_run_does_not_resume_with_other_shards(mlm_run, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    settings = json.loads((mlm_run[0] / "config.json").read_text())
    settings["data"] |= {"files": [], "shards": str(mlm_run[0] / "shards" / "all")}
    settings |= {"tokenizer": str(mlm_run[0] / "tokenizer"), "rows": "0" * 64}
    (folder / "config.json").write_text(json.dumps(settings))
    shards = ["--data.shards", settings["data"]["shards"], "--tokenizer", settings["tokenizer"]]
    error = error_of(capsys, "--folder", folder, *shards, *OPTIONS)
    assert "contains a run with other settings: rows (other content)" in error
