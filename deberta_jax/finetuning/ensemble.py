"""Ensembles: the mean of the predictions of several models."""

from collections.abc import Mapping, Sequence

from deberta_jax.errors import InputError, list_names
from deberta_jax.finetuning.kinds.kind import Kind
from deberta_jax.finetuning.outcomes import Outcome


def check_ensemble(kind: Kind, labels: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Raise InputError if models cannot be averaged; `labels` are the name and the labels of each model."""
    if kind.averaging is None:
        raise InputError(f"tasks of kind {kind.name} have no ensembles; use --model with one model")
    if not kind.averaging.by_label:
        return
    (first, expected), *others = labels
    for name, actual in others:
        if set(actual) != set(expected):
            raise InputError(
                f"an ensemble needs models with the same labels: those of {first} are {list_names(expected)}, those of "
                f"{name} are {list_names(actual)}"
            )


def average_outcomes(kind: Kind, outcomes: Sequence[Mapping[str, Sequence[Outcome]]]) -> dict[str, Sequence[Outcome]]:
    """The outcomes of an ensemble from those of its models, for each split; models may have different tokenizers.

    The empty prediction of a model that cannot encode an example does not count.
    """
    return {
        split: [_average(kind, example) for example in zip(*(model[split] for model in outcomes), strict=True)]
        for split in outcomes[0]
    }


def _average(kind: Kind, outcomes: Sequence[Outcome]) -> Outcome:
    assert kind.averaging is not None
    empty = kind.empty_prediction
    predicted = [outcome for outcome in outcomes if empty is None or outcome != Outcome(empty)]
    return kind.averaging.average(predicted) if predicted else outcomes[0]
