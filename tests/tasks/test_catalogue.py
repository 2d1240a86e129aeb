"""Every task: its toy files are read completely, and its prediction files have the official format."""

import json
import re

import pytest
from toy_tasks import TOY_TASKS, write_toy_task

from deberta_jax.errors import InputError
from deberta_jax.tasks.catalogue import (
    DESCRIPTIONS,
    TASKS,
    check_labels,
    find_evaluation_splits,
    find_splits,
    fit_to_model,
    labels_of,
    load,
)
from deberta_jax.tasks.examples import Examples, SpanPrediction, TextExample
from deberta_jax.tasks.labels import collect_classes, collect_label_sets

NLI = ("contradiction", "neutral", "entailment")
ENTAILMENT = ("not_entailment", "entailment")
TRUTH = ("false", "true")
BINARY = ("0", "1")
USUAL = {"train": 12, "dev": 6, "test": 5}
QA = {"train": 6, "dev": 6}
GLUE = ["index\tprediction"]

# Number of examples by split; labels of the training set; prediction file; its first lines and its number of lines.
EXPECTED = {
    "cola": (USUAL, BINARY, "CoLA.tsv", [*GLUE, "0\t0", "1\t1"], 6),
    "sst-2": (USUAL, BINARY, "SST-2.tsv", [*GLUE, "0\t0", "1\t1"], 6),
    "mrpc": (USUAL, BINARY, "MRPC.tsv", [*GLUE, "0\t0", "1\t1"], 6),
    "sts-b": (USUAL, ("score",), "STS-B.tsv", [*GLUE, "0\t0.000", "1\t2.500", "2\t5.000"], 6),
    "qqp": (USUAL | {"train": 40}, BINARY, "QQP.tsv", [*GLUE, "0\t0", "1\t1"], 6),
    "mnli": (
        {"train": 30, "dev": 40, "dev_mismatched": 6, "test": 5, "test_mismatched": 5},
        NLI,
        "MNLI-mm.tsv",
        [*GLUE, "0\tcontradiction", "1\tneutral", "2\tentailment"],
        6,
    ),
    "qnli": (USUAL, ENTAILMENT, "QNLI.tsv", [*GLUE, "0\tnot_entailment", "1\tentailment"], 6),
    "rte": (USUAL, ENTAILMENT, "RTE.tsv", [*GLUE, "0\tnot_entailment", "1\tentailment"], 6),
    "wnli": (USUAL, BINARY, "WNLI.tsv", [*GLUE, "0\t0", "1\t1"], 6),
    "ax": ({"test": 5}, NLI, "AX.tsv", [*GLUE, "0\tcontradiction"], 6),
    "boolq": (USUAL, TRUTH, "BoolQ.jsonl", ['{"idx": 0, "label": false}', '{"idx": 1, "label": true}'], 5),
    "cb": (USUAL, NLI, "CB.jsonl", ['{"idx": 0, "label": "contradiction"}'], 5),
    "copa": (USUAL, (), "COPA.jsonl", ['{"idx": 0, "label": 0}', '{"idx": 1, "label": 1}'], 5),
    "multirc": (
        {"train": 24, "dev": 12, "test": 12},
        BINARY,
        "MultiRC.jsonl",
        [
            '{"idx": 0, "passage": {"questions": ['
            '{"idx": 0, "answers": [{"idx": 0, "label": 0}, {"idx": 1, "label": 1}, {"idx": 2, "label": 0}]}, '
            '{"idx": 1, "answers": [{"idx": 0, "label": 1}, {"idx": 1, "label": 0}, {"idx": 2, "label": 1}]}]}}'
        ],
        2,
    ),
    "record": ({"train": 6, "dev": 2, "test": 2}, (), "ReCoRD.jsonl", ['{"idx": 0, "label": "Köln"}'], 2),
    "superglue-rte": (USUAL, ENTAILMENT, "RTE.jsonl", ['{"idx": 0, "label": "not_entailment"}'], 5),
    "wic": (USUAL, TRUTH, "WiC.jsonl", ['{"idx": 0, "label": false}', '{"idx": 1, "label": true}'], 5),
    "wsc": (USUAL, TRUTH, "WSC.jsonl", ['{"idx": 0, "label": false}', '{"idx": 1, "label": true}'], 5),
    "ax-b": ({"test": 5}, ENTAILMENT, "AX-b.jsonl", ['{"idx": 0, "label": "not_entailment"}'], 5),
    "ax-g": ({"test": 5}, ENTAILMENT, "AX-g.jsonl", ['{"idx": 0, "label": "not_entailment"}'], 5),
    "squad": (QA, (), "predictions-dev.json", ["{", ' "q0": "A man",'], 8),
    "squad2": (QA, (), "null_odds-dev.json", ["{", ' "q0": -0.5,'], 8),
    "race": (
        {"train": 8, "dev": 8, "test": 8},
        (),
        "RACE-test.jsonl",
        ['{"id": "0-0", "label": "A"}', '{"id": "0-1", "label": "B"}'],
        8,
    ),
    "swag": ({"train": 8, "dev": 4, "test": 4}, (), "SWAG-test.jsonl", ['{"id": "0", "label": 0}'], 4),
    "ner": (
        {"train": 2, "dev": 2, "test": 2},
        ("O", "B-LOC", "B-PER"),
        "ner-test.txt",
        ["-DOCSTART- O O", "", "Köln B-LOC O", "sings O O", "", "A O O", "man B-PER O"],
        18,
    ),
    "anli": (
        {"train": 18, "dev": 9, "test": 9},
        NLI,
        "ANLI-test.jsonl",
        ['{"id": "R1-0", "label": "contradiction"}', '{"id": "R1-1", "label": "neutral"}'],
        9,
    ),
    "xnli": (
        {"train": 12, "dev": 9, "test": 9},
        NLI,
        "XNLI-test.jsonl",
        ['{"id": "0", "label": "contradiction"}', '{"id": "1", "label": "neutral"}'],
        9,
    ),
}


def predictions(task, examples):
    """Predictions of the right type that repeat the labels or choices in order."""
    if task.kind == "token":
        return [("O",) * len(example.words) for example in examples]
    if task.kind == "extractive_qa":
        return [SpanPrediction("A man", -0.5, (("A man", 0.75), ("man", 0.25))) for _ in examples]
    if task.kind == "entity_ranking":
        return ["Köln" for _ in examples]
    # Beyond the range of STS-B.
    values = {"regression": (-1.0, 2.5, 7.0), "multiple_choice": (0, 1)}.get(task.kind, task.labels)
    return [values[k % len(values)] for k in range(len(examples))]


def test_every_task_has_toy_files_an_expectation_and_a_description():
    assert TOY_TASKS.keys() == TASKS.keys() == EXPECTED.keys()
    assert DESCRIPTIONS.keys() == {*TASKS, "generic"}
    assert all(DESCRIPTIONS.values())


@pytest.mark.parametrize("name", TASKS)
def test_a_task_reads_all_its_rows_and_writes_its_official_file(toy, tmp_path, name):
    sizes, labels, file_name, first_lines, number = EXPECTED[name]
    task, splits = TASKS[name], toy(name)
    assert {split: len(examples) for split, (examples, _) in splits.items()} == sizes
    for split, (examples, reports) in splits.items():
        used = sum(report.used for report in reports)
        assert used == (sum(len(example.words) for example in examples) if name == "ner" else len(examples))
        assert all(report.read == report.used + sum(report.skipped.values()) for report in reports)
        assert split.startswith("test") or all(example.answer is not None for example in examples)
    first = next(iter(splits.values())).examples
    assert labels_of(task, first) == labels
    if task.labels:
        assert {example.label for example in first} - {None} <= set(labels)
    split = list(splits)[-1]
    examples = splits[split].examples
    paths = task.write(tmp_path / "predictions", split, examples, predictions(task, examples))
    assert tmp_path / "predictions" / file_name in paths
    lines = (tmp_path / "predictions" / file_name).read_text().splitlines()
    assert lines[: len(first_lines)] == first_lines
    assert len(lines) == number


@pytest.mark.parametrize("name", TASKS)
def test_the_best_metric_is_one_of_the_metrics_and_the_answers_score_highest(toy, name):
    task, splits = TASKS[name], toy(name)
    split = next((split for split in splits if not split.startswith("test")), "test")
    examples = [example for example in splits[split].examples if example.answer is not None]
    if not examples:
        examples = [splits[split].examples[k]._replace(label=NLI[k % 3]) for k in range(3)]
    answers = [example.answer for example in examples]
    if task.kind == "extractive_qa":
        answers = [SpanPrediction(answer[0][0] if answer else "", 0.0) for answer in answers]
    elif task.kind == "entity_ranking":
        answers = [answer[0] for answer in answers]
    best = 100 if task.kind == "extractive_qa" else 1
    assert task.metrics(examples, answers)[task.best_metric] == pytest.approx(best)


def test_the_folder_of_a_task_may_be_inside_the_data_folder(tmp_path):
    write_toy_task("sst-2", tmp_path / "SST-2")
    assert find_splits(TASKS["sst-2"], tmp_path)["train"] == [tmp_path / "SST-2/train.tsv"]
    (tmp_path / "empty").mkdir()
    message = "empty: no file of sst-2 in this folder; expected train: train.tsv; dev: dev.tsv"
    with pytest.raises(InputError, match=re.escape(message)):
        find_splits(TASKS["sst-2"], tmp_path / "empty")


def test_an_evaluation_reads_every_split_except_the_training_set(tmp_path):
    folder = write_toy_task("rte", tmp_path)
    assert find_evaluation_splits(TASKS["rte"], folder) == {
        "dev": [folder / "dev.tsv"],
        "test": [folder / "test.tsv"],
    }
    assert find_evaluation_splits(TASKS["rte"], folder / "train.tsv") == {"test": [folder / "train.tsv"]}


def test_a_file_instead_of_a_folder_is_an_error(tmp_path):
    write_toy_task("rte", tmp_path)
    with pytest.raises(InputError, match=r"train.tsv: expected a folder with train.tsv"):
        find_splits(TASKS["rte"], tmp_path / "train.tsv")
    with pytest.raises(InputError, match="none: no such file or folder"):
        find_splits(TASKS["rte"], tmp_path / "none")


def test_numeric_labels_are_sorted_by_value():
    def examples(*labels):
        return [TextExample(str(k), "text", None, label) for k, label in enumerate(labels)]

    assert collect_classes(examples("10", "9", "-1")) == ("-1", "9", "10")
    assert collect_classes(examples("10", "9", "x")) == ("10", "9", "x")
    assert collect_label_sets(examples(("b", "a"), (), ("c",))) == ("a", "b", "c")
    with pytest.raises(InputError, match="labels of the training data are: a; at least 2 required"):
        collect_classes(examples("a", "a"))


def test_a_label_that_the_model_lacks_is_an_error_with_its_example():
    def splits(*labels):
        return {"dev": Examples([TextExample("7", "text", None, label) for label in labels], [])}

    check_labels(("a", "b"), splits("a", None, ("a", "b"), 0.5))
    with pytest.raises(InputError, match="dev, example 7: label 'c' is not one of the model's labels: a, b"):
        check_labels(("a", "b"), splits("a", ("a", "c")))
    with pytest.raises(InputError, match="LABEL_0, LABEL_1; it has no label names, like a model that was not"):
        check_labels(("LABEL_0", "LABEL_1"), splits("a"))


def test_a_model_of_three_nli_labels_serves_tasks_with_two():
    task = fit_to_model(TASKS["ax-b"], NLI, "model")
    assert [task.resolve(label) for label in NLI] == ["not_entailment", "not_entailment", "entailment"]
    assert fit_to_model(TASKS["ax-b"], ENTAILMENT[::-1], "model") == TASKS["ax-b"]
    with pytest.raises(InputError, match="model: its labels are a, b, but those of rte are not_entailment, entailment"):
        fit_to_model(TASKS["rte"], ("a", "b"), "model")


def test_no_answer_is_predicted_above_the_threshold_where_answers_may_be_missing():
    prediction = SpanPrediction("A man", 1.0)
    assert TASKS["squad2"].resolve(prediction).text == ""
    assert TASKS["squad2"].resolve(prediction, 1.0).text == "A man"
    assert TASKS["squad"].resolve(prediction).text == "A man"


def test_squad_writes_the_best_spans_with_probabilities(toy, tmp_path):
    task, examples = TASKS["squad2"], toy("squad2")["dev"].examples
    paths = task.write(tmp_path, "dev", examples, predictions(task, examples))
    assert [path.name for path in paths] == ["predictions-dev.json", "nbest_predictions-dev.json", "null_odds-dev.json"]
    best = json.loads(paths[1].read_text())
    assert best["q0"] == [{"text": "A man", "probability": 0.75}, {"text": "man", "probability": 0.25}]


SIZES = {
    "cola": ("glue/CoLA", {"train": 8551, "dev": 1043, "test": 1063}),
    "rte": ("glue/RTE", {"train": 2490, "dev": 277}),
    "sst-2": ("glue/SST-2", {"train": 67349, "dev": 872, "test": 1821}),
    "sts-b": ("glue/STS-B", {"train": 5749, "dev": 1500, "test": 1379}),
    "cb": ("superglue/CB", {"train": 250, "dev": 56, "test": 250}),
    "copa": ("superglue/COPA", {"train": 400, "dev": 100, "test": 500}),
    "squad": ("squad", {"train": 11877, "dev": 10570}),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", SIZES)
def test_every_row_of_the_real_files_is_used(shared, name):
    folder, sizes = SIZES[name]
    task = TASKS[name]
    splits = {split: load(task, paths, split) for split, paths in find_splits(task, shared / "data" / folder).items()}
    assert {split: len(examples.examples) for split, examples in splits.items()} == sizes
    assert not any(report.skipped for examples in splits.values() for report in examples.reports)
