"""Labels: those of natural language inference, their spellings in files, and those of training examples."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from deberta_jax.errors import InputError, list_names

NLI_LABELS = "contradiction", "neutral", "entailment"
ENTAILMENT_LABELS = "not_entailment", "entailment"


def label_parser(labels: Sequence[str], aliases: Mapping[str, str] | None = None) -> Callable[[str], str | None]:
    """Return a function from the text of a label, or from an alias, to the label; None for any other text."""
    names = {label: label for label in labels} | dict(aliases or {})
    return lambda text: names.get(text.strip())


def collect_classes(examples: Sequence[Any]) -> tuple[str, ...]:
    """Return the sorted labels of examples with one label each; raises InputError if there are fewer than two."""
    return _sorted({example.label for example in examples}, 2)


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
