"""The settings that were published for each task and released model (the original's run scripts; spec 8.4)."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.presets import PRESETS
from deberta_jax.tasks.catalogue import ABOUT
from deberta_jax.training.config import OptimizerConfig


class Published(NamedTuple):
    """Epochs, warm-up (steps, below 1 a part), peak learning rate, batch, dropout before the classifier."""

    epochs: int
    warmup: float
    learning_rate: float
    batch_size: int
    head_dropout: float


_COLUMNS = "v1-base", "v1-large", "v1-xlarge", "v2-xlarge", "v2-xxlarge", "v3-large"


def _row(*its: tuple[Any, ...]) -> dict[str, Published]:
    return {model: Published(*values) for model, values in zip(_COLUMNS, its, strict=False)}


# Longest row, and the settings by model. RTE of SuperGLUE is GLUE's.
LENGTHS = {
    "mnli": 256,
    "cola": 64,
    "mrpc": 128,
    "qnli": 512,
    "qqp": 320,
    "rte": 320,
    "sst-2": 128,
    "sts-b": 128,
    "ner": 512,
    "copa": 136,
    "record": 512,
    "race": 320,
}
PUBLISHED: dict[str, dict[str, Published]] = {
    "mnli": _row(
        (3, 1000, 3e-5, 64, 0.1),
        (3, 1000, 1e-5, 64, 0.2),
        (3, 1000, 5e-6, 64, 0.3),
        (3, 1000, 4e-6, 64, 0.25),
        (3, 1000, 3e-6, 64, 0.3),
        (2, 500, 7e-6, 64, 0.3),
    )
    | {
        "v3-xsmall": Published(3, 1000, 4.5e-5, 64, 0.1),
        "v3-small": Published(3, 1500, 4.5e-5, 64, 0.2),
        "v3-base": Published(3, 1000, 1.5e-5, 64, 0.1),
    },
    "cola": _row(
        (6, 100, 2e-5, 32, 0.15),
        (6, 100, 7e-6, 32, 0.15),
        (8, 100, 5e-6, 32, 0.2),
        (8, 100, 3e-6, 32, 0.2),
        (10, 100, 2.5e-6, 32, 0.2),
        (10, 50, 5.5e-6, 32, 0.1),
    ),
    "mrpc": _row(
        (6, 50, 2e-5, 32, 0.15),
        (6, 50, 1e-5, 32, 0.15),
        (8, 50, 7e-6, 32, 0.3),
        (6, 50, 3.5e-6, 32, 0.2),
        (6, 50, 2e-6, 32, 0.2),
        (6, 50, 6e-6, 32, 0.2),
    ),
    "qnli": _row(
        (4, 500, 2e-5, 32, 0.15),
        (4, 500, 1e-5, 32, 0.15),
        (4, 500, 7e-6, 32, 0.2),
        (4, 500, 4e-6, 64, 0.2),
        (4, 500, 3e-6, 64, 0.2),
        (6, 200, 7e-6, 64, 0.2),
    ),
    "qqp": _row(
        (8, 500, 2e-5, 64, 0.15),
        (8, 500, 1e-5, 64, 0.15),
        (8, 500, 7e-6, 64, 0.2),
        (10, 1000, 4e-6, 64, 0.2),
        (10, 1000, 3e-6, 64, 0.2),
        (6, 1000, 1e-5, 64, 0.2),
    ),
    "rte": _row(
        (6, 100, 2e-5, 32, 0.2),
        (6, 50, 1e-5, 32, 0.2),
        (6, 50, 5e-6, 48, 0.2),
        (6, 50, 4e-6, 48, 0.2),
        (6, 50, 3e-6, 48, 0.2),
        (6, 50, 1e-5, 32, 0.3),
    ),
    "sst-2": _row(
        (6, 500, 2e-5, 32, 0.15),
        (6, 500, 1e-5, 32, 0.15),
        (6, 500, 3e-6, 32, 0.2),
        (4, 500, 4e-6, 32, 0.2),
        (4, 500, 3e-6, 32, 0.2),
        (8, 500, 6e-6, 32, 0.1),
    ),
    "sts-b": _row(
        (6, 100, 2e-5, 32, 0.15),
        (4, 100, 7e-6, 32, 0.15),
        (4, 100, 7e-6, 32, 0.2),
        (4, 100, 4e-6, 32, 0.2),
        (4, 100, 3e-6, 32, 0.2),
        (4, 50, 7e-6, 32, 0.1),
    ),
    "ner": _row(
        (15, 0.1, 2e-5, 16, 0.0),
        (15, 0.1, 1e-5, 16, 0.0),
        (15, 0.1, 7e-6, 16, 0.0),
        (15, 0.1, 4e-6, 16, 0.0),
        (15, 0.1, 2.5e-6, 16, 0.0),
        (10, 10, 9e-6, 16, 0.0),
    ),
    "copa": _row(
        (3, 50, 1e-5, 32, 0.1),
        (4, 30, 5e-6, 16, 0.1),
        (4, 30, 3e-6, 24, 0.1),
        (4, 30, 2e-6, 24, 0.1),
        (8, 30, 1e-6, 24, 0.1),
    ),
    "record": _row(
        (3, 1000, 2e-5, 64, 0.3),
        (3, 1000, 1e-5, 64, 0.3),
        (3, 1000, 7e-6, 64, 0.3),
        (3, 1000, 5e-6, 64, 0.15),
        (3, 1000, 3e-6, 64, 0.15),
        (3, 500, 7e-6, 64, 0.1),
    ),
    "race": _row(
        (6, 100, 2e-5, 32, 0.2),
        (6, 100, 8e-6, 32, 0.2),
        (6, 100, 7e-6, 48, 0.2),
        (6, 100, 4e-6, 48, 0.2),
        (6, 100, 3e-6, 48, 0.2),
    ),
}
# With virtual adversarial training on MNLI: the settings, and the weight of the adversarial loss.
SIFT: dict[str, tuple[Published, float]] = {
    "v1-base": (Published(6, 1000, 1.5e-5, 64, 0.1), 5.0),
    "v2-xxlarge": (Published(6, 1000, 3e-6, 64, 0.3), 5.0),
    "v3-xsmall": (Published(10, 1500, 5e-5, 64, 0.1), 3.0),
    "v3-small": (Published(6, 1000, 3.5e-5, 64, 0.1), 5.0),
    "v3-base": (Published(6, 1000, 1.5e-5, 64, 0.1), 5.0),
}
# Models without settings of their own for a task take those of the nearest in size; tasks those of the nearest in kind.
_NEAREST_MODEL = {
    "v3-xsmall": "v1-base",
    "v3-small": "v1-base",
    "v3-base": "v1-base",
    "mdeberta-v3-base": "v3-base",
    "v3-large": "v1-large",
}
_NEAREST_TASK = {
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
# Models that are trained in minutes learn at other rates than released ones.
_SMALL = "tiny", "mini"
_FOR_SMALL = Published(4, 0.1, 3e-4, 32, 0.1)


# No code for SQuAD was published: the settings that are usual for models of this size.
_OTHER_LENGTHS = {"squad": 384, "squad2": 384, "boolq": 256, "multirc": 512, "record": 512}
_OTHER: Mapping[str, dict] = {
    name: {"epochs": 3.0, "batch_size": 32, "optimizer": OptimizerConfig(learning_rate=3e-5, warmup=0.1)}
    for name in ("squad", "squad2")
}


def preset_of(name: str) -> str | None:
    """The released model that a name, or the config of a folder, stands for; None where there is no such."""
    # The models that were fine-tuned on MNLI are begun with, too.
    last = name.rstrip("/").rpartition("/")[2].removeprefix("deberta-").removesuffix("-mnli")
    for candidate in (last, f"v1-{last}"):
        if candidate in PRESETS:
            return candidate
    path = Path(name) / "config.json"
    if not path.is_file():
        return None
    try:
        config = DebertaConfig.from_file(path)
    except InputError:
        return None
    return next((preset for preset, its in PRESETS.items() if its.has_parameters_of(config)), None)


def length_of(task: str) -> int:
    """The longest row of a task."""
    return _OTHER_LENGTHS.get(task) or LENGTHS.get(_NEAREST_TASK.get(task, task), 256)


def published(task: str, preset: str | None) -> Published | None:
    """The settings for a task and a released model, their nearest where there are none; None where nothing is near."""
    if preset in _SMALL:
        return _FOR_SMALL
    its = PUBLISHED.get(_NEAREST_TASK.get(task, task), {})
    while preset is not None and preset not in its:
        preset = _NEAREST_MODEL.get(preset)
    return its[preset] if preset else None


@dataclasses.dataclass(frozen=True)
class Selection:
    """The options that decide which settings a task starts with."""

    model: str = ""
    sift_weight: Annotated[float, tyro.conf.arg(name="sift.weight")] = 0.0


def recipe(task: str, selection: Selection = Selection()) -> FinetuneConfig:
    """The options that a task begins with: those published for the model, and for SiFT where it is on."""
    preset = preset_of(selection.model)
    config = FinetuneConfig(task=task, folder=Path("runs") / task, max_length=length_of(task))
    if task in _OTHER:
        config = dataclasses.replace(config, **_OTHER[task])
    its = published(task, preset)
    if task == "mnli" and selection.sift_weight and preset in SIFT:
        its, _ = SIFT[preset]
    if its is None:
        return config
    optimizer = OptimizerConfig(learning_rate=its.learning_rate, warmup=float(its.warmup))
    return dataclasses.replace(
        config,
        epochs=float(its.epochs),
        batch_size=its.batch_size,
        head_dropout=its.head_dropout,
        optimizer=optimizer,
    )


NOUN = "TASK"
RECIPES = ABOUT
