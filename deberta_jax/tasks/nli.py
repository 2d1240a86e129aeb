"""Adversarial and cross-lingual inference: ANLI (Nie et al. 2020) and XNLI (Conneau et al. 2018)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deberta_jax.tasks.examples import Examples, ReadReport, TextExample
from deberta_jax.tasks.jsonl import numbered_objects
from deberta_jax.tasks.labels import NLI_LABELS, label_parser
from deberta_jax.tasks.metrics import accuracy, mean_over_groups
from deberta_jax.tasks.rows import UnusableRow, is_test, read_rows, text_in, unknown_label
from deberta_jax.tasks.submissions import id_label_writer
from deberta_jax.tasks.task import Task
from deberta_jax.tasks.tsv import TsvColumns, read_tsv

_ALIASES = {"contradictory": "contradiction", "e": "entailment", "n": "neutral", "c": "contradiction"}
_parse_label = label_parser(NLI_LABELS, _ALIASES)


def _read_anli(path: Path, split: str) -> Examples:
    """Read the file of one round; its folder has the name of the round."""

    def parse(row: dict[str, Any], report: ReadReport) -> Iterator[TextExample]:
        premise, hypothesis = text_in(row, "context"), text_in(row, "hypothesis")
        label = None
        if row.get("label") is not None:
            label = _parse_label(str(row["label"]))
            if label is None:
                raise unknown_label(row["label"])
        elif not is_test(split):
            raise UnusableRow("no label")
        example_id = str(row.get("uid", report.used))
        yield TextExample(example_id, premise, hypothesis, label, group=path.parent.name)

    return read_rows(path, lambda report: numbered_objects(path, report), parse)


def _read_xnli(path: Path, split: str) -> Examples:
    """Read a development or test set of fifteen languages, or MNLI in English or translated."""
    columns = TsvColumns(
        text=("sentence1", "premise"),
        pair=("sentence2", "hypo"),
        label=("gold_label", "label"),
        id=("pairID", "index"),
        group=() if split == "train" else ("language",),
    )
    return read_tsv(path, split, columns, _parse_label)


NLI = (
    Task(
        name="anli",
        kind="single_label",
        description="ANLI: adversarial inference, three rounds",
        # All rounds are read together; the metrics are also reported by round.
        files={split: (f"R[123]/{split}.jsonl",) for split in ("train", "dev", "test")},
        read=_read_anli,
        labels=NLI_LABELS,
        write=id_label_writer("ANLI"),
        metrics=accuracy,
        best_metric="accuracy",
    ),
    Task(
        name="xnli",
        kind="single_label",
        description="XNLI: inference in fifteen languages, trained on English",
        files={
            "train": ("multinli.train.en.tsv", "multinli.train.*.tsv", "train.tsv"),
            "dev": ("xnli.dev.tsv",),
            "test": ("xnli.test.tsv",),
        },
        read=_read_xnli,
        labels=NLI_LABELS,
        write=id_label_writer("XNLI"),
        metrics=mean_over_groups,
        best_metric="mean",
    ),
)
