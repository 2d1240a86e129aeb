"""What a model predicts for an example."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from deberta_jax.inference.encode import EncodedRow
from deberta_jax.inference.stream import Pipeline
from deberta_jax.tasks.examples import Prediction

Result = TypeVar("Result")


class Outcome(NamedTuple):
    """The prediction for an example, and the probability of each label, choice (by its index) or entity."""

    prediction: Prediction
    probabilities: Mapping[str, float] | None = None


class PredictedExample(NamedTuple):
    """A labelled example and its outcome."""

    example: Any
    prediction: Any
    probabilities: Mapping[str, float] | None


def outcome_pipeline(pipeline: Pipeline[Result], to_outcome: Callable[[Result], Outcome]) -> Pipeline[Outcome]:
    """A pipeline whose results are converted to outcomes."""

    def read(inputs: tuple, rows: list[EncodedRow]) -> Outcome:
        return to_outcome(pipeline.read(inputs, rows))

    return Pipeline(pipeline.model, pipeline.tokenizer, pipeline.program, pipeline.encode, read, pipeline.batching)
