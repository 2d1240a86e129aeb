"""SuperGLUE (Wang et al. 2019): the official files of the benchmark and its prediction files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.tasks.labels import ENTAILMENT_LABELS, NLI_LABELS
from deberta_jax.tasks.metrics import accuracy, accuracy_and_macro_f1, matthews, multirc_scores
from deberta_jax.tasks.squad_metrics import score_record
from deberta_jax.tasks.submissions import objects_writer, write_objects
from deberta_jax.tasks.superglue_rows import (
    TRUTH_LABELS,
    pair_parser,
    parse_copa,
    parse_multirc,
    parse_record,
    parse_wic,
    parse_wsc,
    superglue_reader,
)
from deberta_jax.tasks.task import Task, Write

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

SUPERGLUE = (
    Task(
        name="boolq",
        kind="single_label",
        description="SuperGLUE: yes-no questions about a passage",
        files=_FILES,
        read=superglue_reader(pair_parser("passage", "question", TRUTH_LABELS)),
        labels=TRUTH_LABELS,
        write=_writer("BoolQ", _is_true),
        metrics=accuracy,
        best_metric="accuracy",
    ),
    Task(
        name="cb",
        kind="single_label",
        description="SuperGLUE: is the writer committed to a clause",
        files=_FILES,
        read=superglue_reader(pair_parser("premise", "hypothesis", NLI_LABELS)),
        labels=NLI_LABELS,
        write=_writer("CB"),
        metrics=accuracy_and_macro_f1,
        best_metric="mean",
    ),
    Task(
        name="copa",
        kind="multiple_choice",
        description="SuperGLUE: which of two sentences is the cause or the effect",
        files=_FILES,
        read=superglue_reader(parse_copa),
        labels=(),
        write=_writer("COPA"),
        metrics=accuracy,
        best_metric="accuracy",
    ),
    Task(
        name="multirc",
        kind="single_label",
        description="SuperGLUE: which answers to a question about a passage are correct",
        files=_FILES,
        read=superglue_reader(parse_multirc),
        labels=("0", "1"),
        write=_write_multirc,
        metrics=multirc_scores,
        best_metric="mean",
    ),
    Task(
        name="record",
        kind="entity_ranking",
        description="SuperGLUE: which entity of a passage fills a gap",
        files=_FILES,
        read=superglue_reader(parse_record),
        labels=(),
        write=_write_record,
        metrics=score_record,
        best_metric="mean",
    ),
    Task(
        name="superglue-rte",
        kind="single_label",
        description="SuperGLUE: rte in SuperGLUE's files",
        files=_FILES,
        read=superglue_reader(pair_parser("premise", "hypothesis", ENTAILMENT_LABELS)),
        labels=ENTAILMENT_LABELS,
        write=_writer("RTE"),
        metrics=accuracy,
        best_metric="accuracy",
    ),
    Task(
        name="wic",
        kind="single_label",
        description="SuperGLUE: does a word have the same sense in two sentences",
        files=_FILES,
        read=superglue_reader(parse_wic),
        labels=TRUTH_LABELS,
        write=_writer("WiC", _is_true),
        metrics=accuracy,
        best_metric="accuracy",
    ),
    Task(
        name="wsc",
        kind="single_label",
        description="SuperGLUE: does a pronoun refer to a noun",
        files=_FILES,
        read=superglue_reader(parse_wsc),
        labels=TRUTH_LABELS,
        write=_writer("WSC", _is_true),
        metrics=accuracy,
        best_metric="accuracy",
    ),
    Task(
        name="ax-b",
        kind="single_label",
        description="SuperGLUE: broad diagnostic set, evaluated with a model of rte",
        files={"test": ("AX-b.jsonl", "test.jsonl")},
        read=superglue_reader(pair_parser("sentence1", "sentence2", ENTAILMENT_LABELS)),
        labels=ENTAILMENT_LABELS,
        write=_writer("AX-b"),
        metrics=matthews,
        best_metric="matthews",
        trained_on="superglue-rte or mnli",
    ),
    Task(
        name="ax-g",
        kind="single_label",
        description="SuperGLUE: diagnostic set on gender, evaluated with a model of rte",
        files={"test": ("AX-g.jsonl", "test.jsonl")},
        read=superglue_reader(pair_parser("premise", "hypothesis", ENTAILMENT_LABELS)),
        labels=ENTAILMENT_LABELS,
        write=_writer("AX-g"),
        metrics=accuracy,
        best_metric="accuracy",
        trained_on="superglue-rte or mnli",
    ),
)
