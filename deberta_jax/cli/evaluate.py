"""`deberta-jax evaluate TASK`: what a model is worth on a task's own files, by its official metrics."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import tyro

from deberta_jax.cli.told import tell_account, tell_metrics
from deberta_jax.errors import InputError
from deberta_jax.finetuning.evaluate import judgements, write_all
from deberta_jax.finetuning.outcomes import HEADS
from deberta_jax.finetuning.recipes import length_of
from deberta_jax.hub.download import resolve
from deberta_jax.hub.pretrained import load_pretrained
from deberta_jax.inference.buckets import BATCHING, Batching
from deberta_jax.pretraining.corpus import say
from deberta_jax.tasks.catalogue import ABOUT, Task, check_labels, fitted, given, load, splits_in, task_of
from deberta_jax.tasks.custom import Columns
from deberta_jax.tasks.squad_metrics import score_squad_files


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


def recipe(name: str, words: Sequence[str]) -> EvaluateConfig:
    """The options that a task begins with."""
    return EvaluateConfig(task=name, max_length=length_of(name))


NOUN = "TASK"
RECIPES = {name: (about, partial(recipe, name)) for name, about in ABOUT.items()}


def run(config: EvaluateConfig) -> None:
    """Read, predict, score; write what is asked for."""
    if config.data is None:
        raise InputError("no data are named: --data FOLDER, which holds the task's files")
    task = task_of(config.task, config.columns)
    if config.predictions is not None:
        _score_file(config, task)
        return
    if not config.model:
        raise InputError("no model is named: --model FOLDER, or owner/name on the hub")
    paths = splits_in(task, config.data, evaluated=True)
    if not paths:
        raise InputError(f"{config.data}: holds nothing but training data; name a file to evaluate that")
    splits = {split: load(task, its, split) for split, its in paths.items()}
    accounts = [account for examples in splits.values() for account in examples.accounts]
    for account in accounts:
        tell_account(account)
    task = given(task, *(examples.examples for examples in splits.values()))
    folder = resolve(config.model)
    model, tokenizer = load_pretrained(folder, HEADS[task.kind], dtype=config.dtype, param_dtype=config.dtype)
    if tokenizer is None:
        raise InputError(f"{config.model}: holds no tokenizer")
    labels = tuple(model.deberta.config.labels)
    task = fitted(task, labels, config.model)
    check_labels(task, task.data.labels or labels, splits)
    found, threshold = judgements(
        task,
        model,
        tokenizer,
        {split: examples.examples for split, examples in splits.items()},
        Batching(max_length=config.max_length, batch_tokens=config.batch_tokens),
        config.no_answer_threshold,
    )
    tell_metrics(found)
    if config.folder is not None:
        settings = {"task": task.name, "model": config.model, "max_length": config.max_length, "dtype": config.dtype}
        written = write_all(
            config.folder,
            task,
            task.data.labels or labels,
            found,
            title=f"{task.name}, {config.model}",
            settings=settings,
            accounts=accounts,
            threshold=threshold,
        )
        say(", ".join(str(path) for path in written))


def _score_file(config: EvaluateConfig, task: Task) -> None:
    if task.name not in ("squad", "squad2"):
        raise InputError(f"--predictions are scored for squad and squad2; for {task.name} give a model")
    if config.data is None or not config.data.is_file():
        raise InputError(
            f"{config.data}: with --predictions, --data is the file that they are for, such as dev-v2.0.json"
        )
    assert config.predictions is not None
    for name, value in score_squad_files(config.data, config.predictions, config.null_odds).items():
        say(f"{name}: {value}")
