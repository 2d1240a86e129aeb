"""Long texts: all windows of a text are one example with one loss, and the saved model predicts as the run did."""

import csv
import json
import random
import shutil

import jax
import numpy as np
import pytest
from separable import FILLERS, KEYWORDS, filled
from toy_runs import CONFIG, call, read_json
from toy_tokenizers import write_unigram

from deberta_jax.config import DebertaConfig
from deberta_jax.finetuning.batches import Batches, batches_in_epoch, stack
from deberta_jax.finetuning.documents import padded_windows, text_fields, with_windows
from deberta_jax.finetuning.features import Feature
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.objectives import plain_objective
from deberta_jax.finetuning.text_config import TextConfig
from deberta_jax.finetuning.training_set import features_of
from deberta_jax.hub.pretrained import from_pretrained, save_pretrained
from deberta_jax.inference.classification import classify
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.heads import SequenceClassification
from deberta_jax.tasks.examples import TextExample

LENGTH, WINDOW = 16, 8
LONG = TextConfig(long="windows", window_pooling="attention", max_windows=4)
TRUE = {"single_label": "b", "multi_label": ("b", "c"), "regression": 2.5}


def documents(folder, half, train, dev=16):
    """Texts whose second half alone contains the keyword of their label; a half has this number of tokens."""
    for split, count, seed in (("train", train, 0), ("dev", dev, 1)):
        rng = random.Random(seed)
        with (folder / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("text", "label"))
            for number in range(count):
                # All that a truncated text has; it says nothing about the label.
                first = filled(rng, rng.choice(KEYWORDS[2:]), size=half)
                second = filled(rng, KEYWORDS[number % 2], size=half)
                table.writerow((f"{first} {second}", ("bad", "good")[number % 2]))
    return folder


def feature(counts, length=LENGTH, label=0):
    sequences = tuple(np.full(length, 7 + label, np.int32) for _ in range(counts))
    return Feature(sequences, (length,) * counts, {"labels": np.int32(label), "weights": np.float32(1)})


@pytest.mark.parametrize("kind", TRUE)
def test_a_long_text_is_one_feature_with_all_of_its_windows(tokenizer, kind):
    text = " ".join(random.Random(0).choices(FILLERS, k=40))
    examples = [TextExample("1", text, None, TRUE[kind]), TextExample("2", "the of", None, TRUE[kind])]
    features, report = features_of(with_windows(KINDS[kind], LONG), tokenizer, examples, ("a", "b", "c"), LENGTH)
    assert report.used == 2
    assert [len(each.sequences) for each in features] == [4, 1]
    usual, _ = features_of(KINDS[kind], tokenizer, examples, ("a", "b", "c"), LENGTH)
    for each, first in zip(features, usual, strict=True):
        assert each.sequences[0].tolist()[:-1] == first.sequences[0].tolist()[:-1]
        assert str(each.targets) == str(first.targets)


def test_longer_texts_are_counted(tokenizer, caplog):
    text = " ".join(random.Random(0).choices(FILLERS, k=80))
    examples = [TextExample("1", text, None, "b"), TextExample("2", text[:60], None, "b")]
    features_of(with_windows(KINDS["single_label"], LONG), tokenizer, examples, ("a", "b"), LENGTH)
    assert "1 of 2 training examples have more than 4 windows of 16 tokens and are truncated" in caplog.text


def test_few_numbers_of_windows_are_compiled():
    for count in range(1, 40):
        padded = padded_windows(count, 40)
        assert count <= padded <= max(1.5 * count, 2)
    assert {padded_windows(count, 12) for count in range(1, 13)} == {1, 2, 3, 4, 6, 8, 12}
    assert padded_windows(9, 10) == 10


def test_texts_of_similar_numbers_of_windows_are_batched_together():
    kind = with_windows(KINDS["single_label"], LONG)
    counts = np.random.default_rng(0).integers(1, 5, 96).tolist()
    features = [feature(count, LENGTH if count > 1 else 9, label) for label, count in enumerate(counts)]
    batches = Batches(kind, features, batch_size=16, seed=0, max_length=LENGTH, pad_id=0)
    epoch = [next(batches) for _ in range(batches_in_epoch(len(features), 16))]
    assert sorted(int(label) for batch in epoch for label in batch["labels"]) == list(range(96))
    shapes = {batch["input_ids"].shape for batch in epoch}
    assert all(len(shape) == 3 for shape in shapes)
    sequences = sum(int(batch["attention_mask"].any(-1).sum()) for batch in epoch)
    assert sum(16 * batch["input_ids"].shape[1] for batch in epoch) < 1.3 * sequences


def test_the_loss_of_a_batch_is_the_sum_of_those_of_its_texts(tokenizer):
    kind, labels = "regression", ("score",)
    spec = with_windows(KINDS[kind], LONG)
    fields = text_fields(KINDS[kind], CONFIG, LONG, LENGTH)
    config = DebertaConfig(**{**CONFIG.to_dict(), "pos_att_type": (), "labels": labels, **fields})
    model = jax.jit(lambda key: SequenceClassification(config, key=key))(jax.random.key(1))
    words = " ".join(random.Random(0).choices(FILLERS, k=40))
    examples = [TextExample(str(size), words[:size], None, TRUE[kind]) for size in (150, 90, 20)]
    features, _ = features_of(spec, tokenizer, examples, labels, LENGTH)
    loss = jax.jit(lambda model, batch: plain_objective(spec.objective)(model, batch, None).loss)
    # A row of padding, too.
    together = loss(model, stack(spec, [*features, None], LENGTH, 0, range(4)))
    alone = sum(float(loss(model, stack(spec, [each], LENGTH, 0, range(1)))) for each in features)
    assert float(together) == pytest.approx(alone, rel=1e-4)


@pytest.fixture(scope="module")
def run(pretrained, tmp_path_factory):
    """A finished run on texts of twice the sequence length, over eight devices, with accumulation."""
    root = documents(tmp_path_factory.mktemp("long"), WINDOW - 2, 240, 48)
    options = ("--max-length", WINDOW, "--batch-size", "16", "--accumulate", "2", "--epochs", "6")
    windows = ("--long", "windows", "--window-pooling", "attention", "--max-windows", "4")
    words = ("--data", root, "--model", pretrained, *options, "--optimizer.learning-rate", "1e-2", *windows)
    assert call("finetune", "generic", *words, "--evaluate-every", "30", "--folder", root / "run") == 0
    return root


def test_a_label_that_only_the_second_half_tells_is_learned_and_the_saved_model_predicts_the_same(run, tmp_path):
    model, dev = run / "run/model", run / "dev.csv"
    metrics = read_json(run / "run/metrics.json")["dev"]
    assert metrics["accuracy"] > 0.95
    config = read_json(model / "config.json")
    assert (config["window_pooling"], config["max_windows"], config["sequence_length"]) == ("attention", 4, WINDOW)
    assert config["architectures"] == ["DebertaV2ForSequenceClassification"]
    # The default length of `evaluate` is another one; that of the model counts.
    folder, output = tmp_path / "evaluated", tmp_path / "dev.jsonl"
    assert call("evaluate", "generic", "--data", dev, "--model", model, "--folder", folder) == 0
    assert read_json(folder / "metrics.json")["test"] == metrics
    assert call("predict", model, "--input", dev, "--output", output) == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    (path,) = (run / "run/predictions").iterdir()
    predictions = [json.loads(line)["prediction"] for line in path.read_text().splitlines()]
    assert [line["prediction"]["label"] for line in lines] == predictions
    texts = [line["text"] for line in lines]
    results = classify(*from_pretrained(model, "sequence_classification"), texts)
    for result, line in zip(results, lines, strict=True):
        # Scores are written as float32.
        written = {label: np.float32(value) for label, value in line["prediction"]["scores"].items()}
        assert {label: np.float32(value) for label, value in result.scores.items()} == written
    # A plain classifier truncates, and then all texts say the same.
    plain = json.loads((model / "config.json").read_text())
    del plain["window_pooling"], plain["max_windows"]
    shutil.copytree(model, tmp_path / "plain")
    (tmp_path / "plain/config.json").write_text(json.dumps(plain))
    truncated = classify(*from_pretrained(tmp_path / "plain", "sequence_classification"), texts)
    accuracy = np.mean([result.label == line["label"] for result, line in zip(truncated, lines, strict=True)])
    assert accuracy == pytest.approx(0.5, abs=0.2)


def test_the_scores_of_windows_are_saved_and_loaded(run, tmp_path):
    model, tokenizer = from_pretrained(run / "run/model", "sequence_classification")
    assert np.asarray(model.window_scorer.dense.bias[...]).any()
    save_pretrained(tmp_path / "copy", model, tokenizer)
    copy, _ = from_pretrained(tmp_path / "copy", "sequence_classification")
    assert copy.config == model.config
    for leaf, other in zip(jax.tree.leaves(model), jax.tree.leaves(copy), strict=True):
        np.testing.assert_array_equal(leaf, other)


def test_windows_are_for_texts_with_a_label(pretrained, tmp_path, capsys):
    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text('{"words": ["a", "man"], "tags": ["O", "B-PER"]}\n' * 4)
    words = ("--data", tmp_path, "--columns.kind", "token", "--model", pretrained)
    assert call("finetune", "generic", *words, "--long", "windows", "--folder", tmp_path / "run") == 2
    assert "long windows is for single_label, ordinal, multi_label and regression" in capsys.readouterr().err
    assert call("finetune", "generic", *words, "--pooling", "mean", "--folder", tmp_path / "run") == 2
    assert "pooling is for single_label, ordinal, multi_label and regression" in capsys.readouterr().err
    assert call("finetune", "generic", *words, "--max-windows", "0", "--folder", tmp_path / "run") == 2
    assert "max_windows is 0; it must be at least 1" in capsys.readouterr().err


@pytest.fixture(scope="module")
def relative(tmp_path_factory):
    """A model without absolute positions, for texts of 16 tokens."""
    folder = tmp_path_factory.mktemp("relative")
    fields = {"relative_attention": True, "position_biased_input": False, "max_position_embeddings": LENGTH}
    config = DebertaConfig(**{**CONFIG.to_dict(), "pos_att_type": ("c2p", "p2c"), **fields})
    tokenizer = write_unigram(folder)
    save_pretrained(folder, jax.jit(lambda key: Deberta(config, key=key))(jax.random.key(0)), tokenizer)
    return folder


def test_a_model_without_absolute_positions_reads_longer_texts(relative, tmp_path, caplog):
    data, folder = documents(tmp_path, LENGTH - 2, 32), tmp_path / "run"
    options = ("--max-length", 2 * LENGTH, "--batch-size", "16", "--epochs", "1", "--optimizer.learning-rate", "1e-2")
    assert call("finetune", "generic", "--data", data, "--model", relative, *options, "--folder", folder) == 0
    assert "truncated" not in caplog.text
    assert read_json(folder / "model/config.json")["sequence_length"] == 2 * LENGTH
    # Predictions read texts of the same length, not of the model's positions.
    model, tokenizer = from_pretrained(folder / "model", "sequence_classification")
    text = " ".join(["the"] * 24)
    assert classify(model, tokenizer, [f"{text} do"]) != classify(model, tokenizer, [f"{text} she"])
    assert "truncated" not in caplog.text


def test_absolute_positions_limit_the_length_with_one_line(pretrained, tmp_path, capsys):
    data = documents(tmp_path, WINDOW, 16)
    for more in ((), ("--long", "windows")):
        words = ("--data", data, "--model", pretrained, "--max-length", "65", *more, "--folder", tmp_path / "run")
        assert call("finetune", "generic", *words) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert "max_length is 65, but the model has 64 absolute positions: use 64 or less" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--sift.weight", "5", "--pooling", "mean"),
        ("--fgm.epsilon", "0.1", "--focal", "2", "--ema", "0.9", "--freeze-layers", "1"),
        (
            "--awp.learning-rate",
            "1e-3",
            "--columns.kind",
            "ordinal",
            "--pooling",
            "weighted-layers",
            "--dropout-samples",
            "2",
        ),
    ],
    ids=lambda options: options[0].strip("-"),
)
def test_techniques_work_on_windows(pretrained, tmp_path, options):
    data = documents(tmp_path, WINDOW, 16, dev=8)
    if "ordinal" in options:
        for split in ("train", "dev"):
            text = (data / f"{split}.csv").read_text()
            (data / f"{split}.csv").write_text(text.replace("good", "2").replace("bad", "1"))
    words = ("--data", data, "--model", pretrained, "--max-length", WINDOW, "--batch-size", "16", "--epochs", "1")
    windows = ("--long", "windows", "--window-pooling", "attention", "--max-windows", "4")
    assert call("finetune", "generic", *words, *windows, *options, "--folder", tmp_path / "run") == 0
    lines = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
    assert read_json(tmp_path / "run/metrics.json")["dev"]
