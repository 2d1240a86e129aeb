"""Each kind of task, by the command: a separable data set is learned, and the written files agree with each other."""

import json
import re

import numpy as np
import pytest
from separable import SEPARABLE
from toy_runs import read_json, read_lines

from deberta_jax.errors import InputError
from deberta_jax.finetuning.custom import find_task, generic_task
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.splits import hold_out
from deberta_jax.hub.pretrained import load_pretrained
from deberta_jax.tasks.catalogue import TASKS, find_splits, load, with_data
from deberta_jax.tasks.columns import Columns
from deberta_jax.tasks.examples import SpanPrediction

# The kinds of heads that transformers has, too.
CLASSES = {
    "single_label": "SequenceClassification",
    "token": "TokenClassification",
    "extractive_qa": "QuestionAnswering",
    "multiple_choice": "MultipleChoice",
}
LABELS = {
    "single_label": ["bad", "good"],
    "multi_label": ["food", "person"],
    "regression": ["score"],
    "ordinal": ["2", "9", "10", "11"],
    "token": ["O", "B-FOOD", "B-PERSON", "B-VERB"],
}


def test_every_kind_has_a_separable_data_set_and_every_task_a_kind():
    assert KINDS.keys() == SEPARABLE.keys()
    assert {task.kind for task in TASKS.values()} <= KINDS.keys()
    assert all(kind.name == name for name, kind in KINDS.items())


# One test per kind, so that no kind is trained by two workers.
@pytest.mark.parametrize("kind", KINDS)
def test_a_separable_data_set_is_learned_and_predictions_metrics_report_and_model_agree(kind, finished):
    run = finished(kind)
    check_score(kind, run)
    check_predictions_and_report(kind, run)
    config = read_json(run.folder / "model/config.json")
    assert config.get("problem_type") == KINDS[kind].problem_type
    if kind in LABELS:
        assert list(config["id2label"].values()) == LABELS[kind]
    task = "--task generate " if kind == "seq2seq" else ""
    command = f'predict {run.folder / "model"} {task}--text "..."'
    if kind == "entity_ranking":
        # An example cannot be given as options.
        command = f"evaluate record --data {run.folder.parent} --model {run.folder / 'model'}"
    if kind in ("single_label", "entity_ranking", "seq2seq"):
        assert run.output.splitlines()[-1] == f"next: deberta-jax {command}"


def check_score(kind, run):
    """The score is above the threshold, and the saved model is the best of the run."""
    metric, score = run.separable.metric, run.separable.score
    history = [line[metric] for line in read_lines(run.folder, "held_out")]
    metrics = read_json(run.folder / "metrics.json")["dev"]
    assert metrics[metric] >= score > constant_score(kind, run)
    # The report's threshold for "no answer" may improve it further.
    assert metrics[metric] >= max(history) - 1e-6


def check_predictions_and_report(kind, run):
    """The metrics are those of the written predictions, and the report shows them."""
    metrics = read_json(run.folder / "metrics.json")["dev"]
    task, examples = dev_set(run)
    (path,) = (path for path in (run.folder / "predictions").iterdir() if "nbest" not in path.name)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    predictions = [parse(kind, line.get("prediction", line.get("label"))) for line in lines]
    rescored = task.metrics(examples, predictions)
    names = {"exact", "f1"} if kind == "extractive_qa" else metrics.keys()
    assert all(rescored[name] == pytest.approx(metrics[name]) for name in names)
    report = (run.folder / "report.html").read_text()
    shown = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", report))
    assert {name: float(value.replace(",", "")) for name, value in shown.items()} == {
        name: pytest.approx(value, rel=1e-3, abs=1e-4) for name, value in metrics.items()
    }
    assert f"{len(examples)} labelled examples" in report
    wrong = re.search(r"(\d+) of \d+ predictions are not correct", report)
    if kind in ("single_label", "multiple_choice"):
        assert int(wrong[1] if wrong else 0) == round((1 - metrics["accuracy"]) * len(examples))


def constant_score(kind, run):
    """The best score of a model that predicts the same for all examples."""
    task, examples = dev_set(run)
    answers = [example.answer for example in examples]
    if kind == "extractive_qa":
        candidates = [SpanPrediction(text, 0.0) for text in {"", *(a[0][0] for a in answers if a)}]
    elif kind == "entity_ranking":
        # All answers are the same word; the score of a random entity.
        return 1 / len(examples[0].entities)
    elif kind == "multi_label":
        candidates = [(), ("food",), ("person",), ("food", "person")]
    else:
        candidates = list(dict.fromkeys(answers))
    return max(task.metrics(examples, [c] * len(examples))[run.separable.metric] for c in candidates)


def dev_set(run):
    """The task and the development set of a run."""
    options = dict(zip(run.words, run.words[1:], strict=False))
    columns = {
        name: options[f"--columns.{name}"] for name in ("kind", "text", "label") if f"--columns.{name}" in options
    }
    if "label" in columns:
        columns["label"] = (columns["label"],)
    data = options["--data"]
    task = find_task(run.separable.task, Columns(**columns))
    paths = find_splits(task, data)
    if "dev" in paths:
        examples = load(task, paths["dev"], "dev").examples
    else:
        train = load(task, paths["train"], "train").examples
        examples = hold_out(train, 0.1, 0, KINDS[task.kind].stratification).dev
    return with_data(task, examples), examples


def parse(kind, value):
    """The prediction that a line of a prediction file contains."""
    if kind == "extractive_qa":
        return SpanPrediction(value, 0.0)
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.reference
@pytest.mark.parametrize("kind", CLASSES)
def test_transformers_computes_the_same_logits_with_the_same_labels(kind, finished):
    import torch
    import transformers

    folder, name = finished(kind).folder / "model", CLASSES[kind]
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.architectures == [f"DebertaV2For{name}"]
    reference = getattr(transformers, f"AutoModelFor{name}").from_pretrained(folder, attn_implementation="eager").eval()
    model, tokenizer = load_pretrained(folder, KINDS[kind].head)
    if kind in ("single_label", "token"):
        assert list(config.id2label.values()) == list(model.deberta.config.labels)
    batch = tokenizer(["A man eats in Köln. A woman sings there."])
    shape = (1, 1, -1) if kind == "multiple_choice" else (1, -1)
    ids, mask = batch.input_ids.reshape(shape), batch.attention_mask.reshape(shape)
    with torch.inference_mode():
        expected = reference(torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long())
    logits = model(ids, mask)
    pairs = [(logits, getattr(expected, "logits", None))]
    if kind == "extractive_qa":
        pairs = [(logits.start, expected.start_logits), (logits.end, expected.end_logits)]
    for ours, reference_logits in pairs:
        assert np.asarray(ours) == pytest.approx(reference_logits.numpy(), abs=1e-5)


def test_generic_tables_are_of_the_kinds_with_a_row_parser():
    for name, kind in KINDS.items():
        if kind.table is not None:
            assert generic_task(Columns(kind=name)).kind == name
    with pytest.raises(InputError, match="columns.kind is 'entity_ranking'; it must be one of single_label, multi_lab"):
        generic_task(Columns(kind="entity_ranking"))
