"""A kind of task as one value: how examples are encoded, trained on, predicted and shown."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax.errors import InputError
from deberta_jax.finetuning.features import Feature, Window
from deberta_jax.finetuning.mistakes import Mistake
from deberta_jax.finetuning.objectives import TaskObjective
from deberta_jax.finetuning.outcomes import Outcome, PredictedExample
from deberta_jax.finetuning.sections import Section
from deberta_jax.finetuning.strata import NOT_STRATIFIED, Stratification
from deberta_jax.finetuning.summary import WITH_MOST_FREQUENT, Comparison
from deberta_jax.hub.heads import Head
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.encode import EncodedRows
from deberta_jax.inference.stream import Pipeline
from deberta_jax.tasks.custom import RowParser
from deberta_jax.tasks.examples import Prediction
from deberta_jax.tasks.task import Metrics
from deberta_jax.tokenizers.tokenizer import Tokenizer


def largest_shape(shape: Sequence[int], length: int) -> list[int]:
    """The shape of the largest target of a batch."""
    return list(shape)


Targets = Callable[[Any, Sequence[Window], Mapping[str, int], int], Iterator[Feature]]


class Encoding(NamedTuple):
    """How examples become sequences of tokens and training targets."""

    encode: Callable[[Tokenizer, Sequence[tuple], int], EncodedRows]
    """(tokenizer, inputs of examples, max_length) -> one or more sequences of tokens per example."""
    targets: Targets
    """(example, its windows, index of each label, max_length) -> features with training targets."""
    training_inputs: Callable[[Any], tuple] = lambda example: example.inputs
    """Inputs of an example for `encode` in training; prediction always reads `example.inputs`."""
    padded_shape: Callable[[Sequence[int], int], list[int]] = largest_shape
    """(largest shape of a target, length of the sequences) -> the shape of this target in a batch, without axis B."""
    several_sequences: bool = False
    """Whether an example is several sequences; then token ids are [B, M, T] instead of [B, T]."""
    padded_count: Callable[[int], int] = lambda count: count
    """The largest number of sequences of an example in a batch -> M."""
    limit: Callable[[int], str] = lambda max_length: f"{max_length} tokens"
    """max_length -> what longer examples are truncated to, for messages."""


class ClassWeighting(NamedTuple):
    """How a kind with classes supports class weights, label smoothing and focal loss."""

    objective: Callable[[Sequence[float], float, float], TaskObjective]
    """(class weights, label smoothing, gamma of the focal loss) -> the training objective."""
    classes: Callable[[Any], Sequence[str]]
    """The classes of a labelled example, which are counted for balanced class weights."""
    independent: bool = False
    """Whether each class is decided on its own, so that an example may have several of them, or none."""


class Averaging(NamedTuple):
    """How the outcomes of several models for one example become the outcome of their ensemble."""

    average: Callable[[Sequence[Outcome]], Outcome]
    """Averages outcomes; empty predictions are not among them."""
    by_label: bool = False
    """Whether the outcomes have a probability per label, so that all models need the same labels."""


class CustomTable(NamedTuple):
    """A user's own table: how its rows become examples, its metrics, and the metric that selects the best model."""

    row_parser: RowParser
    metrics: Metrics
    best_metric: str


class ReportContent(NamedTuple):
    """What a report shows of the predicted examples."""

    figures: Callable[[Path, Sequence[PredictedExample], Sequence[str]], list[Section]]
    """(folder, predicted examples, labels) -> sections of the report; their figures are written into the folder."""
    mistake: Callable[[PredictedExample], Mistake]
    """Describes a prediction for the table of mistakes."""
    unit: str
    """The unit of `Mistake.severity`."""
    loss: str = "cross-entropy (nats)"
    """The training loss and its unit."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of task as one value. To add a kind, write one file with such a value.

    Examples have an `id`, `inputs` (the tuple that encoding and pipeline read) and an `answer` (None if unlabelled).
    """

    name: str
    """The name that `Task.kind` refers to."""
    head: Head
    """The head of the model."""
    encoding: Encoding
    """From examples to tokens and targets."""
    objective: TaskObjective
    """The training objective."""
    pipeline: Callable[[Any, Tokenizer, Batching], Pipeline[Outcome]]
    """(model, tokenizer, batching) -> the pipeline from the inputs of examples to outcomes."""
    report: ReportContent
    """From predicted examples to figures, tables and mistakes."""
    config_keys: Callable[[Tokenizer, Sequence[Any], int], dict[str, Any]] = lambda tokenizer, examples, max_length: {}
    """(tokenizer, training examples, max_length) -> what `config.json` says about a model of this kind besides."""
    problem_type: str | None = None
    """`problem_type` of `config.json`, by which transformers selects the loss of a classifier."""
    class_weighting: ClassWeighting | None = None
    """Class weights, label smoothing and focal loss; None if the kind does not support them."""
    empty_prediction: Prediction | None = None
    """The prediction for an example that cannot be encoded; None if such an example is an error."""
    averaging: Averaging | None = None
    """How an ensemble of models predicts; None if the kind does not support ensembles."""
    table: CustomTable | None = None
    """How to read and score a user's own table; None if there are only tasks with official files."""
    stratification: Stratification = NOT_STRATIFIED
    """What a split of a training set distributes evenly."""
    comparison: Comparison = WITH_MOST_FREQUENT
    """How predictions are compared with those that do not depend on the text."""
    predict_options: str = ""
    """Options of `deberta-jax predict` for one example; empty if an example cannot be given as options."""


def objective_with_options(
    kind: Kind, class_weights: Sequence[float] = (), label_smoothing: float = 0.0, focal: float = 0.0
) -> TaskObjective:
    """The objective of a kind; raises InputError for options that the kind does not support."""
    if not class_weights and not label_smoothing and not focal:
        return kind.objective
    if kind.class_weighting is None:
        raise InputError(
            f"class_weights, label_smoothing and focal need a task with classes; this task is of kind {kind.name}"
        )
    return kind.class_weighting.objective(class_weights, label_smoothing, focal)
