"""GLUE (Wang et al. 2019): its files as the benchmark hands them out, and the files that it takes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.tasks.examples import Examples, Kind, TaskData
from deberta_jax.tasks.submissions import write_tabs
from deberta_jax.tasks.tsv import Columns, read_tabs

INFERENCE = "contradiction", "neutral", "entailment"
ENTAILED = "not_entailment", "entailment"
_TWO = "0", "1"
# How files that number their labels number these.
_NUMBERED = {"0": "entailment", "1": "not_entailment"}
_NUMBERED_INFERENCE = {"0": "entailment", "1": "neutral", "2": "contradiction"}
_SENTENCES = Columns(("sentence1", "Premise", "premise"), ("sentence2", "Hypothesis", "hypothesis"))


def label_reader(labels: Sequence[str], spelt: Mapping[str, str] | None = None) -> Callable[[str], str | None]:
    """Reads a label by its name, or by another spelling."""
    names = {label: label for label in labels} | dict(spelt or {})
    return lambda text: names.get(text.strip())


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 5 else None


def _write(names: Mapping[str, str], value: Callable[[Any], str]) -> Callable[..., list[Path]]:
    def write(folder: Path, split: str, examples: Sequence[Any], predictions: Sequence[Any]) -> list[Path]:
        # What the benchmark takes is of its test sets; of others the split is in the name.
        name = names.get(split, f"{names['test']}-{split}")
        return write_tabs(folder / f"{name}.tsv", examples, [value(prediction) for prediction in predictions])

    return write


def _task(
    name: str,
    columns: Columns,
    labels: Sequence[str],
    spelt: Mapping[str, str] | None = None,
    *,
    files: Mapping[str, tuple[str, ...]] | None = None,
    names: Mapping[str, str] | None = None,
    hidden: bool = False,
) -> TaskData:
    kind: Kind = "single_label" if labels else "regression"
    value = label_reader(labels, spelt) if labels else _number

    def read(path: Path, split: str) -> Examples:
        return read_tabs(path, split, columns, value, hidden=hidden)

    return TaskData(
        kind,
        files or {split: (f"{split}.tsv",) for split in ("train", "dev", "test")},
        read,
        tuple(labels),
        _write(names or {"test": name}, str if labels else (lambda value: f"{min(max(value, 0), 5):.3f}")),
    )


TASKS: dict[str, TaskData] = {
    # The training and development sets have no header, the test set has one.
    "cola": _task("CoLA", Columns(("sentence",), headless=("source", "label", "star", "sentence")), _TWO),
    "sst-2": _task("SST-2", Columns(("sentence",)), _TWO),
    "mrpc": _task(
        "MRPC",
        Columns(("#1 String",), ("#2 String",), ("Quality",), ("index",)),
        _TWO,
        files={
            "train": ("train.tsv", "msr_paraphrase_train.txt"),
            "dev": ("dev.tsv",),
            "test": ("test.tsv", "msr_paraphrase_test.txt"),
        },
    ),
    "sts-b": _task("STS-B", Columns(("sentence1",), ("sentence2",), ("score",)), ()),
    "qqp": _task("QQP", Columns(("question1",), ("question2",), ("is_duplicate",)), _TWO),
    "mnli": _task(
        "MNLI",
        Columns(("sentence1",), ("sentence2",), ("gold_label",), ("index",), ("genre",)),
        INFERENCE,
        _NUMBERED_INFERENCE,
        files={
            "train": ("train.tsv",),
            "dev": ("dev_matched.tsv",),
            "dev_mismatched": ("dev_mismatched.tsv",),
            "test": ("test_matched.tsv",),
            "test_mismatched": ("test_mismatched.tsv",),
        },
        names={"test": "MNLI-m", "test_mismatched": "MNLI-mm"},
    ),
    # The sentence comes first, as in the original (spec 8.1).
    "qnli": _task("QNLI", Columns(("sentence",), ("question",)), ENTAILED, _NUMBERED),
    "rte": _task("RTE", _SENTENCES, ENTAILED, _NUMBERED),
    "wnli": _task("WNLI", _SENTENCES, _TWO),
    "ax": _task(
        "AX",
        _SENTENCES._replace(label=("label", "Label")),
        INFERENCE,
        files={"test": ("diagnostic.tsv", "diagnostic-full.tsv", "AX.tsv", "test.tsv")},
        hidden=True,
    ),
}
