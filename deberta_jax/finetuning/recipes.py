"""The default options of each task: the published settings for the model, or those of the most similar one."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.finetuning.published import GRIDS, MAX_LENGTHS, PUBLISHED, SIFT, Grid, Published
from deberta_jax.presets import PRESETS
from deberta_jax.tasks.catalogue import DESCRIPTIONS
from deberta_jax.training.config import OptimizerConfig

NOUN = "TASK"
RECIPES = DESCRIPTIONS
# The model whose settings are used for a model without published ones, by size.
_SIMILAR_MODEL = {
    "v3-xsmall": "v1-base",
    "v3-small": "v1-base",
    "v3-base": "v1-base",
    "mdeberta-v3-base": "v3-base",
    "v3-large": "v1-large",
}
_SIMILAR_TASK = {
    "superglue-rte": "rte",
    "wnli": "rte",
    "cb": "rte",
    "wic": "rte",
    "wsc": "rte",
    "boolq": "rte",
    "multirc": "rte",
    "anli": "mnli",
    "xnli": "mnli",
    "swag": "race",
}
# The models of minutes need other learning rates than the released ones.
_SMALL_MODELS = "tiny", "mini"
_FOR_SMALL_MODELS = Published(4, 0.1, 3e-4, 32, 0.1)
# No settings were published for SQuAD; these are the usual ones for models of this size.
_SQUAD = Published(3, 0.1, 3e-5, 32, None)
_OTHER_MAX_LENGTHS = {"squad": 384, "squad2": 384, "boolq": 256, "multirc": 512, "record": 512}
_DEFAULT_MAX_LENGTH = 256


@dataclasses.dataclass(frozen=True)
class Selection:
    """The options on which the defaults of the others depend."""

    model: str = ""
    """Model folder, or owner/name on the Hugging Face hub."""
    sift_weight: Annotated[float, tyro.conf.arg(name="sift.weight")] = 0.0
    """Weight of the adversarial loss."""


def recipe(task: str, selection: Selection) -> FinetuneConfig:
    """The default options of a task for a model, with or without virtual adversarial training."""
    config = FinetuneConfig(
        task=task, model=selection.model, folder=Path("runs") / task, max_length=max_length_of(task)
    )
    preset = preset_of(selection.model)
    settings = published(task, preset) or (_SQUAD if task in ("squad", "squad2") else None)
    if task == "mnli" and selection.sift_weight and preset in SIFT:
        settings, _ = SIFT[preset]
    if settings is None:
        return config
    return dataclasses.replace(
        config,
        epochs=float(settings.epochs),
        batch_size=settings.batch_size,
        head_dropout=settings.head_dropout,
        optimizer=OptimizerConfig(learning_rate=settings.learning_rate, warmup=float(settings.warmup)),
    )


def preset_of(model: str) -> str | None:
    """The released model that a name, or the config of a folder, refers to; None for any other model."""
    # The released models that were fine-tuned on MNLI have the settings of their size, too.
    name = model.rstrip("/").rpartition("/")[2].removeprefix("deberta-").removesuffix("-mnli")
    for candidate in (name, f"v1-{name}"):
        if candidate in PRESETS:
            return candidate
    path = Path(model) / "config.json"
    if not path.is_file():
        return None
    try:
        config = DebertaConfig.from_file(path)
    except InputError:
        return None
    return next((name for name, preset in PRESETS.items() if preset.has_parameters_of(config)), None)


def published_grid(task: str, model: str) -> Grid | None:
    """The grid of a model for a task whose settings were not published; None if they were, or without a grid."""
    return None if task in PUBLISHED else GRIDS.get(preset_of(model) or "")


def similar_models(preset: str | None) -> tuple[str, ...]:
    """A released model and those whose settings are used for it, the nearest first; that of v1-base for an unknown one.

    The models of minutes have none.
    """
    if preset in _SMALL_MODELS:
        return ()
    models = [preset or "v1-base"]
    while models[-1] in _SIMILAR_MODEL:
        models.append(_SIMILAR_MODEL[models[-1]])
    return tuple(models)


def similar_task(task: str) -> str:
    """The task whose published settings are used for a task."""
    return _SIMILAR_TASK.get(task, task)


def max_length_of(task: str) -> int:
    """The longest sequence of a task, in tokens."""
    return _OTHER_MAX_LENGTHS.get(task) or MAX_LENGTHS.get(similar_task(task), _DEFAULT_MAX_LENGTH)


def published(task: str, preset: str | None) -> Published | None:
    """The settings for a task and a released model, or those of a similar task and model; None if there are none."""
    if preset in _SMALL_MODELS:
        return _FOR_SMALL_MODELS
    settings = PUBLISHED.get(similar_task(task), {})
    while preset is not None and preset not in settings:
        preset = _SIMILAR_MODEL.get(preset)
    return settings[preset] if preset else None
