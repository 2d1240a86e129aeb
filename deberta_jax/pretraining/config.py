"""What a pretraining run is: a model, an objective, text, masks, a tokenizer and a training."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import tyro
from jaxtyping import PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.data.masking import Masking
from deberta_jax.errors import InputError
from deberta_jax.model.encoder import Remat
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.pair import ReplacedTokenPair, initial_pair
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.replaced_tokens import RtdConfig, replaced_token_detection
from deberta_jax.sharding import make_mesh
from deberta_jax.training.method import TrainingMethod, one_objective
from deberta_jax.training.objective import masked_lm
from deberta_jax.training.processes import ProcessesConfig
from deberta_jax.training.run import TrainingConfig
from deberta_jax.training.sizes import Sizes, sizes
from deberta_jax.training.state import abstract_state

ObjectiveName = Literal["mlm", "rtd"]
# A vocabulary's rows are padded to a multiple of this, so that they can be split and tiled.
_ROWS = 128
# In place of the name of a generator.
FRESH = "fresh"


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
    """Pretraining, from text to model folders.

    `objective` is masked language modelling (mlm) or version 3's replaced-token detection (rtd), which trains a
    generator of half as many layers beside the model. `folder` holds everything of the run. Without `tokenizer` one of
    `vocabulary` pieces is trained on the text.

    `start` names a model, a folder or one of the hub, to go on from in place of random weights, with its tokenizer; for
    rtd it is the discriminator, and its generator is beside it, or is the model `generator` ("fresh": a new one, which
    begins with the discriminator's embeddings). A generator without `start` gets a new discriminator.
    """

    model: str = "v3-base"
    objective: ObjectiveName = "mlm"
    folder: Path = Path("runs/pretrain")
    tokenizer: Path | None = None
    vocabulary: int = 32000
    start: str | None = None
    generator: str | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    remat: Remat = "none"
    data: DataConfig = field(default_factory=DataConfig)
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = field(default_factory=TrainingConfig)
    rtd: RtdConfig = field(default_factory=RtdConfig)
    processes: ProcessesConfig = field(default_factory=ProcessesConfig)
    # The recipe that the options began as.
    recipe: tyro.conf.Suppress[str] = ""

    def __post_init__(self) -> None:
        if self.model not in PRESETS:
            raise InputError(f"no model {self.model!r}; there are {', '.join(PRESETS)}")
        most = PRESETS[self.model].max_position_embeddings
        if self.data.length > most:
            raise InputError(f"data.length is {self.data.length}, the position table of {self.model} ends at {most}")
        if self.generator and self.objective == "mlm":
            raise InputError("generator is for objective rtd; for mlm give start")
        if self.rtd != RtdConfig() and self.objective == "mlm":
            raise InputError("options of rtd are given, and the objective is mlm; give --objective rtd")
        if self.generator == FRESH and not self.start:
            raise InputError("generator fresh goes with start, the discriminator; without both all is new")

    def settings(self) -> dict[str, Any]:
        """All that makes the run what it is, as JSON."""
        settings = dataclasses.asdict(self)
        for name in ("folder", "processes", "recipe", *(("rtd", "generator") if self.objective == "mlm" else ())):
            del settings[name]
        return _json(settings)

    def model_config(self, vocab_size: int | None = None) -> DebertaConfig:
        """The model, with a table for a tokenizer of `vocab_size`; the preset's own where that is little larger."""
        preset = PRESETS[self.model]
        if vocab_size is None or 0 <= preset.vocab_size - vocab_size < max(_ROWS, preset.vocab_size // 100):
            return preset
        return dataclasses.replace(preset, vocab_size=-(-vocab_size // _ROWS) * _ROWS)

    def evaluation_masking(self) -> Masking:
        """How held-out text is masked; a discriminator is judged on the whole of each row (spec 5.1)."""
        masking = self.data.masking
        return masking if self.objective == "mlm" else dataclasses.replace(masking, mode="uniform")

    def method(self, model: DebertaConfig) -> TrainingMethod:
        """How a model of this config is trained."""
        dtype = jnp.dtype(self.dtype)
        if self.objective == "mlm":
            return one_objective(
                self.training, lambda key: MaskedLM(model, dtype=dtype, remat=self.remat, key=key), masked_lm
            )

        def build(key: PRNGKeyArray) -> ReplacedTokenPair:
            return initial_pair(
                generator_config(model), model, self.rtd.sharing, dtype=dtype, remat=self.remat, key=key
            )

        return replaced_token_detection(self.training, self.rtd, build)


def generator_config(discriminator: DebertaConfig) -> DebertaConfig:
    """The generator's config: the discriminator's, with half of its layers, two at least (spec 4.1)."""
    return dataclasses.replace(discriminator, num_hidden_layers=max(2, discriminator.num_hidden_layers // 2))


def measure(config: PretrainConfig, model: DebertaConfig) -> Sizes:
    """The sizes of a run on the devices that are here, by shapes alone."""
    mesh = make_mesh(config.training.mesh.data, config.training.mesh.fsdp, config.training.mesh.tensor)
    # A schedule of no steps has no warm-up.
    training = dataclasses.replace(config.training, steps=max(config.training.steps, 10**6))
    method = dataclasses.replace(config, training=training).method(model)
    abstract = abstract_state(method.build, method.optimizer, config.training.seed, mesh)
    rows, length = config.training.batch_size, config.data.length
    slots = config.data.masking.slots(length)
    widths = dict.fromkeys(("input_ids", "segment_ids", "position_ids"), length)
    widths |= dict.fromkeys(("masked_positions", "labels"), slots)
    batch = {name: jax.ShapeDtypeStruct((rows, width), jnp.int32) for name, width in widths.items()}
    batch["label_weights"] = jax.ShapeDtypeStruct((rows, slots), jnp.float32)
    return sizes(method.evaluate, abstract, batch)


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _json(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_json(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
