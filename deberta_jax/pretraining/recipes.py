"""Named pretraining configs: small ones to try out, and the published settings of the released models."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax.config import Remat
from deberta_jax.data.masking import Masking
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.config import DataConfig, ObjectiveName, PretrainConfig, RtdConfig
from deberta_jax.training.config import MeshConfig, OptimizerConfig, TrainingConfig

# The largest models shard parameters and optimizer state over all devices.
_REPLICATED = MeshConfig()
_SHARDED = MeshConfig(data=1, fsdp=-1)
# Number of pieces of the released tokenizers, by the number of rows of the models' embedding tables.
_PIECES = {50265: 50_264, 128100: 128_000, 251000: 250_100}
# Replaced-token detection masks single tokens and always writes [MASK]; docs/numerics.md, "Masking of text".
_RTD_MASKING = Masking(max_ngram=1, whole_words=False, mask_share=1.0, keep_share=0.0)


class Published(NamedTuple):
    """The settings of a published run of replaced-token detection, and their source."""

    source: str
    batch_size: int
    steps: int
    learning_rate: float
    warmup: float
    beta2: float
    loss_weight: float


_PAPER = partial(Published, "He, Gao and Chen 2023, appendix, as recalled")
_PAPER_RATE_OF_BASE = partial(Published, "He, Gao and Chen 2023, appendix, as recalled; the rate is that of base")
_SCRIPT = partial(Published, "microsoft/DeBERTa, experiments/language_model/rtd.sh")
# docs/numerics.md, "Published settings". The paper used 160 GB of text; the scripts are set up for WikiText-103.
PUBLISHED: dict[str, dict[str, Published]] = {
    "v3-xsmall": {
        "paper": _PAPER_RATE_OF_BASE(8192, 500_000, 6e-4, 10_000.0, 0.98, 50.0),
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
    "mdeberta-v3-base": {"paper": _PAPER_RATE_OF_BASE(8192, 500_000, 6e-4, 10_000.0, 0.98, 50.0)},
}


@dataclass(frozen=True)
class Selection:
    """The options that decide the defaults of a recipe."""

    objective: ObjectiveName | None = None
    """Pretraining objective; by default the recipe's own."""


def recipe(name: str, selection: Selection | None = None) -> PretrainConfig:
    """The config of a recipe, for its own objective or for the selected one."""
    config = dataclasses.replace(_RECIPES[name][1], recipe=name)
    objective = selection.objective if selection else None
    if objective is None or objective == config.objective:
        return config
    return dataclasses.replace(
        config,
        objective=objective,
        folder=Path(f"{config.folder}-{objective}"),
        data=dataclasses.replace(config.data, masking=_RTD_MASKING if objective == "rtd" else Masking()),
        **{"rtd": RtdConfig(), **_CHANGES.get((name, objective), {})},
    )


def _published(
    model: str,
    batch_size: int,
    steps: int,
    learning_rate: float,
    beta2: float = 0.999,
    remat: Remat = "none",
    mesh: MeshConfig = _REPLICATED,
) -> PretrainConfig:
    """A released model; the values for v1 and v2 are in docs/numerics.md, "Published settings"."""
    training = TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        optimizer=OptimizerConfig(learning_rate=learning_rate, warmup=10_000.0, beta2=beta2),
        mesh=mesh,
        evaluate_every=1000,
        checkpoint_every=1000,
        keep_every=50_000,
    )
    vocabulary = _PIECES[PRESETS[model].vocab_size]
    return PretrainConfig(model, folder=Path("runs") / model, vocabulary=vocabulary, remat=remat, training=training)


def _version_3(model: str, settings: Published, remat: Remat) -> PretrainConfig:
    config = _published(
        model, settings.batch_size, settings.steps, settings.learning_rate, beta2=settings.beta2, remat=remat
    )
    rtd = RtdConfig(loss_weight=settings.loss_weight, difference_decay="microsoft")
    return dataclasses.replace(config, objective="rtd", rtd=rtd, data=DataConfig(masking=_RTD_MASKING))


def _paper(model: str, remat: Remat = "none") -> PretrainConfig:
    """A v3 model with the settings of the paper."""
    return _version_3(model, PUBLISHED[model]["paper"], remat)


def _repository(model: str, remat: Remat = "none") -> PretrainConfig:
    """A v3 model with the settings of Microsoft's script and the quirks of its code.

    These are Adam without bias correction, a learning rate that jumps after the warm-up, and masking that rarely
    reaches the end of a sequence.
    """
    config = _version_3(model, PUBLISHED[model]["repository"], remat)
    optimizer = dataclasses.replace(config.training.optimizer, name="microsoft_adam", schedule="warmup_linear")
    return dataclasses.replace(
        config,
        folder=Path(f"runs/{model}-repository"),
        training=dataclasses.replace(config.training, optimizer=optimizer),
        data=DataConfig(masking=dataclasses.replace(_RTD_MASKING, mode="tail_biased")),
    )


def _small(model: str, length: int) -> PretrainConfig:
    return PretrainConfig(
        model,
        folder=Path("runs") / model,
        vocabulary=8000,
        dtype="float32",
        data=DataConfig(length=(str(length),)),
        training=TrainingConfig(steps=2000, optimizer=OptimizerConfig(learning_rate=1e-3)),
    )


_DEMO = TrainingConfig(
    steps=800, optimizer=OptimizerConfig(learning_rate=2e-3), evaluate_every=200, checkpoint_every=200
)
_RECIPES: dict[str, tuple[str, PretrainConfig]] = {
    "demo": (
        "a tiny model on the documentation of installed packages: minutes on a laptop, no download",
        PretrainConfig(
            "tiny",
            folder=Path("runs/demo"),
            vocabulary=4000,
            dtype="float32",
            # Single words instead of n-grams and a high learning rate, so that a tiny model learns in a few minutes.
            data=DataConfig(length=("64",), masking=Masking(max_ngram=1), evaluate_batches=20),
            training=_DEMO,
        ),
    ),
    "tiny": ("2 layers of width 128, for a CPU", _small("tiny", 128)),
    "mini": ("4 layers of width 256, for a CPU", _small("mini", 256)),
    "v1-base": ("139 M parameters", _published("v1-base", 2048, 1_000_000, 2e-4)),
    "v1-large": ("405 M parameters", _published("v1-large", 2048, 1_000_000, 2e-4, remat="dots")),
    "v1-xlarge": (
        "758 M parameters",
        _published("v1-xlarge", 2048, 1_000_000, 2e-4, remat="full", mesh=_SHARDED),
    ),
    "v2-xlarge": ("885 M parameters", _published("v2-xlarge", 2048, 1_000_000, 2e-4, remat="full", mesh=_SHARDED)),
    "v2-xxlarge": ("1.5 B parameters", _published("v2-xxlarge", 2048, 1_000_000, 1.5e-4, remat="full", mesh=_SHARDED)),
    "v3-xsmall": ("71 M parameters, and a generator", _paper("v3-xsmall")),
    "v3-small": ("141 M parameters, and a generator", _paper("v3-small")),
    "v3-base": ("184 M parameters, and a generator", _paper("v3-base")),
    "v3-large": ("434 M parameters, and a generator", _paper("v3-large", remat="dots")),
    "mdeberta-v3-base": ("279 M parameters, and a generator", _paper("mdeberta-v3-base")),
    "v3-xsmall-repository": ("v3-xsmall with the settings of Microsoft's script", _repository("v3-xsmall")),
    "v3-base-repository": ("v3-base with the settings of Microsoft's script", _repository("v3-base")),
    "v3-large-repository": (
        "v3-large with the settings of Microsoft's script",
        _repository("v3-large", remat="dots"),
    ),
}
# What else changes in a recipe if another objective is selected.
_CHANGES: dict[tuple[str, ObjectiveName], dict[str, Any]] = {
    # A generator that learns slowly makes replacements that a tiny discriminator can detect, and keeps the shared
    # embeddings stable.
    ("demo", "rtd"): {
        "training": dataclasses.replace(_DEMO, steps=1000, optimizer=OptimizerConfig(learning_rate=3e-4)),
        "rtd": RtdConfig(discriminator_learning_rate=2e-3),
    },
}
RECIPES: dict[str, str] = {name: description for name, (description, _) in _RECIPES.items()}
