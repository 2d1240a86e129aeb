"""SuperGLUE (Wang et al. 2019): the official files of the benchmark and its prediction files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.tasks.labels import ENTAILMENT_LABELS, NLI_LABELS
from deberta_jax.tasks.metrics import accuracy, accuracy_and_macro_f1, matthews, multirc_scores
from deberta_jax.tasks.squad_metrics import score_record
from deberta_jax.tasks.submissions import objects_writer, write_objects
from deberta_jax.tasks.superglue_rows import (
    TRUTH_LABELS,
    ParseRow,
    pair_parser,
    parse_copa,
    parse_multirc,
    parse_record,
    parse_wic,
    parse_wsc,
    superglue_reader,
)
from deberta_jax.tasks.task import Metrics, Task, Write

_FILES = {"train": ("train.jsonl",), "dev": ("val.jsonl", "dev.jsonl"), "test": ("test.jsonl",)}


def _file_name(name: str, split: str) -> str:
    """The benchmark defines names for test sets only."""
    return f"{name}.jsonl" if split == "test" else f"{name}-{split}.jsonl"


def _writer(name: str, to_value: Callable[[Any], Any] = lambda label: label) -> Write:
    """Return a writer of `idx` and `label`."""
    return objects_writer(
        lambda split: _file_name(name, split),
        lambda example, prediction: {"idx": example.extra["idx"], "label": to_value(prediction)},
    )


def _is_true(label: str) -> bool:
    return label == "true"


def _write_multirc(folder: Path, split: str, examples: Sequence[Any], predictions: Sequence[Any]) -> list[Path]:
    """Write one passage per line, with its questions and their answers, as the leaderboard requires."""
    passages: dict[Any, dict[Any, list[dict[str, Any]]]] = {}
    for example, prediction in zip(examples, predictions, strict=True):
        passage, question, answer = example.extra["indices"]
        passages.setdefault(passage, {}).setdefault(question, []).append({"idx": answer, "label": int(prediction)})
    lines = [
        {
            "idx": passage,
            "passage": {"questions": [{"idx": index, "answers": answers} for index, answers in questions.items()]},
        }
        for passage, questions in passages.items()
    ]
    return write_objects(folder / _file_name("MultiRC", split), lines)


_write_record = objects_writer(
    lambda split: _file_name("ReCoRD", split),
    lambda example, text: {"idx": int(example.id) if example.id.isdecimal() else example.id, "label": text},
)


def _task(
    name: str,
    description: str,
    write: Write,
    parse_row: ParseRow,
    *,
    labels: tuple[str, ...] = (),
    metrics: Metrics = accuracy,
    best_metric: str = "accuracy",
    kind: str = "single_label",
    files: Mapping[str, tuple[str, ...]] = _FILES,
    trained_on: str = "",
) -> Task:
    """A task of files with one JSON object per line, scored by accuracy by default."""
    description, read = f"SuperGLUE: {description}", superglue_reader(parse_row)
    return Task(name, kind, description, files, read, labels, write, metrics, best_metric, trained_on)


_parse_boolq = pair_parser("passage", "question", TRUTH_LABELS)
_parse_entailment = pair_parser("premise", "hypothesis", ENTAILMENT_LABELS)

SUPERGLUE = (
    _task("boolq", "yes-no questions about a passage", _writer("BoolQ", _is_true), _parse_boolq, labels=TRUTH_LABELS),
    _task(
        "cb",
        "is the writer committed to a clause",
        _writer("CB"),
        pair_parser("premise", "hypothesis", NLI_LABELS),
        labels=NLI_LABELS,
        metrics=accuracy_and_macro_f1,
        best_metric="mean",
    ),
    _task(
        "copa",
        "which of two sentences is the cause or the effect",
        _writer("COPA"),
        parse_copa,
        kind="multiple_choice",
    ),
    _task(
        "multirc",
        "which answers to a question about a passage are correct",
        _write_multirc,
        parse_multirc,
        labels=("0", "1"),
        metrics=multirc_scores,
        best_metric="mean",
    ),
    _task(
        "record",
        "which entity of a passage fills a gap",
        _write_record,
        parse_record,
        kind="entity_ranking",
        metrics=score_record,
        best_metric="mean",
    ),
    _task("superglue-rte", "rte in its files", _writer("RTE"), _parse_entailment, labels=ENTAILMENT_LABELS),
    _task(
        "wic",
        "does a word have the same sense in two sentences",
        _writer("WiC", _is_true),
        parse_wic,
        labels=TRUTH_LABELS,
    ),
    _task("wsc", "does a pronoun refer to a noun", _writer("WSC", _is_true), parse_wsc, labels=TRUTH_LABELS),
    _task(
        "ax-b",
        "broad diagnostic set, evaluated with a model of rte",
        _writer("AX-b"),
        pair_parser("sentence1", "sentence2", ENTAILMENT_LABELS),
        trained_on="superglue-rte or mnli",
        files={"test": ("AX-b.jsonl", "test.jsonl")},
        labels=ENTAILMENT_LABELS,
        metrics=matthews,
        best_metric="matthews",
    ),
    _task(
        "ax-g",
        "diagnostic set on gender, evaluated with a model of rte",
        _writer("AX-g"),
        _parse_entailment,
        labels=ENTAILMENT_LABELS,
        files={"test": ("AX-g.jsonl", "test.jsonl")},
        trained_on="superglue-rte or mnli",
    ),
)
