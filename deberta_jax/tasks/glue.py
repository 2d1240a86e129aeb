"""GLUE (Wang et al. 2019): the official files of the benchmark and its prediction files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.tasks.examples import Examples
from deberta_jax.tasks.labels import ENTAILMENT_LABELS, NLI_LABELS, label_parser, regression_label
from deberta_jax.tasks.metrics import accuracy, accuracy_and_f1, correlations, matthews
from deberta_jax.tasks.submissions import write_tsv
from deberta_jax.tasks.task import Read, Task, Write
from deberta_jax.tasks.tsv import TsvColumns, read_tsv

_BINARY = "0", "1"
_FILES = {split: (f"{split}.tsv",) for split in ("train", "dev", "test")}
# The numbers of labels in files that number them.
_ENTAILMENT_NUMBERS = {"0": "entailment", "1": "not_entailment"}
_NLI_NUMBERS = {"0": "entailment", "1": "neutral", "2": "contradiction"}
_SENTENCE_PAIR = TsvColumns(("sentence1", "Premise", "premise"), ("sentence2", "Hypothesis", "hypothesis"))


def _reader(columns: TsvColumns, parse_label: Callable[[str], str | float | None]) -> Read:
    def read(path: Path, split: str) -> Examples:
        return read_tsv(path, split, columns, parse_label)

    return read


def _read_diagnostics(path: Path, split: str) -> Examples:
    """Labels are optional: the official file has none."""
    columns = _SENTENCE_PAIR._replace(label=("label", "Label"))
    return read_tsv(path, split, columns, label_parser(NLI_LABELS), optional_labels=True)


def _parse_similarity(text: str) -> float | None:
    """A number from 0 to 5."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 5 else None


def _format_similarity(value: float) -> str:
    return f"{min(max(value, 0), 5):.3f}"


def _writer(file_names: Mapping[str, str], to_text: Callable[[Any], str] = str) -> Write:
    """Return a writer of `file_names[split]`.tsv; the benchmark defines names for test sets only."""

    def write(folder: Path, split: str, examples: Sequence[Any], predictions: Sequence[Any]) -> list[Path]:
        name = file_names.get(split, f"{file_names['test']}-{split}")
        return write_tsv(folder / f"{name}.tsv", examples, [to_text(prediction) for prediction in predictions])

    return write


GLUE = (
    Task(
        name="cola",
        kind="single_label",
        description="GLUE: is a sentence grammatically acceptable",
        files=_FILES,
        read=_reader(
            # The training and development sets have no header line, the test set has one.
            TsvColumns(("sentence",), header=("source", "label", "star", "sentence")),
            label_parser(_BINARY),
        ),
        labels=_BINARY,
        write=_writer({"test": "CoLA"}),
        metrics=matthews,
        best_metric="matthews",
    ),
    Task(
        name="sst-2",
        kind="single_label",
        description="GLUE: is a sentence of a film review positive",
        files=_FILES,
        read=_reader(TsvColumns(("sentence",)), label_parser(_BINARY)),
        labels=_BINARY,
        write=_writer({"test": "SST-2"}),
        metrics=accuracy,
        best_metric="accuracy",
    ),
    Task(
        name="mrpc",
        kind="single_label",
        description="GLUE: do two sentences have the same meaning",
        files={
            "train": ("train.tsv", "msr_paraphrase_train.txt"),
            "dev": ("dev.tsv",),
            "test": ("test.tsv", "msr_paraphrase_test.txt"),
        },
        read=_reader(
            TsvColumns(("#1 String",), ("#2 String",), label=("Quality",), id=("index",)), label_parser(_BINARY)
        ),
        labels=_BINARY,
        write=_writer({"test": "MRPC"}),
        metrics=accuracy_and_f1("1"),
        best_metric="mean",
    ),
    Task(
        name="sts-b",
        kind="regression",
        description="GLUE: how similar are two sentences, 0 to 5",
        files=_FILES,
        read=_reader(TsvColumns(("sentence1",), ("sentence2",), label=("score",)), _parse_similarity),
        labels=(),
        write=_writer({"test": "STS-B"}, _format_similarity),
        metrics=correlations,
        best_metric="mean",
        collect_labels=regression_label,
    ),
    Task(
        name="qqp",
        kind="single_label",
        description="GLUE: do two questions have the same meaning",
        files=_FILES,
        read=_reader(TsvColumns(("question1",), ("question2",), label=("is_duplicate",)), label_parser(_BINARY)),
        labels=_BINARY,
        write=_writer({"test": "QQP"}),
        metrics=accuracy_and_f1("1"),
        best_metric="mean",
    ),
    Task(
        name="mnli",
        kind="single_label",
        description="GLUE: does a premise entail a hypothesis",
        files={
            "train": ("train.tsv",),
            "dev": ("dev_matched.tsv",),
            "dev_mismatched": ("dev_mismatched.tsv",),
            "test": ("test_matched.tsv",),
            "test_mismatched": ("test_mismatched.tsv",),
        },
        read=_reader(
            TsvColumns(("sentence1",), ("sentence2",), label=("gold_label",), id=("index",), group=("genre",)),
            label_parser(NLI_LABELS, _NLI_NUMBERS),
        ),
        labels=NLI_LABELS,
        write=_writer({"test": "MNLI-m", "test_mismatched": "MNLI-mm"}),
        metrics=accuracy,
        best_metric="accuracy",
    ),
    Task(
        name="qnli",
        kind="single_label",
        description="GLUE: does a sentence answer a question",
        files=_FILES,
        # The sentence comes first, as in Microsoft's code (docs/numerics.md, "Task inputs").
        read=_reader(TsvColumns(("sentence",), ("question",)), label_parser(ENTAILMENT_LABELS, _ENTAILMENT_NUMBERS)),
        labels=ENTAILMENT_LABELS,
        write=_writer({"test": "QNLI"}),
        metrics=accuracy,
        best_metric="accuracy",
    ),
    Task(
        name="rte",
        kind="single_label",
        description="GLUE: does a text entail a sentence",
        files=_FILES,
        read=_reader(_SENTENCE_PAIR, label_parser(ENTAILMENT_LABELS, _ENTAILMENT_NUMBERS)),
        labels=ENTAILMENT_LABELS,
        write=_writer({"test": "RTE"}),
        metrics=accuracy,
        best_metric="accuracy",
    ),
    Task(
        name="wnli",
        kind="single_label",
        description="GLUE: does a sentence entail itself with a pronoun replaced",
        files=_FILES,
        read=_reader(_SENTENCE_PAIR, label_parser(_BINARY)),
        labels=_BINARY,
        write=_writer({"test": "WNLI"}),
        metrics=accuracy,
        best_metric="accuracy",
    ),
    Task(
        name="ax",
        kind="single_label",
        description="GLUE: diagnostic set, evaluated with a model of mnli",
        files={"test": ("diagnostic.tsv", "diagnostic-full.tsv", "AX.tsv", "test.tsv")},
        read=_read_diagnostics,
        labels=NLI_LABELS,
        write=_writer({"test": "AX"}),
        metrics=matthews,
        best_metric="matthews",
        trained_on="mnli",
    ),
)
