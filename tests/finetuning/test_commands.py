"""`finetune` and `evaluate` on the command line: resuming, seeds, adapters, several processes, and error messages."""

import dataclasses
import json
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from separable import OPTIONS, SEPARABLE
from stub_runs import environment
from toy_runs import CONFIG, PROGRAM, call, read_json, read_lines, weights
from toy_tasks import write_toy_task

from deberta_jax.hub.pretrained import load_pretrained, save_pretrained
from deberta_jax.model.heads import SequenceClassification
from deberta_jax.model.surgery import parameters
from deberta_jax.presets import PRESETS

NLI = ("contradiction", "neutral", "entailment")


def start(words, folder, *more, **options):
    """Start `finetune` in another process."""
    command = [sys.executable, "-c", PROGRAM, "finetune", *words, "--folder", folder, *more]
    return subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def saved_classifier(folder, tokenizer, labels):
    config = dataclasses.replace(CONFIG, labels=labels)
    model = jax.jit(lambda key: SequenceClassification(config, key=key))(jax.random.key(0))
    save_pretrained(folder, model, tokenizer)
    return folder


def test_the_result_of_one_table_classifies_new_texts_and_can_be_evaluated(finished, tmp_path, capsys):
    run = finished("single_label")
    assert "96 rows, 96 used" in run.output
    assert "held out 10 of 96 examples as dev (stratified by label, seed 0)" in run.output
    predicted = tmp_path / "predicted.jsonl"
    assert call("predict", run.folder / "model", "--text", "the of shells it", "--output", predicted) == 0
    assert read_json(predicted)["prediction"]["label"] == "bad"
    capsys.readouterr()
    data = run.folder.parent / run.separable.data
    options = ("--model", run.folder / "model", *run.separable.options, "--max-length", "16")
    assert call("evaluate", "generic", "--data", data, *options, "--folder", tmp_path / "evaluated") == 0
    output = capsys.readouterr().out
    assert "test: accuracy" in output
    assert "(96 examples)" in output
    assert output.splitlines()[-1] == f"next: open {tmp_path / 'evaluated/report.html'}"


def test_a_killed_run_resumes_bit_for_bit(finished, tmp_path):
    run, killed = finished("single_label"), tmp_path / "killed"
    # As many devices as in this process.
    process = start(run.words, killed, env=environment(devices=2))
    path = killed / "metrics.jsonl"
    while not (path.exists() and path.read_text().count("\n") > 16):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert call("finetune", *run.words, "--folder", killed) == 0
    assert read_lines(killed, "train") == read_lines(run.folder, "train")
    assert read_lines(killed, "held_out") == read_lines(run.folder, "held_out")
    assert weights(killed) == weights(run.folder)
    assert (killed / "metrics.json").read_text() == (run.folder / "metrics.json").read_text()


def test_a_finished_run_is_kept_extended_with_more_epochs_and_refuses_other_settings(finished, tmp_path, capsys):
    run, copy = finished("single_label"), tmp_path / "copy"
    subprocess.run(["cp", "-r", run.folder, copy], check=True)
    assert call("finetune", *run.words, "--folder", copy) == 0
    assert weights(copy) == weights(run.folder)
    assert read_lines(copy, "held_out") == read_lines(run.folder, "held_out")
    assert call("finetune", *run.words, "--folder", copy, "--seed", "3") == 2
    assert "seed (0 in the folder, 3 now)" in capsys.readouterr().err
    assert call("finetune", *run.words, "--folder", copy, "--epochs", "2") == 2
    assert "this run has 6 epochs, and 2 would be fewer" in capsys.readouterr().err
    assert call("finetune", *run.words, "--folder", copy, "--epochs", "7") == 0
    assert read_lines(copy, "train")[:-6] == read_lines(run.folder, "train")
    # The same metrics do not choose a damaged model.
    path = copy / "model/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert call("finetune", *run.words, "--folder", copy, "--epochs", "7") == 2
    assert "model.safetensors is damaged or missing, so the best model is lost: delete" in capsys.readouterr().err


def test_a_run_follows_its_model_and_refuses_another_one(finished, tokenizer, tmp_path, capsys):
    run, copy, moved = finished("single_label"), tmp_path / "copy", tmp_path / "moved"
    subprocess.run(["cp", "-r", run.folder, copy], check=True)
    words = [str(word) for word in run.words]
    place = words.index("--model") + 1
    subprocess.run(["cp", "-r", words[place], moved], check=True)
    words[place] = str(moved)
    assert call("finetune", *words, "--folder", copy) == 0
    assert weights(copy) == weights(run.folder)
    words[place] = str(saved_classifier(tmp_path / "other", tokenizer, NLI))
    assert call("finetune", *words, "--folder", copy) == 2
    assert f"{tmp_path / 'other'} now)" in capsys.readouterr().err


def test_several_seeds_keep_the_best_and_a_head_with_the_same_labels_keeps_their_order(tokenizer, tmp_path, capsys):
    separable = SEPARABLE["single_label"](tmp_path)
    model = saved_classifier(tmp_path / "start", tokenizer, ("good", "bad"))
    run = tmp_path / "run"
    words = ["--data", tmp_path / separable.data, "--model", model, "--folder", run, *separable.options]
    # The options of the other runs, whose compiled step is in the cache.
    assert call("finetune", "generic", *words, *OPTIONS, "--seeds", "2") == 0
    metrics = read_json(run / "seeds.json")
    best = max(range(2), key=lambda seed: metrics[seed]["accuracy"])
    assert weights(run) == weights(run / f"seed-{best}")
    assert "2 seeds: accuracy median" in capsys.readouterr().out
    assert "<h2>Seeds</h2>" in (run / "report.html").read_text()
    assert read_json(run / "model/config.json")["id2label"] == {"0": "good", "1": "bad"}
    # If labels were learned in one order and read in the other, all predictions would be wrong.
    assert read_json(run / "metrics.json")["dev"]["accuracy"] >= separable.score


def test_adapters_with_adversarial_training_leave_the_encoder_unchanged_and_are_merged(pretrained, tmp_path):
    separable = SEPARABLE["single_label"](tmp_path)
    run = tmp_path / "run"
    words = ["--data", tmp_path / separable.data, "--model", pretrained, "--folder", run, *separable.options]
    small = ("--epochs", "1", "--batch-size", "16", "--optimizer.learning-rate", "1e-2", "--max-length", "16")
    more = ("--lora.rank", "2", "--sift.weight", "1", "--class-weights", "balanced", "--label-smoothing", "0.1")
    assert call("finetune", "generic", *words, *small, *more) == 0
    model = load_pretrained(run / "model", "sequence_classification")[0].deberta
    base = load_pretrained(pretrained)[0]

    def is_equal(path):
        first, second = model, base
        for name in path.split("."):
            first, second = getattr(first, name), getattr(second, name)
        return (np.asarray(first[...]) == np.asarray(second[...])).all()

    assert is_equal("embeddings.word.embedding")
    assert is_equal("encoder.layers.up.kernel")
    assert not is_equal("encoder.layers.attention.query.kernel")
    # The adapters and the head alone give the same model with the base.
    adapted = load_pretrained(run / "adapter", "sequence_classification")[0]
    assert read_json(run / "adapter/adapter_config.json")["base_model_name_or_path"] == str(pretrained)
    for path, leaf in parameters(load_pretrained(run / "model", "sequence_classification")[0]).items():
        np.testing.assert_allclose(parameters(adapted)[path], leaf, atol=1e-6, err_msg=path)


def test_several_processes_train_as_one(finished, tmp_path):
    run, folder = finished("single_label"), tmp_path / "two"
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    joined = ["--processes.join", "--processes.coordinator", address, "--processes.count", "2", "--processes.index"]
    processes = [start(run.words, folder, *joined, str(number), env=environment(devices=1)) for number in range(2)]
    errors = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    one, two = (read_lines(name, "train") for name in (run.folder, folder))
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-3)
    assert (folder / "model/model.safetensors").exists()
    assert read_json(folder / "metrics.json").keys() == read_json(run.folder / "metrics.json").keys()


def test_a_diagnostic_set_is_evaluated_with_a_model_of_three_labels(tokenizer, tmp_path, capsys):
    write_toy_task("ax-b", tmp_path)
    model = saved_classifier(tmp_path / "model", tokenizer, NLI)
    words = ("--data", tmp_path, "--model", model, "--max-length", "48")
    assert call("evaluate", "ax-b", *words, "--folder", tmp_path / "run") == 0
    lines = [json.loads(line) for line in (tmp_path / "run/predictions/AX-b.jsonl").read_text().splitlines()]
    assert {line["label"] for line in lines} <= {"entailment", "not_entailment"}
    assert "not_entailment" in (tmp_path / "run/report.html").read_text()
    assert call("finetune", "ax-b", *words[:4]) == 2
    assert "ax-b has no training set: fine-tune on superglue-rte or mnli" in capsys.readouterr().err


def test_another_metric_is_evaluated_and_a_test_set_with_placeholders_is_only_predicted(tokenizer, tmp_path, capfd):
    model = saved_classifier(tmp_path / "model", tokenizer, ("no", "yes"))
    (tmp_path / "dev.csv").write_text("text,label\na man,yes\na dog,no\na cat,yes\n")
    (tmp_path / "test.csv").write_text("text,label\nshells,?\nthe sea,?\n")
    words = ("evaluate", "generic", "--data", tmp_path, "--model", model, "--max-length", "16", "--metric")
    assert call(*words, "macro-F1", "--folder", tmp_path / "evaluated") == 0
    printed = capfd.readouterr()
    assert "dev: f1_macro " in printed.out and "test: 2 examples predicted (no labels)" in printed.out
    assert "test: the label of all rows is ?, so they are only predicted" in printed.err
    assert read_json(tmp_path / "evaluated/summary.json")["dev"]["metric"] == "f1_macro"
    assert call(*words, "rmse") == 2
    assert "metric is 'rmse', which tasks of kind single_label do not have" in capfd.readouterr().err


def test_prediction_files_of_squad_are_scored_without_a_model(tmp_path, capsys):
    write_toy_task("squad2", tmp_path)
    predictions = tmp_path / "predictions.json"
    predictions.write_text(json.dumps({f"q{k}": ("A man", "", "a quick fox")[k % 3] for k in range(6)}))
    command = ["evaluate", "squad2", "--data", tmp_path / "dev-v2.0.json", "--predictions", predictions]
    assert call(*command) == 0
    output = capsys.readouterr().out
    assert "exact: 66.66" in output
    assert "NoAns_exact: 100.0" in output
    assert call("evaluate", "rte", *command[2:]) == 2
    assert "--predictions supports squad and squad2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--attention", "cudnn"], "'cudnn' runs on GPU, and the current device is a CPU; use 'auto'"),
        (["--columns.text", "reviw"], "no column 'reviw'; the columns are review, stars; did you mean 'review'?"),
        (["--columns.label", "review", "--columns.kind", "regression"], "is not a number"),
        (["--columns.kind", "entity_ranking"], "columns.kind is 'entity_ranking'; it must be one of single_label"),
        (["--epochs", "0"], "epochs is 0.0; it must be a positive number"),
        (["--class-weights", "great=2"], "no label 'great'; the labels are bad, good"),
        (["--optimizer.layer-decay", "2"], "optimizer.layer_decay is 2.0"),
        (["--folds", "1"], "folds is 1; it must be 0, or at least 2"),
        (["--folds", "3", "--seeds", "2"], "folds is 3 and seeds 2; use one of them"),
        (["--metric", "rmse"], "kind single_label do not have; use accuracy, auc, f1_macro, log_loss, map3, matthews"),
        (["--metric", "qwk"], "metric is 'qwk', which needs labels that are numbers; the labels are bad, good"),
        (["--held-out", "0"], "held_out is 0; it must be between 0 and 1, such as 0.1"),
        (["--columns.group", "author"], "reviews.csv: no column 'author'; the columns are review, stars"),
        (["--folder", "/proc/nope"], "/proc/nope: "),
    ],
)
def test_invalid_options_are_one_line_and_leave_no_folder(prepared, tmp_path, capsys, more, message):
    run = tmp_path / "run"
    assert call("finetune", *prepared("single_label").words, "--folder", run, *more) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.splitlines()[-1].startswith("deberta-jax finetune generic: ")
    assert not run.exists()


def test_missing_inputs_are_reported_before_anything_is_written(pretrained, tmp_path, capsys):
    run = tmp_path / "run"
    for command, message in (
        (["--model", pretrained], "no data given: use --data"),
        (
            ["--data", tmp_path],
            "no file of cola in this folder; expected train: train.tsv; dev: dev.tsv; test: test.tsv",
        ),
        (["--data", tmp_path / "none", "--model", pretrained], "none: no such file or folder"),
    ):
        assert call("finetune", "cola", *command, "--folder", run) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "train.tsv").write_text("gj04\t1\t\tA man eats.\n")
    assert call("finetune", "cola", "--data", tmp_path, "--model", pretrained, "--folder", run) == 2
    assert "none of the 1 training examples can be held out" in capsys.readouterr().err
    (tmp_path / "train.tsv").rename(tmp_path / "test.tsv")
    assert call("finetune", "cola", "--data", tmp_path, "--model", pretrained, "--folder", run) == 2
    assert "no file for the split train; expected train.tsv" in capsys.readouterr().err
    (tmp_path / "test.tsv").rename(tmp_path / "train.tsv")
    (tmp_path / "dev.tsv").write_text("gj04\t1\t\tA man eats.\n")
    assert call("finetune", "cola", "--data", tmp_path, "--folder", run) == 2
    assert "no model given: use --model" in capsys.readouterr().err
    assert call("finetune", "cola", "--data", tmp_path, "--model", pretrained, "--columns.text", "x") == 2
    assert (
        "--columns options are for the task generic; the files of cola have a fixed format" in capsys.readouterr().err
    )
    assert not run.exists()
    (tmp_path / "dev.tsv").unlink()
    assert call("evaluate", "cola", "--data", tmp_path, "--model", pretrained, "--folder", run) == 2
    assert "only training data in this folder" in capsys.readouterr().err
    assert not run.exists()


def test_help_shows_the_defaults_that_the_model_selects(tmp_path, capsys):
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(PRESETS["tiny"].to_dict()))
    assert call("finetune", "generic", "--model", folder, "--help") == 0
    output = capsys.readouterr().out
    assert "(default: 4.0)" in output
    assert "(default: 0.0003)" in output
    assert call("finetune", "generic", "--help") == 0
    output = capsys.readouterr().out
    assert "(default: 3.0)" in output
    assert "Some defaults depend on the task and on --model" in " ".join(output.split())
