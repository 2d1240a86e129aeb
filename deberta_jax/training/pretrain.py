"""What a pretraining run is: a model, text, masks, a tokenizer and a training; and the recipes known by name."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from deberta_jax.config import PRESETS, DebertaConfig
from deberta_jax.data.masking import Masking
from deberta_jax.errors import InputError
from deberta_jax.model.encoder import Remat
from deberta_jax.training.optimizer import OptimizerConfig
from deberta_jax.training.processes import ProcessesConfig
from deberta_jax.training.run import MeshConfig, TrainingConfig

# Parameters and optimizer of the largest models are split over all devices.
_WHOLE = MeshConfig()
_SPLIT = MeshConfig(data=1, fsdp=-1)
# A vocabulary's rows are padded to a multiple of this, so that they can be split and tiled.
_ROWS = 128
# Pieces of the released vocabularies, by the rows of their tables.
_PIECES = {50265: 50_264, 128100: 128_000, 251000: 250_100}


@dataclass(frozen=True)
class DataConfig:
    """Text, and how it becomes rows.

    Without `files` it is the documentation of the Python packages installed here. Without `held_out` one shard in
    twenty is kept for evaluation. `shards` is a folder that `prepare` made, in place of `files`. `workers` processes
    make batches, or threads of this one if 0; an evaluation takes at most `evaluate_batches` of them.
    """

    files: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    shards: Path | None = None
    length: int = 512
    masking: Masking = field(default_factory=Masking)
    workers: int = 0
    evaluate_batches: int = 40

    def __post_init__(self) -> None:
        for name, least in (("length", 8), ("workers", 0), ("evaluate_batches", 1)):
            if getattr(self, name) < least:
                raise InputError(f"data.{name} is {getattr(self, name)}; it must be at least {least}")
        if self.shards and self.files:
            raise InputError("data.shards is text that is prepared already: give it without data.files")
        if self.held_out and not (self.files or self.shards):
            raise InputError("data.held-out is evaluated on; name what to train on with data.files or data.shards")


@dataclass(frozen=True)
class PretrainConfig:
    """Masked language modelling from text to a model folder.

    `folder` holds everything of the run. Without `tokenizer` one of `vocabulary` pieces is trained on the text.
    """

    model: str = "v3-base"
    folder: Path = Path("runs/pretrain")
    tokenizer: Path | None = None
    vocabulary: int = 32000
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    remat: Remat = "none"
    data: DataConfig = field(default_factory=DataConfig)
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = field(default_factory=TrainingConfig)
    processes: ProcessesConfig = field(default_factory=ProcessesConfig)

    def __post_init__(self) -> None:
        if self.model not in PRESETS:
            raise InputError(f"no model {self.model!r}; there are {', '.join(PRESETS)}")
        most = PRESETS[self.model].max_position_embeddings
        if self.data.length > most:
            raise InputError(f"data.length is {self.data.length}, the position table of {self.model} ends at {most}")

    def settings(self) -> dict[str, Any]:
        """All that makes the run what it is, as JSON."""
        settings = dataclasses.asdict(self)
        del settings["folder"], settings["processes"]
        return _json(settings)

    def model_config(self, vocab_size: int | None = None) -> DebertaConfig:
        """The model, with a table for a tokenizer of `vocab_size`; the preset's own where that is little larger."""
        preset = PRESETS[self.model]
        if vocab_size is None or 0 <= preset.vocab_size - vocab_size < max(_ROWS, preset.vocab_size // 100):
            return preset
        return dataclasses.replace(preset, vocab_size=-(-vocab_size // _ROWS) * _ROWS)


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _json(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_json(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


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
    return PretrainConfig(
        model, Path("runs") / model, vocabulary=_PIECES[PRESETS[model].vocab_size], remat=remat, training=training
    )


def _small(model: str, length: int) -> PretrainConfig:
    training = TrainingConfig(steps=2000, optimizer=OptimizerConfig(learning_rate=1e-3))
    data = DataConfig(length=length)
    return PretrainConfig(model, Path("runs") / model, vocabulary=8000, dtype="float32", data=data, training=training)


# Published batch sizes, steps and rates: spec 9.3. Those of v3 are of replaced-token detection.
RECIPES: dict[str, tuple[str, PretrainConfig]] = {
    "demo": (
        "A tiny model on the documentation installed here: minutes on a laptop, no download",
        PretrainConfig(
            "tiny",
            Path("runs/demo"),
            vocabulary=4000,
            dtype="float32",
            # Single words are hidden, not runs of them, and the rate is high: a model this small must learn fast.
            data=DataConfig(length=64, masking=Masking(max_ngram=1), evaluate_batches=20),
            training=TrainingConfig(
                steps=800,
                optimizer=OptimizerConfig(learning_rate=2e-3),
                evaluate_every=200,
                checkpoint_every=200,
            ),
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
    "v3-xsmall": ("71 M parameters", _published("v3-xsmall", 8192, 500_000, 6e-4, 0.98)),
    "v3-small": ("142 M parameters", _published("v3-small", 8192, 500_000, 6e-4, 0.98)),
    "v3-base": ("185 M parameters", _published("v3-base", 8192, 500_000, 6e-4, 0.98)),
    "v3-large": ("435 M parameters", _published("v3-large", 8192, 500_000, 3e-4, 0.98, "dots")),
    "mdeberta-v3-base": (
        "280 M parameters",
        _published("mdeberta-v3-base", 8192, 500_000, 6e-4, 0.98),
    ),
}
