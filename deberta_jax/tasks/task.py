"""A fine-tuning task: its files, how they are read, what is measured, and the prediction files it writes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax.tasks.examples import Examples, SpanPrediction

# (path, split) -> the examples of one file.
Read = Callable[[Path, str], Examples]
# (folder, split, examples, predictions) -> the paths of the prediction files written.
Write = Callable[[Path, str, Sequence[Any], Sequence[Any]], list[Path]]
# (examples, predictions) -> values by name. Unlabelled examples are ignored; raises InputError if none is labelled.
Metrics = Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]
# The probability of each label of an example, None if there is none.
Probabilities = Mapping[str, Any] | None


class SourceRows(NamedTuple):
    """Access to the rows of a custom table behind its examples."""

    groups: Callable[[Path, str], list[str] | None]
    """(file, split) -> the group of each example, empty for none; None if there is no column of groups."""
    write: Callable[[Path, Path, str, Sequence[Any], Sequence[Probabilities]], Path]
    """(folder, file, split, predictions, probabilities) -> a file with the rows of this one and their predictions."""


# File names of a split in a message.
_MAX_NAMES = 6


def no_labels(examples: Sequence[Any]) -> tuple[str, ...]:
    """For tasks without classes."""
    return ()


def unchanged(task: "Task", examples: Sequence[Any]) -> "Task":
    """For tasks that do not depend on their data."""
    return task


def fit_nothing(task: "Task", splits: Mapping[str, Sequence[Path]]) -> "Task":
    """For tasks whose files have a fixed format."""
    return task


@dataclasses.dataclass(frozen=True)
class Task:
    """A fine-tuning task as one value. To add a task, add one value to a reader file."""

    name: str
    """Name on the command line."""
    kind: str
    """What is predicted; a key of `finetuning.kinds.KINDS`."""
    description: str
    """One line for the help text."""
    files: Mapping[str, tuple[str, ...]]
    """For each split the glob patterns of its file, the official name first. All files that match the first pattern
    with a match are read. Splits are train, dev and test; others are variants (dev_mismatched)."""
    read: Read
    """Reads one file of a split."""
    labels: tuple[str, ...]
    """The classes in the published order; empty if there are none, or if the data determine them."""
    write: Write
    """Writes the prediction files of a split in the official format into a folder, and returns their paths."""
    metrics: Metrics
    """The official metrics."""
    best_metric: str
    """The metric that selects the best model."""
    trained_on: str = ""
    """The tasks whose models it is evaluated with, if it has no training data."""
    may_lack_answers: bool = False
    """Whether a context may not answer its question (extractive_qa)."""
    label_map: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Labels of a model that was trained on another task, mapped to labels of this task."""
    collect_labels: Callable[[Sequence[Any]], tuple[str, ...]] = no_labels
    """Returns the classes of the training examples; used if `labels` is empty."""
    adapt: Callable[["Task", Sequence[Any]], "Task"] = unchanged
    """Returns the task with the metrics and options that fit its examples; see `catalogue.with_data`."""
    fit: Callable[["Task", Mapping[str, Sequence[Path]]], "Task"] = fit_nothing
    """(task, files of each split) -> the task that reads them; decides once for all files, for example how tags mark
    entities."""
    selected: Callable[[Sequence[Any], Sequence[Any], Sequence[Probabilities]], float] | None = None
    """(labelled examples, predictions, probabilities) -> the best metric, if it is not among `metrics`."""
    source_rows: SourceRows | None = None
    """Access to the rows of a custom table; None for official files, and before `fit`."""

    def file_names(self, split: str) -> str:
        """Return the file names of a split for a message, separated by "or"; the first ones if there are many."""
        names = self.files.get(split, ())
        return " or ".join(names if len(names) <= _MAX_NAMES else (*names[:_MAX_NAMES], "..."))

    def score(
        self, examples: Sequence[Any], predictions: Sequence[Any], probabilities: Sequence[Probabilities]
    ) -> dict[str, float]:
        """Return the metrics, among them the best metric; raises InputError if no example is labelled."""
        scores = self.metrics(examples, predictions)
        if self.selected is None:
            return scores
        rows = zip(examples, predictions, probabilities, strict=True)
        labelled = [row for row in rows if row[0].answer is not None]
        return scores | {self.best_metric: self.selected(*map(list, zip(*labelled, strict=True)))}

    def resolve(self, prediction: Any, threshold: float = 0.0) -> Any:
        """Return the final prediction: a label of this task, or an empty span where no answer is predicted.

        No answer is predicted if its score exceeds that of the best span by more than `threshold`.
        """
        if isinstance(prediction, str):
            return self.label_map.get(prediction, prediction)
        if isinstance(prediction, SpanPrediction) and self.may_lack_answers and prediction.no_answer > threshold:
            return prediction._replace(text="")
        return prediction
