"""The pretraining runs known by name: small ones to try, and the published ones."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax.config import Remat
from deberta_jax.data.masking import Masking
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.config import DataConfig, ObjectiveName, PretrainConfig, RtdConfig
from deberta_jax.training.config import MeshConfig, OptimizerConfig, TrainingConfig

# Parameters and optimizer of the largest models are split over all devices.
_WHOLE = MeshConfig()
_SPLIT = MeshConfig(data=1, fsdp=-1)
# Pieces of the released vocabularies, by the rows of their tables.
_PIECES = {50265: 50_264, 128100: 128_000, 251000: 250_100}
# What is hidden for replaced-token detection: single tokens, always behind [MASK] (spec 5.1).
_MASKING = Masking(max_ngram=1, whole_words=False, mask_share=1.0, keep_share=0.0)


class Published(NamedTuple):
    """The settings of a published run of replaced-token detection, and where they stand."""

    source: str
    batch_size: int
    steps: int
    learning_rate: float
    warmup: float
    beta2: float
    loss_weight: float


_PAPER = partial(Published, "He, Gao and Chen 2023, appendix, as recalled")
_AS_BASE = partial(Published, "He, Gao and Chen 2023, appendix, as recalled; the rate is that of base")
_SCRIPT = partial(Published, "microsoft/DeBERTa, experiments/language_model/rtd.sh")
# Spec 9.2 and 9.3. The paper trained on 160 GB of text; the scripts are set for WikiText-103.
PUBLISHED: dict[str, dict[str, Published]] = {
    "v3-xsmall": {
        "paper": _AS_BASE(8192, 500_000, 6e-4, 10_000.0, 0.98, 50.0),
        "repository": _SCRIPT(64, 1_000_000, 3e-4, 10_000.0, 0.999, 10.0),
    },
    "v3-small": {"paper": _PAPER(8192, 500_000, 6e-4, 10_000.0, 0.98, 50.0)},
    "v3-base": {
        "paper": _PAPER(8192, 500_000, 6e-4, 10_000.0, 0.98, 50.0),
        "repository": _SCRIPT(256, 1_000_000, 1e-4, 10_000.0, 0.999, 10.0),
    },
    "v3-large": {
        "paper": _PAPER(8192, 500_000, 3e-4, 10_000.0, 0.98, 50.0),
        "repository": _SCRIPT(256, 1_000_000, 1e-4, 10_000.0, 0.999, 10.0),
    },
    "mdeberta-v3-base": {"paper": _AS_BASE(8192, 500_000, 6e-4, 10_000.0, 0.98, 50.0)},
}


@dataclasses.dataclass(frozen=True)
class Selection:
    """The options that decide which settings a recipe starts with."""

    objective: ObjectiveName | None = None


def recipe(name: str, selection: Selection | ObjectiveName | None = None) -> PretrainConfig:
    """A recipe by name, for its own objective or for another."""
    config = dataclasses.replace(_RECIPES[name][1], recipe=name)
    objective = selection.objective if isinstance(selection, Selection) else selection
    if objective in (None, config.objective):
        return config
    masking = _MASKING if objective == "rtd" else Masking()
    return dataclasses.replace(
        config,
        objective=objective,
        folder=Path(f"{config.folder}-{objective}"),
        data=dataclasses.replace(config.data, masking=masking),
        **{"rtd": RtdConfig(), **_CHANGED.get((name, objective), {})},
    )


def _published(
    model: str,
    batch_size: int,
    steps: int,
    rate: float,
    beta2: float = 0.999,
    remat: Remat = "none",
    mesh: MeshConfig = _WHOLE,
) -> PretrainConfig:
    optimizer = OptimizerConfig(learning_rate=rate, warmup=10_000.0, beta2=beta2)
    training = TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,
        mesh=mesh,
        evaluate_every=1000,
        checkpoint_every=1000,
        keep_every=50_000,
    )
    vocabulary = _PIECES[PRESETS[model].vocab_size]
    return PretrainConfig(model, folder=Path("runs") / model, vocabulary=vocabulary, remat=remat, training=training)


def _third(model: str, source: str = "paper", remat: Remat = "none") -> PretrainConfig:
    """Version 3's run as the paper tells it, or as the scripts of the repository have it, quirks and all."""
    its = PUBLISHED[model][source]
    config = _published(model, its.batch_size, its.steps, its.learning_rate, its.beta2, remat)
    rtd = RtdConfig(loss_weight=its.loss_weight, difference_decay="microsoft")
    masking = _MASKING
    if source == "repository":
        # Adam without bias correction, a schedule that jumps, masks that never reach the end of a row.
        optimizer = dataclasses.replace(config.training.optimizer, name="microsoft_adam", schedule="warmup_linear")
        training = dataclasses.replace(config.training, optimizer=optimizer)
        config = dataclasses.replace(config, folder=Path(f"runs/{model}-repository"), training=training)
        masking = dataclasses.replace(masking, mode="tail_biased")
    return dataclasses.replace(config, objective="rtd", rtd=rtd, data=DataConfig(masking=masking))


def _small(model: str, length: int) -> PretrainConfig:
    training = TrainingConfig(steps=2000, optimizer=OptimizerConfig(learning_rate=1e-3))
    data = DataConfig(length=length)
    folder = Path("runs") / model
    return PretrainConfig(model, folder=folder, vocabulary=8000, dtype="float32", data=data, training=training)


_DEMO = TrainingConfig(
    steps=800, optimizer=OptimizerConfig(learning_rate=2e-3), evaluate_every=200, checkpoint_every=200
)
# Published batch sizes, steps and rates of versions 1 and 2: spec 9.3.
_RECIPES: dict[str, tuple[str, PretrainConfig]] = {
    "demo": (
        "A tiny model on the documentation installed here: minutes on a laptop, no download",
        PretrainConfig(
            "tiny",
            folder=Path("runs/demo"),
            vocabulary=4000,
            dtype="float32",
            # Single words are hidden, not runs of them, and the rate is high: a model this small must learn fast.
            data=DataConfig(length=64, masking=Masking(max_ngram=1), evaluate_batches=20),
            training=_DEMO,
        ),
    ),
    "tiny": ("2 layers of width 128: for a CPU", _small("tiny", 128)),
    "mini": ("4 layers of width 256: for a CPU with patience", _small("mini", 256)),
    "v1-base": ("139 M parameters", _published("v1-base", 2048, 1_000_000, 2e-4)),
    "v1-large": ("405 M parameters", _published("v1-large", 2048, 1_000_000, 2e-4, remat="dots")),
    "v1-xlarge": (
        "758 M parameters",
        _published("v1-xlarge", 2048, 1_000_000, 2e-4, remat="full", mesh=_SPLIT),
    ),
    "v2-xlarge": ("885 M parameters", _published("v2-xlarge", 2048, 1_000_000, 2e-4, remat="full", mesh=_SPLIT)),
    "v2-xxlarge": ("1.5 B parameters", _published("v2-xxlarge", 2048, 1_000_000, 1.5e-4, remat="full", mesh=_SPLIT)),
    "v3-xsmall": ("71 M parameters, and a generator", _third("v3-xsmall")),
    "v3-small": ("141 M parameters, and a generator", _third("v3-small")),
    "v3-base": ("184 M parameters, and a generator", _third("v3-base")),
    "v3-large": ("434 M parameters, and a generator", _third("v3-large", remat="dots")),
    "mdeberta-v3-base": ("279 M parameters, and a generator", _third("mdeberta-v3-base")),
    "v3-xsmall-repository": ("v3-xsmall as the original's script trains it", _third("v3-xsmall", "repository")),
    "v3-base-repository": ("v3-base as the original's script trains it", _third("v3-base", "repository")),
    "v3-large-repository": (
        "v3-large as the original's script trains it",
        _third("v3-large", "repository", remat="dots"),
    ),
}
# What else another objective than its own changes in a recipe.
_CHANGED: dict[tuple[str, ObjectiveName], dict[str, Any]] = {
    # A generator that learns slowly leaves replaced tokens that so small a discriminator can find, and embeddings for
    # it that hold still.
    ("demo", "rtd"): {
        "training": dataclasses.replace(_DEMO, steps=1000, optimizer=OptimizerConfig(learning_rate=3e-4)),
        "rtd": RtdConfig(discriminator_learning_rate=2e-3),
    },
}
RECIPES = {name: description for name, (description, _) in _RECIPES.items()}
