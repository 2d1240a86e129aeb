"""The model card of a fine-tuned model: its data, its metrics, and its settings."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from deberta_jax.config import DebertaConfig
from deberta_jax.finetuning.evaluate import Evaluation
from deberta_jax.finetuning.kinds.kind import Kind
from deberta_jax.finetuning.recipes import preset_of
from deberta_jax.hub.card import Part, card, table
from deberta_jax.tasks.catalogue import data_name
from deberta_jax.tasks.examples import Examples
from deberta_jax.tasks.task import Task

# The task of the Hub for each kind; the others have none.
_PIPELINES = {
    "single_label": "text-classification",
    "ordinal": "text-classification",
    "multi_label": "text-classification",
    "regression": "text-classification",
    "token": "token-classification",
    "extractive_qa": "question-answering",
    "multiple_choice": "multiple-choice",
}
_CHOSEN = (
    "The checkpoint with the best {metric} on {split} was selected, so the metrics on {split} are optimistic if it was "
    "not a held-out benchmark."
)


class CardInputs(NamedTuple):
    """What a card describes beside the task: the data, the model it was trained from, settings, and the repository."""

    data: Path
    model: str
    settings: Mapping[str, Any]
    runs: str = ""
    repository: str | None = None


def finetuned_card(
    task: Task,
    kind: Kind,
    config: DebertaConfig,
    splits: Mapping[str, Examples],
    evaluations: Sequence[Evaluation],
    inputs: CardInputs,
) -> str:
    """The card of a model; it contains no text of the data, and no path of this machine."""
    base, name = base_name(inputs.model), data_name(task, inputs.data)
    metadata = {"base_model": base} if "/" in base else {}
    if kind.name in _PIPELINES:
        metadata["pipeline_tag"] = _PIPELINES[kind.name]
    trained = f"Fine-tuned from {base} for the task `{task.name}` ({kind.name}), on {name}."
    rows = [
        (split, len(examples.examples), ", ".join(_counts(examples)) or "not stated")
        for split, examples in splits.items()
    ]
    data = f"{table(('split', 'examples', 'rows of the files'), rows)}"
    settings = f"```json\n{json.dumps(portable_settings(inputs.settings), indent=2, ensure_ascii=False)}\n```"
    parts = [
        Part("Model", " ".join([trained, inputs.runs]).strip()),
        Part("Data", data),
        Part("Metrics", _metrics(task, evaluations)),
        Part("Settings", settings),
    ]
    return card(f"{name}: {base}", config, parts, metadata=metadata, head=kind.head, repository=inputs.repository)


def _metrics(task: Task, evaluations: Sequence[Evaluation]) -> str:
    rows = [
        (each.split, name, f"{value:.4f}", f"{sum(example.answer is not None for example in each.examples):,}")
        for each in evaluations
        for name, value in each.metrics.items()
    ]
    chosen = _CHOSEN.format(metric=f"`{task.best_metric}`", split="dev")
    return f"{table(('split', 'metric', 'value', 'examples'), rows)}\n\n{chosen}"


def _counts(examples: Examples) -> list[str]:
    return [f"{PurePath(report.file).name}: {report.read:,} rows, {report.used:,} used" for report in examples.reports]


def base_name(model: str) -> str:
    """The name of a model on the Hub; of a local folder only what kind of model it is."""
    if not Path(model).exists() and not Path(model).is_absolute():
        return model
    preset = preset_of(model)
    return f"a local model with the architecture of {preset}" if preset else "a local model"


def portable_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without paths of this machine, and without digests."""
    values = {name: value for name, value in settings.items() if name not in ("content", "rows")}
    return values | {"model": base_name(str(settings.get("model", "")))}
