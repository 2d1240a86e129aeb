"""The options of `deberta-jax evaluate`."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from deberta_jax.finetuning.recipes import length_of
from deberta_jax.inference.buckets import BATCHING
from deberta_jax.tasks.catalogue import ABOUT
from deberta_jax.tasks.custom import Columns


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a fine-tuned model on a task's files: metrics, predictions for the leaderboard, report.

    Every split but the one to train on is read and predicted; those with labels are scored. For squad and squad2 a
    prediction file may stand in place of the model: it gets the official figures.
    """

    model: str = ""
    """Model folder, or owner/name on the hub, with a head for the task."""
    data: Path | None = None
    """Folder of the task's files, by their official names; for `generic` a file, all of which is evaluated."""
    folder: Path | None = None
    """Where metrics, predictions and the report go; by default none is written but the metrics shown."""
    columns: Columns = dataclasses.field(default_factory=Columns)
    max_length: int = 256
    """Tokens of the longest row."""
    batch_tokens: int = BATCHING.batch_tokens
    """Tokens that go to the device at once, padding included."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of parameters and computation."""
    no_answer_threshold: float | None = None
    """How much likelier no answer must be (squad2); by default what suits the first split with answers best."""
    predictions: Path | None = None
    """Prediction file to score in place of a model (squad, squad2)."""
    null_odds: Path | None = None
    """File of how much likelier no answer is, beside --predictions (squad2)."""
    task: tyro.conf.Suppress[str] = ""


NOUN = "TASK"
RECIPES = ABOUT


def recipe(name: str, _: None = None) -> EvaluateConfig:
    """The options that a task begins with."""
    return EvaluateConfig(task=name, max_length=length_of(name))
