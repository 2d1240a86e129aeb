"""Adversarial and cross-lingual inference: ANLI (Nie et al. 2020) and XNLI (Conneau et al. 2018)."""

from collections.abc import Mapping
from pathlib import Path

from deberta_jax.tasks.examples import Examples, ReadReport, TaskData, TextExample
from deberta_jax.tasks.glue import INFERENCE, label_reader
from deberta_jax.tasks.jsonl import numbered_objects
from deberta_jax.tasks.submissions import labelled_lines
from deberta_jax.tasks.tsv import Columns, read_tabs

_LETTERS = {"e": "entailment", "n": "neutral", "c": "contradiction"}
_SPELT = {"contradictory": "contradiction"} | _LETTERS
_value = label_reader(INFERENCE, _SPELT)


def _rounds(path: Path, split: str) -> Examples:
    """A file of one round, whose name its folder has."""
    account = ReadReport(str(path))
    examples: list[TextExample] = []
    for number, row in numbered_objects(path, account):
        texts = [row.get(name) for name in ("context", "hypothesis")]
        label = row.get("label")
        meant = _value(str(label)) if label is not None else None
        if not all(isinstance(text, str) and text.strip() for text in texts):
            account.skip("no text", number)
        elif label is not None and meant is None:
            account.skip(f"label {str(label)[:20]!r}", number)
        elif meant is None and not split.startswith("test"):
            account.skip("no label", number)
        else:
            account.use()
            name = str(row.get("uid", len(examples)))
            examples.append(TextExample(name, str(texts[0]).strip(), str(texts[1]).strip(), meant, path.parent.name))
    account.check()
    return Examples(examples, [account])


def _languages(path: Path, split: str) -> Examples:
    """Development and test sets of fifteen languages; training on MNLI, in English or translated."""
    columns = Columns(
        ("sentence1", "premise"),
        ("sentence2", "hypo"),
        ("gold_label", "label"),
        ("pairID", "index"),
        () if split == "train" else ("language",),
    )
    return read_tabs(path, split, columns, _value)


_ANLI: Mapping[str, tuple[str, ...]] = {split: (f"R[123]/{split}.jsonl",) for split in ("train", "dev", "test")}
TASKS: dict[str, TaskData] = {
    # The rounds together; metrics tell them apart.
    "anli": TaskData("single_label", _ANLI, _rounds, INFERENCE, labelled_lines("ANLI")),
    "xnli": TaskData(
        "single_label",
        {
            "train": ("multinli.train.en.tsv", "multinli.train.*.tsv", "train.tsv"),
            "dev": ("xnli.dev.tsv",),
            "test": ("xnli.test.tsv",),
        },
        _languages,
        INFERENCE,
        labelled_lines("XNLI"),
    ),
}
