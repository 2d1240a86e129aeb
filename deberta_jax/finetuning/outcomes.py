"""What a model, or the mean of several models, predicts for an example."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from deberta_jax.inference.encode import EncodedRow
from deberta_jax.inference.stream import Pipeline
from deberta_jax.tasks.examples import Prediction

Result = TypeVar("Result")


class Outcome(NamedTuple):
    """The prediction for an example, and the probabilities that decide it.

    They are the probability of each label, choice (by its index), entity or answer ("" for no answer). For words, each
    tag has an array of probabilities, one per word. None for a regression and for an empty prediction.
    """

    prediction: Prediction
    probabilities: Mapping[str, Any] | None = None


class PredictedExample(NamedTuple):
    """A labelled example and its outcome."""

    example: Any
    prediction: Any
    probabilities: Mapping[str, Any] | None


def mean_probabilities(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The mean over models of each probability; it is 0 for a model that does not list it."""
    columns = [outcome.probabilities or {} for outcome in outcomes]
    names = dict.fromkeys(name for column in columns for name in column)
    return {name: sum(column.get(name, 0.0) for column in columns) / len(columns) for name in names}


def outcome_pipeline(pipeline: Pipeline[Result], to_outcome: Callable[[Result], Outcome]) -> Pipeline[Outcome]:
    """A pipeline whose results are converted to outcomes."""

    def read(inputs: tuple, rows: list[EncodedRow]) -> Outcome:
        return to_outcome(pipeline.read(inputs, rows))

    return dataclasses.replace(pipeline, read=read)  # type: ignore[arg-type,return-value]
