"""GLUE (Wang et al. 2019): the official files of the benchmark and its prediction files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.tasks.examples import Examples
from deberta_jax.tasks.labels import ENTAILMENT_LABELS, NLI_LABELS, label_parser, regression_label
from deberta_jax.tasks.metrics import accuracy, accuracy_and_f1, correlations, matthews
from deberta_jax.tasks.submissions import write_tsv
from deberta_jax.tasks.task import Metrics, Task, Write, no_labels
from deberta_jax.tasks.tsv import TsvColumns, read_tsv

_BINARY = "0", "1"
_FILES = {split: (f"{split}.tsv",) for split in ("train", "dev", "test")}
_SENTENCE_PAIR = TsvColumns(("sentence1", "Premise", "premise"), ("sentence2", "Hypothesis", "hypothesis"))
# Some files have the number of a label instead of its name.
_parse_binary = label_parser(_BINARY)
_parse_entailment = label_parser(ENTAILMENT_LABELS, {"0": "entailment", "1": "not_entailment"})
_parse_nli = label_parser(NLI_LABELS, {"0": "entailment", "1": "neutral", "2": "contradiction"})


def _parse_similarity(text: str) -> float | None:
    """A number from 0 to 5."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 5 else None


def _format_similarity(value: float) -> str:
    return f"{min(max(value, 0), 5):.3f}"


def _writer(
    file_name: str, to_text: Callable[[Any], str] = str, *, other_names: Mapping[str, str] | None = None
) -> Write:
    """Return a writer of `file_name`.tsv for the test set, and of `other_names[split]`.tsv.

    For other splits, for which the benchmark defines no names, the name of the split is appended.
    """
    names = {"test": file_name, **(other_names or {})}

    def write(folder: Path, split: str, examples: Sequence[Any], predictions: Sequence[Any]) -> list[Path]:
        name = names.get(split, f"{file_name}-{split}")
        return write_tsv(folder / f"{name}.tsv", examples, [to_text(prediction) for prediction in predictions])

    return write


def _task(
    name: str,
    description: str,
    write: Write,
    columns: TsvColumns,
    parse_label: Callable[[str], str | float | None] = _parse_binary,
    *,
    labels: tuple[str, ...] = _BINARY,
    metrics: Metrics = accuracy,
    best_metric: str = "accuracy",
    kind: str = "single_label",
    files: Mapping[str, tuple[str, ...]] = _FILES,
    optional_labels: bool = False,
    trained_on: str = "",
    collect_labels: Callable[[Sequence[Any]], tuple[str, ...]] = no_labels,
) -> Task:
    """A task of tab-separated files; by default with the labels 0 and 1, scored by accuracy."""

    def read(path: Path, split: str) -> Examples:
        return read_tsv(path, split, columns, parse_label, optional_labels=optional_labels)

    return Task(
        name,
        kind,
        f"GLUE: {description}",
        files,
        read,
        labels,
        write,
        metrics,
        best_metric,
        trained_on,
        collect_labels=collect_labels,
    )


GLUE = (
    _task(
        "cola",
        "is a sentence grammatically acceptable",
        _writer("CoLA"),
        # The training and development sets have no header line, the test set has one.
        TsvColumns(("sentence",), header=("source", "label", "star", "sentence")),
        metrics=matthews,
        best_metric="matthews",
    ),
    _task("sst-2", "is a sentence of a film review positive", _writer("SST-2"), TsvColumns(("sentence",))),
    _task(
        "mrpc",
        "do two sentences have the same meaning",
        _writer("MRPC"),
        TsvColumns(("#1 String",), ("#2 String",), ("Quality",), ("index",)),
        metrics=accuracy_and_f1("1"),
        best_metric="mean",
        files={
            "train": ("train.tsv", "msr_paraphrase_train.txt"),
            "dev": ("dev.tsv",),
            "test": ("test.tsv", "msr_paraphrase_test.txt"),
        },
    ),
    _task(
        "sts-b",
        "how similar are two sentences, 0 to 5",
        _writer("STS-B", _format_similarity),
        TsvColumns(("sentence1",), ("sentence2",), ("score",)),
        _parse_similarity,
        kind="regression",
        labels=(),
        metrics=correlations,
        best_metric="mean",
        collect_labels=regression_label,
    ),
    _task(
        "qqp",
        "do two questions have the same meaning",
        _writer("QQP"),
        TsvColumns(("question1",), ("question2",), ("is_duplicate",)),
        metrics=accuracy_and_f1("1"),
        best_metric="mean",
    ),
    _task(
        "mnli",
        "does a premise entail a hypothesis",
        _writer("MNLI-m", other_names={"test_mismatched": "MNLI-mm"}),
        TsvColumns(("sentence1",), ("sentence2",), ("gold_label",), ("index",), ("genre",)),
        _parse_nli,
        labels=NLI_LABELS,
        files={
            "train": ("train.tsv",),
            "dev": ("dev_matched.tsv",),
            "dev_mismatched": ("dev_mismatched.tsv",),
            "test": ("test_matched.tsv",),
            "test_mismatched": ("test_mismatched.tsv",),
        },
    ),
    _task(
        "qnli",
        "does a sentence answer a question",
        _writer("QNLI"),
        # The sentence comes first, as in Microsoft's code (docs/numerics.md, "Task inputs").
        TsvColumns(("sentence",), ("question",)),
        _parse_entailment,
        labels=ENTAILMENT_LABELS,
    ),
    _task(
        "rte",
        "does a text entail a sentence",
        _writer("RTE"),
        _SENTENCE_PAIR,
        _parse_entailment,
        labels=ENTAILMENT_LABELS,
    ),
    _task("wnli", "does a sentence entail itself with a pronoun replaced", _writer("WNLI"), _SENTENCE_PAIR),
    _task(
        "ax",
        "diagnostic set, evaluated with a model of mnli",
        _writer("AX"),
        # The official file has no labels.
        _SENTENCE_PAIR._replace(label=("label", "Label")),
        label_parser(NLI_LABELS),
        labels=NLI_LABELS,
        metrics=matthews,
        best_metric="matthews",
        files={"test": ("diagnostic.tsv", "diagnostic-full.tsv", "AX.tsv", "test.tsv")},
        optional_labels=True,
        trained_on="mnli",
    ),
)
