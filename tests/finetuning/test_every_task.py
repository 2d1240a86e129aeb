"""Every task from files of its official format to a model, metrics, a prediction file and a report, by the command."""

import dataclasses
import json

import jax
import pytest
from toy_runs import CONFIG, LENGTH, called
from toy_tasks import MADE

from deberta_jax.hub.pretrained import save_pretrained
from deberta_jax.model.heads import SequenceClassification
from deberta_jax.tasks.catalogue import TASKS

# What each leaves for its leaderboard, of the test set or, without one, the development set.
FILES = {
    "cola": "CoLA.tsv",
    "sst-2": "SST-2.tsv",
    "mrpc": "MRPC.tsv",
    "sts-b": "STS-B.tsv",
    "qqp": "QQP.tsv",
    "mnli": "MNLI-mm.tsv",
    "qnli": "QNLI.tsv",
    "rte": "RTE.tsv",
    "wnli": "WNLI.tsv",
    "ax": "AX.tsv",
    "boolq": "BoolQ.jsonl",
    "cb": "CB.jsonl",
    "copa": "COPA.jsonl",
    "multirc": "MultiRC.jsonl",
    "record": "ReCoRD.jsonl",
    "superglue-rte": "RTE.jsonl",
    "wic": "WiC.jsonl",
    "wsc": "WSC.jsonl",
    "ax-b": "AX-b.jsonl",
    "ax-g": "AX-g.jsonl",
    "squad": "predictions-dev.json",
    "squad2": "null_odds-dev.json",
    "race": "RACE-test.jsonl",
    "swag": "SWAG-test.jsonl",
    "ner": "ner-test.txt",
    "anli": "ANLI-test.jsonl",
    "xnli": "XNLI-test.jsonl",
}


def test_all_tasks_are_tried():
    assert MADE.keys() == TASKS.keys() == FILES.keys()


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if not task.trained_on])
def test_a_task_runs_from_its_files_to_a_report(name, tmp_path, pretrained, capsys):
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    MADE[name](data)
    words = ["--data", data, "--model", pretrained, "--folder", run, "--max-length", LENGTH]
    small = ["--epochs", "1", "--batch-size", "8", "--optimizer.learning-rate", "1e-2"]
    assert called("finetune", name, *words, *small) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    task = TASKS[name]
    metrics = json.loads((run / "metrics.json").read_text())
    assert task.best in metrics["dev"]
    assert f"dev: {next(iter(metrics['dev']))} " in said
    assert (run / "predictions" / FILES[name]).stat().st_size
    assert "<h2>Worst mistakes</h2>" in (run / "report.html").read_text()
    rows = json.loads((run / "rows.json").read_text())
    assert all(one["read"] == one["used"] + sum(one["skipped"].values()) for one in rows)
    kept = json.loads((run / "model/config.json").read_text())
    if task.data.labels:
        assert list(kept["id2label"].values()) == list(task.data.labels)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.trained_on])
def test_a_diagnostic_set_is_evaluated_with_the_model_of_another_task(name, tmp_path, tokenizer, capsys):
    data = tmp_path / "data"
    data.mkdir()
    MADE[name](data)
    config = dataclasses.replace(CONFIG, labels=("contradiction", "neutral", "entailment"))
    model = jax.jit(lambda key: SequenceClassification(config, key=key))(jax.random.key(0))
    save_pretrained(tmp_path / "model", model, tokenizer)
    words = ("--data", data, "--model", tmp_path / "model", "--folder", tmp_path / "found", "--max-length", LENGTH)
    assert called("evaluate", name, *words) == 0, capsys.readouterr().err
    assert (tmp_path / "found/predictions" / FILES[name]).stat().st_size
    assert called("finetune", name, *words[:4]) == 2
    assert "is evaluated only" in capsys.readouterr().err
