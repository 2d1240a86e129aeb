"""Labels: those of natural language inference, their spellings in files, and those of training examples."""

import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from deberta_jax.errors import InputError, list_names
from deberta_jax.tasks.cells import label_name
from deberta_jax.tasks.examples import PROBABILITIES
from deberta_jax.tasks.rows import UnusableRow

NLI_LABELS = "contradiction", "neutral", "entailment"
ENTAILMENT_LABELS = "not_entailment", "entailment"


def label_parser(labels: Sequence[str], aliases: Mapping[str, str] | None = None) -> Callable[[str], str | None]:
    """Return a function from the text of a label, or from an alias, to the label; None for any other text."""
    names = {label: label for label in labels} | dict(aliases or {})
    return lambda text: names.get(text.strip())


def named_label(value: Any, names: Sequence[str] = ()) -> str:
    """Return the name of a label; a number from 0 is the index of a name, if there are names."""
    name = label_name(value)
    if not names or name in names:
        return name
    if name.isdecimal() and int(name) < len(names):
        return names[int(name)]
    raise UnusableRow(f"label {name[:20]!r} has no name in --labels, which names 0 to {len(names) - 1}")


def case_variants(labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the groups of labels that differ only in case, in spaces, or in what is not visible."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        visible = "".join(sign for sign in unicodedata.normalize("NFKC", label) if unicodedata.category(sign) != "Cf")
        groups.setdefault(" ".join(visible.casefold().split()), []).append(label)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def collect_classes(examples: Sequence[Any]) -> tuple[str, ...]:
    """Return the sorted labels of examples with one label each; raises InputError if there are fewer than two."""
    labelled = [example for example in examples if example.label is not None]
    soft = [example for example in labelled if example.extra.get(PROBABILITIES)]
    if soft and len(soft) < len(labelled):
        raise InputError(
            f"{len(soft):,} of {len(labelled):,} training examples have probabilities of labels, the others one label; "
            'write it as {"label": 1}'
        )
    names = {label for example in soft for label in example.extra[PROBABILITIES]}
    return _sorted(names | {example.label for example in labelled}, 2)


def collect_label_sets(examples: Sequence[Any]) -> tuple[str, ...]:
    """Return the sorted labels of examples with any number of labels; raises InputError if there is none."""
    return _sorted({label for example in examples for label in example.label or ()}, 1)


def regression_label(examples: Sequence[Any]) -> tuple[str, ...]:
    """Return the name of the single output of a regression model."""
    return ("score",)


def _sorted(labels: Collection[str], minimum: int) -> tuple[str, ...]:
    """Sort labels by number if all of them are numbers."""
    if len(labels) < minimum:
        raise InputError(
            f"the labels of the training data are: {list_names(sorted(labels)) or 'none'}; at least {minimum} required"
        )
    return tuple(sorted(labels, key=float if all(map(_is_number, labels)) else str))


def _is_number(label: str) -> bool:
    return label.lstrip("-").replace(".", "", 1).isdecimal()
