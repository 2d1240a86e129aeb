"""The command in real processes: text in, a model folder out; killed and started again, the same to the last bit."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from deberta_jax.cli.main import main
from deberta_jax.data.documentation import prose
from deberta_jax.data.prepare import read_manifest
from deberta_jax.data.split import hold_out
from deberta_jax.errors import InputError
from deberta_jax.hub.pretrained import from_pretrained
from deberta_jax.inference.fill_mask import fill_mask
from deberta_jax.inference.replaced_tokens import detect_replaced
from deberta_jax.pretraining.sentences import masked_sentences
from deberta_jax.pretraining.summary import most_frequent_share

OPTIONS = [
    *("--vocabulary", "400", "--data.length", "32", "--data.evaluate-batches", "3", "--batch-size", "8"),
    *("--steps", "14", "--evaluate-every", "7", "--checkpoint-every", "4"),
]


RTD = ["--objective", "rtd"]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Where the processes of these tests leave compiled programs for each other."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A file of documents: the prose of numpy's linear algebra, a few times over in another order."""
    paragraphs = prose(np.linalg.__doc__) + [
        line for name in np.linalg.__all__ for line in prose(getattr(np.linalg, name).__doc__ or "")
    ]
    rng = random.Random(0)
    documents = ["\n".join(rng.sample(paragraphs, 6)) for _ in range(120)]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(documents))
    return path


def start(folder, text, programs, *options, devices=2):
    # Compiled with less care: compiling is most of the time of so short a run.
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = os.environ | programs | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    code = "import sys; from deberta_jax.cli.main import main; sys.exit(main())"
    command = [
        sys.executable,
        "-c",
        code,
        "pretrain",
        "tiny",
        "--folder",
        folder,
        "--data.files",
        text,
        *OPTIONS,
        *options,
    ]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = {"seconds", "tokens_per_second"}
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def completed(folder, text, programs, *options):
    process = start(folder, text, programs, *options)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return folder, out


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text, programs):
    return completed(tmp_path_factory.mktemp("runs") / "run", text, programs)


@pytest.fixture(scope="module")
def detect_replaced_pipeline(tmp_path_factory, text, programs):
    """A run of replaced-token detection."""
    return completed(tmp_path_factory.mktemp("runs") / "rtd", text, programs, *RTD)


def test_a_run_ends_with_a_model_folder_a_plot_and_five_filled_masks(finished):
    folder, out = finished
    assert {path.name for path in folder.iterdir()} >= {
        "checkpoints",
        "config.json",
        "loss.png",
        "metrics.jsonl",
        "model",
    }
    assert [line["step"] for line in metrics(folder) if line["split"] == "train"] == list(range(1, 15))
    assert "of masked tokens found (always guessing the most frequent one:" in out
    assert out.count("____") == 5
    model, tokenizer = from_pretrained(folder / "model", head="masked_lm")
    [[guesses]] = fill_mask(model, tokenizer, ["Compute the [MASK] of a matrix."], top=4)
    assert len(guesses) == 4
    assert guesses == sorted(guesses, key=lambda guess: -guess.probability)
    sentences = masked_sentences(["Return the eigenvalues and the right eigenvectors of the matrix here"], tokenizer, 5)
    assert all("[MASK]" in sentence and word not in ("", "[MASK]") for sentence, word in sentences)


def test_a_run_of_replaced_tokens_ends_with_both_models_and_says_how_each_does(detecting):
    folder, out = detecting
    assert {path.name for path in folder.iterdir()} >= {"discriminator", "generator", "loss.png", "metrics.jsonl"}
    assert "held out, generator: " in out and "of masked tokens found" in out
    assert "held out, discriminator: AUC 0." in out and "the best constant: 0." in out
    assert out.count("____") == 5 and out.count("    replaced: ") == 5
    held_out = [line for line in metrics(folder) if line["split"] == "held_out"]
    assert [line["step"] for line in held_out] == [7, 14]
    names = {"generator_loss", "generator_perplexity", "generator_accuracy", "discriminator_loss", "gain", "auc"}
    assert all(line.keys() >= names | {"average_precision", "spread", "replaced"} for line in held_out)
    generator, tokenizer = from_pretrained(folder / "generator", head="masked_lm")
    detector, _ = from_pretrained(folder / "discriminator", head="replaced_token_detection")
    [[guesses]] = fill_mask(generator, tokenizer, ["Compute the [MASK] of a matrix."], top=4)
    assert len(guesses) == 4
    [found] = detect_replaced(detector, tokenizer, ["Compute the inverse of a matrix."])
    assert all(0 < token.probability < 1 for token in found)


@pytest.mark.parametrize(("way", "goals"), [("finished", (3, 9)), ("detecting", (6,))])
def test_killed_at_a_random_moment_the_same_command_ends_with_the_same_losses_to_the_last_bit(
    way, goals, request, tmp_path, text, programs
):
    expected, options = metrics(request.getfixturevalue(way)[0]), RTD if way == "detecting" else []
    folder = tmp_path / "run"
    for goal in goals:
        process = start(folder, text, programs, *options)
        while not (
            (folder / "metrics.jsonl").exists() and len((folder / "metrics.jsonl").read_text().splitlines()) > goal
        ):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.002)
        time.sleep(random.Random(goal).random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    completed(folder, text, programs, *options)
    # The tokenizer was trained anew, from the same text: the whole chain is a function of it.
    assert metrics(folder) == expected


def test_two_processes_train_both_models_as_one_does(detecting, tmp_path, text, programs):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    joined = ["--processes.join", "--processes.coordinator", address, "--processes.count", "2", "--processes.index"]
    folder = tmp_path / "run"
    processes = [start(folder, text, programs, *RTD, *joined, str(n), devices=1) for n in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    for ours, theirs in zip(metrics(folder), metrics(detecting[0]), strict=True):
        assert ours.pop("split") == theirs.pop("split")
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    for name, head in (("generator", "masked_lm"), ("discriminator", "replaced_token_detection")):
        models = [from_pretrained(run / name, head=head)[0] for run in (folder, detecting[0])]
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), *models)


def test_a_folder_of_another_config_is_refused_with_the_fields_that_differ(finished, text, capsys):
    folder = finished[0]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    arguments = ["pretrain", "tiny", "--folder", str(folder), "--data.files", str(text), *OPTIONS]
    assert main([*arguments, "--batch-size", "16", "--optimizer.weight-decay", "0.1"]) == 2
    error = capsys.readouterr().err
    assert (
        "training.batch_size (8 in the folder, 16 now); training.optimizer.weight_decay (0.01 in the folder, 0.1 now)"
        in error
    )
    assert error.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_zero_steps_report_the_sizes_of_the_largest_model_and_write_nothing(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["pretrain", "v2-xxlarge", "--folder", str(folder), "--steps", "0", "--mesh.fsdp", "8"]) == 0
    out = capsys.readouterr().out
    assert "1,567,828,068 parameters" in out
    assert "17.52 GiB, 2.20 GiB on each device" in out
    assert not folder.exists()


def test_zero_steps_of_a_published_recipe_tell_its_size_and_the_values_of_paper_and_repository(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["pretrain", "v3-base", "--folder", str(folder), "--steps", "0"]) == 0
    out = capsys.readouterr().out
    # Generator and discriminator of spec 9.1 with their heads; the discriminator has no absolute positions.
    assert f"{141_697_536 + 720_228 + 183_831_552 + 592_897:,} parameters" in out
    assert "8,192 rows of 512, 4,194,304 tokens" in out
    assert "500,000 steps: 2,097,152,000,000 tokens, 2.17e+21 FLOP" in out
    assert "paper: batch 8,192, 500,000 steps, learning rate 0.0006" in out
    assert "repository: batch 256, 1,000,000 steps, learning rate 0.0001" in out
    assert not folder.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.files", "nowhere/*.txt"], "nowhere/*.txt: no such file"),
        (["--data.length", "1024"], "data.length is 1024, the position table of tiny ends at 128"),
        (["--batch-size", "12"], "batch_size is 12; it must be a multiple of 8"),
        (["--mesh.fsdp", "3"], "mesh: data -1 x fsdp 3 x tensor 1 does not make the 8 devices"),
        (["--optimizer.warmup", "500"], "optimizer.warmup is 500 steps, but the run has only 14"),
        (["--tokenizer", "nowhere.model"], "nowhere.model: no such tokenizer"),
        (["--data.shards", "nowhere"], "--data.shards needs the tokenizer they were made with"),
        (["--model", "v9"], "no model 'v9'"),
        (["--data.workers", "-1"], "data.workers is -1; it must be at least 0"),
        (["--data.evaluate-batches", "0"], "data.evaluate_batches is 0; it must be at least 1"),
        (["--data.shards", "here", "--data.files", "x.txt"], "give it without data.files"),
        (["--data.files", "nowhere.txt", "--steps", "0"], "nowhere.txt: no such file"),
        (["--objective", "rtd", "--rtd.sharing", "es"], "give rtd.step joint, or another sharing"),
        (["--generator", "fresh"], "generator is for objective rtd"),
        (["--rtd.loss-weight", "7"], "options of rtd are given, and the objective is mlm; give --objective rtd"),
        (["--start", "./nowhere", "--steps", "0"], "'./nowhere': no such folder"),
        (["--lr", "1"], "did you mean --optimizer.learning-rate?"),
    ],
)
def test_what_cannot_be_is_one_line_and_code_2(options, message, text, tmp_path, capsys):
    folder = tmp_path / "run"
    named = [] if options[0] in ("--data.files", "--data.shards") else ["--data.files", str(text)]
    assert main(["pretrain", "tiny", "--folder", str(folder), *named, *OPTIONS, *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not folder.exists()


def test_one_shard_in_twenty_is_held_out_and_no_row_is_on_both_sides(finished, tmp_path):
    shards = finished[0] / "shards"
    whole, (kept, held_out) = (
        read_manifest(shards / "all"),
        (read_manifest(shards / name) for name in ("train", "held_out")),
    )
    assert kept.rows + held_out.rows == whole.rows
    assert 0.02 < held_out.rows / whole.rows < 0.12
    assert not {shard.source for shard in kept.shards} & {shard.source for shard in held_out.shards}
    single = tmp_path / "single"
    single.mkdir()
    (single / "one").touch()
    manifest = json.loads((shards / "all" / "manifest.json").read_text())
    manifest["shards"] = [manifest["shards"][0] | {"name": "one"}]
    (single / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="1 shards, too few to hold out one in 20: name files with --data.held-out"):
        hold_out(single, tmp_path)


def test_shards_of_another_row_length_are_refused(finished, tmp_path, capsys):
    named = ["--data.shards", str(finished[0] / "shards" / "all"), "--tokenizer", str(finished[0] / "tokenizer")]
    assert main(["pretrain", "tiny", "--folder", str(tmp_path / "run"), *named, "--data.length", "64"]) == 2
    assert "rows of 32 tokens; give --data.length 32" in capsys.readouterr().err


def test_a_run_whose_shards_were_replaced_does_not_go_on(finished, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    settings = json.loads((finished[0] / "config.json").read_text())
    settings["data"] |= {"files": [], "shards": str(finished[0] / "shards" / "all")}
    settings |= {"tokenizer": str(finished[0] / "tokenizer"), "rows": "0" * 64}
    (folder / "config.json").write_text(json.dumps(settings))
    named = ["--data.shards", settings["data"]["shards"], "--tokenizer", settings["tokenizer"]]
    assert main(["pretrain", "tiny", "--folder", str(folder), *named, *OPTIONS]) == 2
    error = capsys.readouterr().err
    assert f"contains a run with other settings: rows ({'0' * 64} in the folder" in error
    assert error.count("\n") == 1


def test_a_folder_that_cannot_be_is_one_line(tmp_path, text, capsys):
    (tmp_path / "file").touch()
    arguments = ["pretrain", "tiny", "--folder", str(tmp_path / "file" / "run"), "--data.files", str(text), *OPTIONS]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "file: Not a directory" in error or "run: Not a directory" in error
    assert error.count("\n") == 1


def test_the_most_frequent_guess_counts_only_what_is_masked():
    batch = {"labels": np.array([[5, 5, 7, 0], [7, 7, 5, 0]]), "label_weights": np.array([[1, 1, 1, 0], [1, 0, 0, 0]])}
    assert most_frequent_share([batch]) == 0.5
