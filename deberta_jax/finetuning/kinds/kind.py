"""A kind of task as one value: how examples are encoded, trained on, predicted and shown."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from deberta_jax.errors import InputError
from deberta_jax.finetuning.features import Feature, Window
from deberta_jax.finetuning.mistakes import Mistake
from deberta_jax.finetuning.objectives import TaskObjective
from deberta_jax.finetuning.sections import Section
from deberta_jax.hub.heads import Head
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.encode import EncodedRow, EncodedRows
from deberta_jax.inference.stream import Pipeline
from deberta_jax.tasks.custom import RowParser
from deberta_jax.tasks.examples import Prediction
from deberta_jax.tasks.task import Metrics
from deberta_jax.tokenizers.tokenizer import Tokenizer

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


def no_figures(folder: Path, predicted: Sequence[PredictedExample], labels: Sequence[str]) -> list[Section]:
    """For kinds whose report shows only metrics and mistakes."""
    return []


def own_shape(shape: Sequence[int], length: int) -> list[int]:
    """The shape of the largest target of a batch."""
    return list(shape)


def no_classes(example: Any) -> Sequence[str]:
    """For kinds without classes."""
    return ()


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of task as one value. To add a kind, write one file with such a value.

    Examples have an `id`, `inputs` (a tuple that `encode` and `pipeline` read) and an `answer` (None if unlabelled).
    """

    name: str
    """The name that `Task.kind` refers to."""
    head: Head
    """The head of the model."""
    encode: Callable[[Tokenizer, Sequence[tuple], int], EncodedRows]
    """(tokenizer, inputs of examples, max_length) -> one or more sequences of tokens per example."""
    targets: Callable[[Any, Sequence[Window], Mapping[str, int], int], Iterator[Feature]]
    """(example, windows, index of each label, max_length) -> features with training targets."""
    objective: Callable[[], TaskObjective]
    """The training objective."""
    pipeline: Callable[[Any, Tokenizer, Batching], Pipeline[Outcome]]
    """(model, tokenizer, batching) -> the pipeline from the inputs of examples to outcomes."""
    mistake: Callable[[PredictedExample], Mistake]
    """Describes a prediction for the table of mistakes."""
    mistake_unit: str
    """The unit of `Mistake.severity`."""
    problem_type: str | None = None
    """`problem_type` of `config.json`, by which transformers selects the loss of a classifier."""
    several_sequences: bool = False
    """Whether an example is several sequences; then token ids are [B, M, T] instead of [B, T]."""
    padded_shape: Callable[[Sequence[int], int], list[int]] = own_shape
    """(largest shape of a target, length of the sequences) -> the shape of this target in a batch, without axis B."""
    weighted_objective: Callable[[Sequence[float], float], TaskObjective] | None = None
    """(class weights, label smoothing) -> the training objective, if the kind supports these options."""
    classes: Callable[[Any], Sequence[str]] = no_classes
    """The classes of a labelled example, which are counted for balanced class weights."""
    empty_prediction: Prediction | None = None
    """The prediction for an example that cannot be encoded; None if such an example is an error."""
    figures: Callable[[Path, Sequence[PredictedExample], Sequence[str]], list[Section]] = no_figures
    """(folder, predicted examples, labels) -> the sections of the report, with figures written into the folder."""
    row_parser: RowParser | None = None
    """How rows of a custom table become examples; None if a custom table cannot be of this kind."""
    metrics: Metrics | None = None
    """The metrics of a custom table."""
    best_metric: str = ""
    """The metric that selects the best model on a custom table."""
    predict_options: str = ""
    """Options of `deberta-jax predict` for one example; empty if `predict` does not support the head."""


def outcome_pipeline(pipeline: Pipeline[Result], to_outcome: Callable[[Result], Outcome]) -> Pipeline[Outcome]:
    """A pipeline whose results are converted to outcomes."""

    def read(inputs: tuple, rows: list[EncodedRow]) -> Outcome:
        return to_outcome(pipeline.read(inputs, rows))

    return Pipeline(pipeline.model, pipeline.tokenizer, pipeline.program, pipeline.encode, read, pipeline.batching)


def objective_with_options(
    kind: Kind, class_weights: Sequence[float] = (), label_smoothing: float = 0.0
) -> TaskObjective:
    """The objective of a kind; raises InputError for options that the kind does not support."""
    if not class_weights and not label_smoothing:
        return kind.objective()
    if kind.weighted_objective is None:
        raise InputError(
            f"class_weights and label_smoothing need a task with classes; this task is of kind {kind.name}"
        )
    return kind.weighted_objective(class_weights, label_smoothing)
