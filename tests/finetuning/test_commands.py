"""`finetune` and `evaluate` as users call them: they go on, keep the best, repeat with seeds, and say what is wrong."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from toy_runs import CONFIG, LENGTH, called
from toy_tasks import CONTEXT, MADE, sentences

from deberta_jax.hub.pretrained import load_pretrained, save_pretrained
from deberta_jax.model.heads import SequenceClassification


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "reviews.csv"
    rows = [
        f'"{text.replace(chr(34), chr(34) * 2)} {k}",{("bad", "good")[bit]}'
        for k, (text, bit) in enumerate(sentences(80))
    ]
    path.write_text("\n".join(["review,stars", *rows]) + "\n")
    return path


def words(data, model, folder, *more):
    small = ["--batch-size", "8", "--epochs", "1", "--max-length", LENGTH, "--optimizer.learning-rate", "1e-2"]
    return [str(word) for word in ("--data", data, "--model", model, "--folder", folder, *small, *more)]


# Of one length: a program is compiled for each.
OWN = ("--columns.text", "review", "--columns.label", "stars", "--max-length", "16")


def lines_of(folder, split):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = {"seconds", "tokens_per_second"}
    return [{k: v for k, v in line.items() if k not in timed} for line in lines if line["split"] == split]


def weights(folder):
    return (folder / "model/model.safetensors").read_bytes()


def test_one_table_is_enough_and_the_result_predicts_new_texts(table, pretrained, tmp_path, capsys):
    run = tmp_path / "run"
    assert called("finetune", "generic", *words(table, pretrained, run, *OWN, "--epochs", "4")) == 0
    said = capsys.readouterr().out
    assert "held out" in said
    assert "not held out" in said
    assert json.loads((run / "model/config.json").read_text())["id2label"] == {"0": "bad", "1": "good"}
    output = tmp_path / "predicted.jsonl"
    assert called("predict", run / "model", "--text", "A man eats there. 3", "--output", output) == 0
    assert json.loads(output.read_text())["prediction"]["label"] in ("bad", "good")
    assert called("evaluate", "generic", "--data", table, "--model", run / "model", *OWN) == 0
    assert "test: accuracy" in capsys.readouterr().out


def test_tags_that_mark_no_entities_are_measured_word_by_word(pretrained, tmp_path):
    path = tmp_path / "words.jsonl"
    rows = [
        {"words": text.split(), "tags": ["N" if len(word) > 3 else "D" for word in text.split()]}
        for text, _ in sentences(60)
    ]
    rows = [row | {"words": [*row["words"], str(k)], "tags": [*row["tags"], "D"]} for k, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert called("finetune", "generic", *words(path, pretrained, tmp_path / "run", "--columns.kind", "token")) == 0
    assert json.loads((tmp_path / "run/metrics.json").read_text())["dev"].keys() == {"accuracy"}


def test_a_run_that_was_killed_goes_on_to_the_same_bits(table, pretrained, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    more = ("--epochs", "4", "--checkpoint-every", "3", "--evaluate-every", "5")
    program = "import sys; from deberta_jax.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "finetune", "generic", *words(table, pretrained, killed, *OWN, *more)]
    # The devices are those of this process.
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    path = killed / "metrics.jsonl"
    while not (path.exists() and path.read_text().count("\n") > 16):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for folder in (whole, killed):
        assert called("finetune", "generic", *words(table, pretrained, folder, *OWN, *more)) == 0
    assert lines_of(killed, "train") == lines_of(whole, "train")
    assert lines_of(killed, "held_out") == lines_of(whole, "held_out")
    assert weights(killed) == weights(whole)
    assert (killed / "metrics.json").read_text() == (whole / "metrics.json").read_text()


def test_the_best_model_is_kept_and_a_run_ends_for_want_of_better(pretrained, tmp_path, capsys):
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    MADE["sst-2"](data)
    # At such a rate nothing is learned after the first steps.
    more = ("--epochs", "40", "--patience", "2", "--optimizer.learning-rate", "3")
    command = ["finetune", "sst-2", *words(data, pretrained, run, *more)]
    assert called(*command) == 0
    held_out = lines_of(run, "held_out")
    values = [line["accuracy"] for line in held_out]
    assert len(values) < 40
    best = int(np.argmax(values))
    assert len(values) == best + 3
    assert json.loads((run / "metrics.json").read_text())["dev"]["accuracy"] == values[best]
    before = weights(run)
    assert called(*command) == 0
    assert weights(run) == before
    assert len(lines_of(run, "held_out")) == len(values)
    assert called(*command, "--seed", "3") == 2
    assert "holds a run of another config: seed (0 there, 3 here)" in capsys.readouterr().err


def test_seeds_are_repeated_runs_of_which_the_best_is_kept(pretrained, tmp_path, capsys):
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    MADE["rte"](data)
    assert called("finetune", "rte", *words(data, pretrained, run, "--seeds", "2")) == 0
    found = json.loads((run / "seeds.json").read_text())
    assert len(found) == 2
    best = max(range(2), key=lambda seed: found[seed]["accuracy"])
    assert weights(run) == weights(run / f"seed-{best}")
    assert "2 seeds: accuracy median" in capsys.readouterr().out
    assert "<h2>Seeds</h2>" in (run / "report.html").read_text()


def test_adapters_train_beside_an_encoder_that_holds_still_and_are_merged(pretrained, tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    MADE["mrpc"](data)
    more = ("--lora.rank", "2", "--sift.weight", "1", "--class-weights", "balanced", "--label-smoothing", "0.1")
    assert called("finetune", "mrpc", *words(data, pretrained, run, *more)) == 0
    model = load_pretrained(run / "model", "sequence_classification").model
    base = load_pretrained(pretrained).model
    same = model.deberta.embeddings.word.embedding[...] == base.embeddings.word.embedding[...]
    assert np.asarray(same).all()
    layers = [one.encoder.layers for one in (model.deberta, base)]
    assert (np.asarray(layers[0].expand.kernel[...]) == np.asarray(layers[1].expand.kernel[...])).all()
    assert (
        np.asarray(layers[0].attention.query.kernel[...]) != np.asarray(layers[1].attention.query.kernel[...])
    ).any()


def test_a_task_begins_with_the_result_of_another(pretrained, tmp_path):
    for name in ("mnli", "rte"):
        (tmp_path / name).mkdir()
        MADE[name](tmp_path / name)
    assert called("finetune", "mnli", *words(tmp_path / "mnli", pretrained, tmp_path / "first")) == 0
    start = tmp_path / "first/model"
    assert (
        called(
            "finetune", "rte", *words(tmp_path / "rte", start, tmp_path / "second", "--optimizer.learning-rate", "0")
        )
        == 0
    )
    first, second = (
        load_pretrained(tmp_path / name / "model", "sequence_classification").model for name in ("first", "second")
    )
    assert (np.asarray(first.pooler.dense.kernel[...]) == np.asarray(second.pooler.dense.kernel[...])).all()
    assert second.deberta.config.labels == ("not_entailment", "entailment")


def test_a_head_of_the_same_labels_in_another_order_is_trained_on(tokenizer, tmp_path):
    (tmp_path / "rte").mkdir()
    MADE["rte"](tmp_path / "rte")
    config = dataclasses.replace(CONFIG, labels=("entailment", "not_entailment"), hidden_dropout_prob=0.0)
    model = jax.jit(lambda key: SequenceClassification(config, key=key))(jax.random.key(0))
    save_pretrained(tmp_path / "start", model, tokenizer)
    assert (
        called("finetune", "rte", *words(tmp_path / "rte", tmp_path / "start", tmp_path / "run", "--epochs", "20")) == 0
    )
    kept = json.loads((tmp_path / "run/model/config.json").read_text())["id2label"]
    assert kept == {"0": "entailment", "1": "not_entailment"}
    # What is learned by one order and read by another is wrong.
    assert json.loads((tmp_path / "run/metrics.json").read_text())["dev"]["accuracy"] == 1


def test_squad_prediction_files_are_scored_without_a_model(tmp_path, capsys):
    MADE["squad2"](tmp_path)
    predictions = tmp_path / "predictions.json"
    predictions.write_text(json.dumps({f"q{k}": ("A man", "", "a quick fox")[k % 3] for k in range(6)}))
    command = ["evaluate", "squad2", "--data", tmp_path / "dev-v2.0.json", "--predictions", predictions]
    assert called(*command) == 0
    said = capsys.readouterr().out
    assert "exact: 66.66" in said
    assert "NoAns_exact: 100.0" in said
    assert called("evaluate", "rte", *command[2:]) == 2
    assert "--predictions are scored for squad and squad2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--columns.text", "reviw"], "no column 'reviw'; there are review, stars; did you mean 'review'?"),
        (["--columns.label", "review", "--columns.kind", "regression"], "is no number"),
        (["--epochs", "0"], "epochs is 0.0; a positive number is wanted"),
        (["--class-weights", "great=2"], "no label 'great'; there are bad, good"),
        (["--optimizer.layer-decay", "2"], "optimizer.layer_decay is 2.0"),
    ],
)
def test_wrong_options_are_one_line(table, pretrained, tmp_path, capsys, more, message):
    assert called("finetune", "generic", *words(table, pretrained, tmp_path / "run", *OWN, *more)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.strip().splitlines()[-1].startswith("deberta-jax finetune generic: ")


def test_what_is_missing_is_said_before_anything_is_written(pretrained, tmp_path, capsys):
    run = tmp_path / "run"
    for command, message in (
        (["--model", pretrained], "no data are named: --data FOLDER"),
        (["--data", tmp_path], "holds no file of cola (train: train.tsv; dev: dev.tsv; test: test.tsv)"),
        (["--data", tmp_path / "none", "--model", pretrained], "none: no such file or folder"),
    ):
        assert called("finetune", "cola", *command, "--folder", run) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "train.tsv").write_text("gj04\t1\t\tA man eats.\n")
    assert called("finetune", "cola", "--data", tmp_path, "--model", pretrained, "--folder", run) == 2
    assert "no file of the split dev; dev.tsv is wanted" in capsys.readouterr().err
    (tmp_path / "dev.tsv").write_text("gj04\t1\t\tA man eats.\n")
    assert called("finetune", "cola", "--data", tmp_path, "--folder", run) == 2
    assert "no model is named: --model FOLDER" in capsys.readouterr().err
    assert called("finetune", "cola", "--data", tmp_path, "--model", pretrained, "--columns.text", "x") == 2
    assert "columns are for generic; cola has files of its own form" in capsys.readouterr().err
    assert not run.exists()
    (tmp_path / "dev.tsv").unlink()
    assert called("evaluate", "cola", "--data", tmp_path, "--model", pretrained) == 2
    assert "holds nothing but training data" in capsys.readouterr().err


@pytest.mark.reference
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cb", "SequenceClassification"),
        ("ner", "TokenClassification"),
        ("squad", "QuestionAnswering"),
        ("swag", "MultipleChoice"),
    ],
)
def test_transformers_loads_the_result_with_its_labels_and_gives_the_same(name, kind, pretrained, tmp_path):
    import torch
    import transformers

    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    MADE[name](data)
    assert called("finetune", name, *words(data, pretrained, run)) == 0
    config = transformers.AutoConfig.from_pretrained(run / "model")
    assert config.architectures == [f"DebertaV2For{kind}"]
    theirs = (
        getattr(transformers, f"AutoModelFor{kind}").from_pretrained(run / "model", attn_implementation="eager").eval()
    )
    head = {"SequenceClassification": "sequence_classification", "TokenClassification": "token_classification"}
    head |= {"QuestionAnswering": "question_answering", "MultipleChoice": "multiple_choice"}
    ours, tokenizer = load_pretrained(run / "model", head[kind])
    if name in ("cb", "ner"):
        assert list(config.id2label.values()) == list(ours.deberta.config.labels)
    batch = tokenizer([CONTEXT])
    shape = (1, 1, -1) if kind == "MultipleChoice" else (1, -1)
    ids, mask = batch.input_ids.reshape(shape), batch.attention_mask.reshape(shape)
    with torch.inference_mode():
        found = theirs(torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long())
    wanted = ours(ids, mask)
    pairs = (
        [(found.start_logits, wanted.start), (found.end_logits, wanted.end)]
        if name == "squad"
        else [(found.logits, wanted)]
    )
    for theirs_logits, ours_logits in pairs:
        assert np.asarray(ours_logits) == pytest.approx(theirs_logits.numpy(), abs=1e-5)


def test_two_processes_fine_tune_as_one_does(table, pretrained, tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    joined = ["--processes.join", "--processes.coordinator", address, "--processes.count", "2", "--processes.index"]
    flags = "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    program = "import sys; from deberta_jax.cli.main import main; sys.exit(main())"

    def start(folder, *more):
        command = [sys.executable, "-c", program, "finetune", "generic", *words(table, pretrained, folder, *OWN, *more)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    processes = [start(tmp_path / "two", *joined, str(number)) for number in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert called("finetune", "generic", *words(table, pretrained, tmp_path / "one", *OWN)) == 0
    one, two = (lines_of(tmp_path / name, "train") for name in ("one", "two"))
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-4)
    assert (tmp_path / "two/model/model.safetensors").exists()
    assert lines_of(tmp_path / "two", "held_out")[0].keys() == lines_of(tmp_path / "one", "held_out")[0].keys()
