"""Options of a pretraining run: model, objective, text, masking, tokenizer and training."""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from deberta_jax.config import AttentionName, DebertaConfig, Precision, Remat, Sharing
from deberta_jax.data.language_modeling import Directions
from deberta_jax.data.masking import Masking
from deberta_jax.data.text_options import TextOptions
from deberta_jax.errors import InputError, check_at_least
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.curriculum import Stage, first_steps, make_stages, parse_lengths
from deberta_jax.processes.config import ProcessesConfig
from deberta_jax.training.config import TrainingConfig

ObjectiveName = Literal["mlm", "rtd", "clm", "mt"]
# The value of `micro_batch` for the largest that fits.
AUTO = "auto"
# The value of `generator` for a randomly initialized one.
FRESH = "fresh"
# Vocabulary sizes are rounded up to a multiple of this, so that the embedding table can be sharded and tiled.
_VOCAB_MULTIPLE = 128


@dataclass(frozen=True)
class DataConfig:
    """Text, and how it becomes training sequences."""

    files: tuple[str, ...] = ()
    """Text files, folders or glob patterns; by default the documentation of the installed Python packages."""
    held_out: tuple[str, ...] = ()
    """Text files to evaluate on; by default one shard in twenty."""
    text: Annotated[TextOptions, tyro.conf.arg(name="")] = field(default_factory=TextOptions)
    shards: tuple[str, ...] = ()
    """Folder of shards written by `deberta-jax prepare`, used instead of files; several sources are NAME=FOLDER …"""
    mixture: tuple[str, ...] = ()
    """Share of each source of shards in the batches, NAME=WEIGHT; by default in proportion to its sequences."""
    temperature: float | None = None
    """Shares in proportion to sequences^temperature instead: 1 keeps the proportions, 0.3 raises small sources."""
    length: tuple[str, ...] = ("512",)
    """Tokens per sequence, including [CLS] and [SEP]; several lengths one after the other are 128:90% 512:10%."""
    masking: Masking = field(default_factory=Masking)
    workers: int = 0
    """Processes that make batches; 0 uses threads of this process."""
    evaluate_batches: int = 40
    """Maximum number of held-out batches per evaluation."""

    def __post_init__(self) -> None:
        for length in self.lengths:
            check_at_least("data.length", length, 8)
        for name, least in (("workers", 0), ("evaluate_batches", 1), ("temperature", 0)):
            check_at_least(f"data.{name}", getattr(self, name), least)
        if self.shards and self.files:
            raise InputError("data.shards and data.files are both set; use one of them")
        if self.mixture and self.temperature is not None:
            raise InputError("data.mixture and data.temperature are both set; use one of them")
        if (self.mixture or self.temperature is not None) and not self.shards:
            raise InputError("data.mixture and data.temperature need prepared shards; set data.shards NAME=FOLDER …")
        if self.text != TextOptions() and not (self.files or self.held_out):
            names = " and ".join(f"data.{word}" for word in self.text.names())
            raise InputError(f"{names} set without text files; set data.files too, or data.held-out with data.shards")
        if self.held_out and not (self.files or self.shards):
            raise InputError("data.held-out is set without training text; set data.files or data.shards too")

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths of the sequences, in the order of the run."""
        return tuple(share.length for share in parse_lengths(self.length))


@dataclass(frozen=True)
class RtdConfig:
    """Replaced-token detection: how the generator and the discriminator train together."""

    sharing: Sharing = "gdes"
    """Embedding sharing: gdes (gradient-disentangled, as in DeBERTa v3), es (one table, as in ELECTRA) or none."""
    step: Literal["decoupled", "joint"] = "decoupled"
    """decoupled: two updates, generator first, each with its own optimizer; joint: one update on the summed loss."""
    loss_weight: float = 50.0
    """Weight of the discriminator's loss (lambda in the paper); decoupled, it acts through gradient clipping only."""
    discriminator_learning_rate: float | None = None
    """Learning rate of the discriminator (decoupled steps only); by default the optimizer's."""
    difference_decay: Literal["none", "microsoft"] = "none"
    """Weight decay of the embedding difference of gdes: none, or the same as other weights, as in Microsoft's code."""

    def __post_init__(self) -> None:
        if self.sharing == "es" and self.step == "decoupled":
            raise InputError(
                "rtd.sharing es needs rtd.step joint: decoupled steps have no update of one table by both losses; set "
                "rtd.step joint, or use another sharing"
            )
        if self.loss_weight <= 0:
            raise InputError(f"rtd.loss_weight is {self.loss_weight}; it must be positive")
        if self.discriminator_learning_rate is None:
            return
        if self.step == "joint":
            raise InputError("rtd.discriminator_learning_rate needs rtd.step decoupled; a joint step has one rate")
        if self.discriminator_learning_rate < 0:
            raise InputError(
                f"rtd.discriminator_learning_rate is {self.discriminator_learning_rate}; it must not be negative"
            )


@dataclass(frozen=True)
class MixedConfig:
    """Masked and auto-regressive sequences in one batch, by default with the shares of UniLM (Dong et al. 2019)."""

    masked_share: float = 1 / 3
    """Share of the sequences that are masked; the others are auto-regressive."""
    directions: Directions = field(default_factory=lambda: Directions(1 / 4, 1 / 4, 1 / 2))

    def __post_init__(self) -> None:
        if not 0 < self.masked_share < 1:
            raise InputError(
                f"mt.masked_share is {self.masked_share}; it must be between 0 and 1 (objective mlm is 1, clm is 0)"
            )

    def masked_rows(self, batch_size: int, unit: int) -> int:
        """The number of masked rows of a batch, a multiple of `unit` as the number of the others.

        Raises InputError if the batch is too small for both.
        """
        if batch_size < 2 * unit:
            raise InputError(
                f"batch_size is {batch_size}; objective mt needs at least {2 * unit}, masked and auto-regressive "
                "sequences for each device and micro-batch"
            )
        number = unit * round(self.masked_share * batch_size / unit)
        return min(max(number, unit), batch_size - unit)


@dataclass(frozen=True)
class PretrainConfig:
    """Pretrain a DeBERTa model on text files and export it as a Hugging Face model folder."""

    model: str = "v3-base"
    """Preset of the model, such as tiny, v1-base, v2-xlarge or v3-base."""
    num_hidden_groups: int | None = None
    """Groups of layers that share their parameters, as in ALBERT: 1 for all layers; by default no sharing."""
    objective: ObjectiveName = "mlm"
    """mlm: masked language modeling (v1, v2); rtd: replaced-token detection with a generator half as deep (v3); clm:
    language modeling from left to right; mt: mlm and clm together."""
    absolute_positions: Literal["decoder", "input", "none"] = "decoder"
    """Where absolute positions enter: in the enhanced mask decoder, at the input as in BERT, or nowhere."""
    folder: Path = Path("runs/pretrain")
    """Run folder: checkpoints, metrics, plots, exported models. Run the same command again to resume."""
    tokenizer: Path | None = None
    """Tokenizer folder or file; by default the one of --init-from, else a new one is trained on the text."""
    vocabulary: int = 32000
    """Number of pieces of a tokenizer that is trained on the text."""
    init_from: str | None = None
    """Model folder or hub id to initialize the model (rtd: the discriminator) from; its tokenizer is used too."""
    generator: str | None = None
    """rtd: model folder or hub id to initialize the generator from, or "fresh"; by default the file of --init-from."""
    branch_from: Path | None = None
    """Checkpoint of another run with these settings, RUN/checkpoints/STEP, to continue in this folder."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Compute dtype; parameters and optimizer state are float32."""
    precision: Precision = "float32"
    """Precision of float32 matrix products: tf32 is faster on GPU and TPU, and has no effect with bfloat16."""
    attention: AttentionName = "auto"
    """Implementation of attention (docs/attention.md); auto chooses by device and length."""
    remat: Remat = "none"
    """Recompute activations in the backward pass: none, all but matrix products (dots), or whole layers (full)."""
    micro_batch: str | None = None
    """Sequences per micro-batch, instead of --accumulate: a number, or auto for the largest that fits in memory."""
    wandb: str | None = None
    """Send all metrics to this project, or entity/project, of Weights & Biases too (extra wandb)."""
    data: DataConfig = field(default_factory=DataConfig)
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = field(default_factory=TrainingConfig)
    rtd: RtdConfig = field(default_factory=RtdConfig)
    mt: MixedConfig = field(default_factory=MixedConfig)
    processes: ProcessesConfig = field(default_factory=ProcessesConfig)
    recipe: tyro.conf.Suppress[str] = ""
    """Name of the recipe that the defaults come from."""

    def __post_init__(self) -> None:
        if self.model not in PRESETS:
            raise InputError(f"no model {self.model!r}; expected one of {', '.join(PRESETS)}")
        limit = PRESETS[self.model].max_position_embeddings
        if (length := max(self.data.lengths)) > limit:
            raise InputError(f"data.length is {length}, but {self.model} has only {limit} positions")
        if self.num_hidden_groups is not None:
            dataclasses.replace(PRESETS[self.model], num_hidden_groups=self.num_hidden_groups)
        if self.generator and self.objective != "rtd":
            raise InputError(f"generator is an option of objective rtd; for {self.objective} use init-from")
        if self.rtd != RtdConfig() and self.objective != "rtd":
            raise InputError(f"rtd options are set, but the objective is {self.objective}; add --objective rtd")
        if self.mt != MixedConfig() and self.objective != "mt":
            raise InputError(f"mt options are set, but the objective is {self.objective}; add --objective mt")
        if self.data.masking != Masking() and self.objective == "clm":
            raise InputError("data.masking options are set, but objective clm masks nothing; omit them")
        if self.absolute_positions != "decoder" and self.objective == "rtd":
            raise InputError(
                f"absolute_positions is {self.absolute_positions}, but a generator of objective rtd has them in its "
                "decoder; omit the option"
            )
        self._check_micro_batch()
        if self.generator == FRESH and not self.init_from:
            raise InputError(
                "generator fresh needs init-from, the discriminator; omit both to initialize both models randomly"
            )

    def _check_micro_batch(self) -> None:
        if self.micro_batch is None:
            return
        if self.training.accumulate > 1:
            raise InputError("micro_batch and accumulate are both set; use one of them")
        number = int(self.micro_batch) if re.fullmatch(r"[1-9]\d{0,9}", self.micro_batch) else None
        if self.micro_batch != AUTO and (number is None or self.training.batch_size % number):
            raise InputError(
                f"micro_batch is {self.micro_batch}; it must be {AUTO} or divide batch_size, {self.training.batch_size}"
            )

    def settings(self) -> dict[str, Any]:
        """The settings that define the run, as JSON; a resumed run must have the same."""
        settings = dataclasses.asdict(self)
        settings["data"] |= self._data_settings()
        unused = [name for name in ("rtd", "mt") if name != self.objective]
        unused += ["generator"] * (self.objective != "rtd")
        # Runs of earlier versions do not have these settings.
        later = {"num_hidden_groups": None, "absolute_positions": "decoder"}
        unused += [name for name, default in later.items() if settings[name] == default]
        for name in ("folder", "processes", "recipe", "micro_batch", "branch_from", "wandb", *unused):
            del settings[name]
        settings["data"] |= self.data.text.settings()
        del settings["data"]["text"]
        if not self._splits_long_words():
            del settings["data"]["masking"]["max_word_tokens"]
        for name in ("mixture", "temperature"):
            if settings["data"][name] in ((), None):
                del settings["data"][name]
        return _as_json(settings)

    def _splits_long_words(self) -> bool:
        """Whether the limit of words changes masks; runs of earlier versions have none."""
        masking = self.data.masking
        is_uniform = "uniform" in (masking.mode, self.evaluation_masking().mode)
        is_limited = masking.whole_words and masking.max_word_tokens is not None
        return is_limited and is_uniform and self.objective != "clm"

    def _data_settings(self) -> dict[str, Any]:
        """One length and one folder as they are; of several lengths, the first step of each."""
        data = self.data
        first = first_steps(parse_lengths(data.length), self.training.steps)
        starts = dict(zip(map(str, data.lengths), first, strict=True))
        return {
            "length": starts if len(data.lengths) > 1 else data.lengths[0],
            "shards": data.shards[0] if len(data.shards) == 1 else data.shards or None,
        }

    def stages(self) -> tuple[Stage, ...]:
        """The stages of the run; raises InputError for lengths that do not fit the batch or the number of steps."""
        training = self.training
        return make_stages(parse_lengths(self.data.length), training.steps, training.batch_size)

    def at_stage(self, stage: Stage) -> "PretrainConfig":
        """A run with the length and the batch size of a stage only."""
        data = dataclasses.replace(self.data, length=(str(stage.length),))
        return dataclasses.replace(
            self, data=data, training=dataclasses.replace(self.training, batch_size=stage.batch_size)
        )

    def model_config(self, vocab_size: int) -> DebertaConfig:
        """The preset with an embedding table for a tokenizer of `vocab_size`.

        The preset's own table size is kept if it is at most 1% larger.
        """
        preset = dataclasses.replace(
            PRESETS[self.model],
            num_hidden_groups=self.num_hidden_groups,
            position_biased_input=self.absolute_positions == "input",
        )
        if 0 <= preset.vocab_size - vocab_size < max(_VOCAB_MULTIPLE, preset.vocab_size // 100):
            return preset
        return dataclasses.replace(preset, vocab_size=-(-vocab_size // _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE)

    def evaluation_masking(self) -> Masking:
        """Masking of held-out text; a discriminator is evaluated on whole sequences (docs/pretraining.md, Masking)."""
        masking = self.data.masking
        return masking if self.objective != "rtd" else dataclasses.replace(masking, mode="uniform")


def generator_config(discriminator: DebertaConfig) -> DebertaConfig:
    """The discriminator's config with half as many layers, at least 2 (docs/numerics.md, Replaced-token detection)."""
    return discriminator.with_depth(max(2, discriminator.num_hidden_layers // 2))


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_json(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_as_json(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
