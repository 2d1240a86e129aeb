"""The command in real processes: text in, a model folder out; killed and started again, the same to the last bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from deberta_jax.cli.main import main
from deberta_jax.cli.pretrain import most_frequent_share
from deberta_jax.cli.sentences import masked_sentences
from deberta_jax.data.documentation import prose
from deberta_jax.data.hold_out import hold_out
from deberta_jax.data.prepare import read_manifest
from deberta_jax.errors import InputError
from deberta_jax.hub.pretrained import from_pretrained
from deberta_jax.inference.masks import fill_mask

OPTIONS = [
    *("--vocabulary", "400", "--data.length", "32", "--data.evaluate-batches", "3", "--batch-size", "8"),
    *("--steps", "14", "--evaluate-every", "7", "--checkpoint-every", "4"),
]


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


def start(folder, text, programs, *options):
    # Compiled with less care: compiling is most of the time of so short a run.
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
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


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text, programs):
    folder = tmp_path_factory.mktemp("runs") / "run"
    process = start(folder, text, programs)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return folder, out


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


def test_killed_at_a_random_moment_the_same_command_ends_with_the_same_losses_to_the_last_bit(
    finished, tmp_path, text, programs
):
    folder = tmp_path / "run"
    for goal in (3, 9):
        process = start(folder, text, programs)
        while not (
            (folder / "metrics.jsonl").exists() and len((folder / "metrics.jsonl").read_text().splitlines()) > goal
        ):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.002)
        time.sleep(random.Random(goal).random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(folder, text, programs)
    _, err = process.communicate()
    assert process.returncode == 0, err
    # The tokenizer was trained anew, from the same text: the whole chain is a function of it.
    assert metrics(folder) == metrics(finished[0])


def test_a_folder_of_another_config_is_refused_with_the_fields_that_differ(finished, text, capsys):
    folder = finished[0]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    arguments = ["pretrain", "tiny", "--folder", str(folder), "--data.files", str(text), *OPTIONS]
    assert main([*arguments, "--batch-size", "16", "--optimizer.weight-decay", "0.1"]) == 2
    error = capsys.readouterr().err
    assert "training.batch_size (8 there, 16 here); training.optimizer.weight_decay (0.01 there, 0.1 here)" in error
    assert error.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_zero_steps_report_the_sizes_of_the_largest_model_and_write_nothing(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["pretrain", "v2-xxlarge", "--folder", str(folder), "--steps", "0", "--mesh.fsdp", "8"]) == 0
    out = capsys.readouterr().out
    assert "1,567,828,068 parameters" in out
    assert "17.52 GiB, 2.20 GiB on each device" in out
    assert not folder.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.files", "nowhere/*.txt"], "nowhere/*.txt: no such file"),
        (["--data.length", "1024"], "data.length is 1024, the position table of tiny ends at 128"),
        (["--batch-size", "12"], "batch of 12 rows does not divide by 8"),
        (["--mesh.fsdp", "3"], "mesh: data -1 x fsdp 3 x tensor 1 does not make the 8 devices"),
        (["--optimizer.warmup", "500"], "optimizer.warmup is 500 steps, the run has 14"),
        (["--tokenizer", "nowhere.model"], "nowhere.model: no such tokenizer"),
        (["--data.shards", "nowhere"], "--data.shards needs the tokenizer they were made with"),
        (["--model", "v9"], "no model 'v9'"),
        (["--data.workers", "-1"], "data.workers is -1; it must be at least 0"),
        (["--data.evaluate-batches", "0"], "data.evaluate_batches is 0; it must be at least 1"),
        (["--data.shards", "here", "--data.files", "x.txt"], "give it without data.files"),
        (["--data.files", "nowhere.txt", "--steps", "0"], "nowhere.txt: no such file"),
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
    assert f"holds a run of another config: rows ({'0' * 64} there" in error
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
