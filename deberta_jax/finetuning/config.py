"""The options of a fine-tuning run."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from deberta_jax.config import AttentionName, Precision, Remat
from deberta_jax.errors import InputError, check_at_least, check_fraction
from deberta_jax.finetuning.layers_config import LayersConfig
from deberta_jax.finetuning.search_options import check_search
from deberta_jax.finetuning.techniques import Techniques, check_one_adversary
from deberta_jax.finetuning.text_config import TextConfig
from deberta_jax.hub.upload_options import UploadConfig
from deberta_jax.processes.config import ProcessesConfig
from deberta_jax.tasks.columns import Columns
from deberta_jax.tasks.examples import MAX_MALFORMED
from deberta_jax.training.config import MeshConfig, OptimizerConfig, TrainingConfig

Divergence = Literal["symmetric_kl", "kl", "mse"]
Targets = Literal["attention", "all"]


@dataclasses.dataclass(frozen=True)
class SiftConfig:
    """Virtual adversarial training (SiFT); a step costs three forward and two backward passes."""

    weight: float = 0.0
    """Weight of the adversarial loss; 0 turns it off. Published: 5, and 3 for v3-xsmall."""
    learning_rate: float = 1e-4
    """Step size of the perturbation along its gradient."""
    initial: float = 1e-2
    """Standard deviation of the initial perturbation."""
    divergence: Divergence = "symmetric_kl"
    """Divergence whose gradient moves the perturbation; the adversarial loss itself is symmetric_kl."""

    def __post_init__(self) -> None:
        for name in ("weight", "learning_rate", "initial"):
            if getattr(self, name) < 0:
                raise InputError(f"sift.{name} is {getattr(self, name)}; it must not be negative")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (LoRA); the head is trained as a whole.

    Raises:
        InputError: a negative rank, or an alpha that is not positive.

    Example:
        >>> import deberta_jax as dj
        >>> dj.LoraConfig(rank=8).alpha
        16.0
    """

    rank: int = 0
    """Rank of the adapters; 0 trains the whole model."""
    alpha: float = 16.0
    """Scale of the adapters: their product counts alpha / rank times."""
    targets: Targets = "attention"
    """Adapted kernels: queries, keys and values ("attention"), or every matrix of a layer ("all")."""

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha <= 0:
            raise InputError(
                f"lora.rank is {self.rank} and lora.alpha {self.alpha:g}; both must be positive (rank 0 turns LoRA off)"
            )


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tune a model on a task, keep the best model, evaluate it, and write predictions and a report.

    The folder of the run contains `model` (the best model, which transformers loads), `metrics.json`, predictions in
    the format of the task's leaderboard, `report.html` with figures, `metrics.jsonl`, TensorBoard events and
    checkpoints; with LoRA also `adapter`, the adapters and the head of the best model, which PEFT loads. Run the same
    command again to resume; the result is bit-identical.

    Some defaults depend on the task and on --model, for which they were published: --epochs, --batch-size,
    --head-dropout, --optimizer.learning-rate and --optimizer.warmup. Use --help together with --model to see them.
    """

    model: str = ""
    """Model folder, owner/name on the Hugging Face hub, or the result of another run (runs/mnli/model)."""
    data: Path | None = None
    """Folder with the task's files under their official names. For `generic` also one file."""
    folder: Path = Path("runs/finetune")
    """Folder of the run."""
    columns: Columns = dataclasses.field(default_factory=Columns)
    labels: tuple[str, ...] = ()
    """Names of the labels, or of the tags, if the table gives them as numbers from 0 (generic)."""
    encoding: str | None = None
    """Encoding of text files, such as latin-1; by default UTF-8, or what the byte-order mark says (generic, ner)."""
    max_malformed: float = MAX_MALFORMED
    """Share of malformed rows up to which a file is read; rows without a label are not malformed."""
    held_out: float = 0.1
    """Share of the training set that becomes the dev set if there is none; stratified, and selected by --seed."""
    folds: int = 0
    """Number of folds of a cross-validation, each with a run in fold-0, fold-1, ...; 0 for one run. The ensemble of all
    folds predicts the other splits."""
    epochs: float = 3.0
    """Passes over the training set. A finished run can be extended with a larger number."""
    batch_size: int = 32
    """Examples per step, over all devices."""
    accumulate: int = 1
    """Micro-batches per step (gradient accumulation)."""
    max_length: int = 256
    """Longest sequence in tokens, also above 512 with relative positions. Longer texts are truncated or split."""
    texts: Annotated[TextConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=TextConfig)
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(learning_rate=2e-5, warmup=0.1)
    )
    head_dropout: float | None = None
    """Dropout before the classifier; by default as in the model's config."""
    label_smoothing: float = 0.0
    """Probability that the targets distribute over all classes (kinds single_label, ordinal, multi_label, token)."""
    class_weights: tuple[str, ...] = ()
    """LABEL=WEIGHT for some labels, or "balanced" for weights inverse to frequency (kinds as for --label-smoothing)."""
    evaluate_every: int = 0
    """Steps between evaluations; 0 evaluates after each epoch."""
    metric: str | None = None
    """Metric that selects the best model, such as f1_macro, auc, matthews, quadratic_kappa, map3, spearman, rmse or
    log_loss (docs/tasks.md); by default that of the task."""
    patience: int = 0
    """End the run after this number of evaluations without improvement; 0 disables early stopping."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    seed: int = 0
    """Seed of the new head, dropout, the order of examples, and the examples that are held out."""
    seeds: int = 1
    """Number of runs with consecutive seeds. The best is kept; median and range are reported."""
    search: tuple[str, ...] = ()
    """Options to vary in a random search over published values: rate,
    epochs, layer-decay, batch-size, warmup, dropout; or
    NAME=VALUE,VALUE (docs/tasks.md). Without settings for the task
    (generic): rates of the model, epochs 3,4,6,8, batch-size 16,32,64,
    warmup 50,100,500,1000, dropout 0.1,0.15,0.2,0.3, layer-decay
    0.8,0.9,1. The best model on the development set is kept."""
    trials: int = 12
    """Trials of the search; the first has the options as given. A finished search can be extended with more."""
    from_scratch: bool = False
    """Initialize all weights randomly; only the config and the tokenizer of --model are used."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute dtype; auto is bfloat16 except on CPU. Parameters are float32."""
    precision: Precision = "float32"
    """Precision of float32 matrix products: tf32 is faster on GPU and TPU, and has no effect with bfloat16."""
    attention: AttentionName = "auto"
    """Implementation of attention (docs/attention.md); auto chooses by device and length."""
    remat: Remat = "none"
    """What to recompute in the backward pass to save memory."""
    sift: SiftConfig = dataclasses.field(default_factory=SiftConfig)
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    techniques: Annotated[Techniques, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Techniques)
    layers: Annotated[LayersConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=LayersConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    processes: ProcessesConfig = dataclasses.field(default_factory=ProcessesConfig)
    wandb: str | None = None
    """Send all metrics to this project, or entity/project, of Weights & Biases too (extra wandb)."""
    upload: Annotated[UploadConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=UploadConfig)
    task: tyro.conf.Suppress[str] = ""
    """Name of the task, set by the recipe."""

    def __post_init__(self) -> None:
        for name, minimum in (("batch_size", 1), ("accumulate", 1), ("max_length", 8), ("seeds", 1), ("seed", 0)):
            check_at_least(name, getattr(self, name), minimum)
        for name in ("evaluate_every", "patience"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not 0 < self.epochs <= 10_000:
            raise InputError(f"epochs is {self.epochs}; it must be a positive number such as 3 or 0.5")
        if self.folds == 1 or self.folds < 0:
            raise InputError(f"folds is {self.folds}; it must be 0, or at least 2")
        if self.folds and self.seeds > 1:
            raise InputError(f"folds is {self.folds} and seeds {self.seeds}; use one of them")
        if self.folds and self.search:
            raise InputError("search and folds are both set; use one of them")
        if self.folds and self.upload.push_to_hub:
            raise InputError("folds and push_to_hub are both set, but a run with folds trains several models")
        if not 0 < self.held_out < 1:
            raise InputError(f"held_out is {self.held_out:g}; it must be between 0 and 1, such as 0.1")
        for name in ("label_smoothing", "head_dropout", "max_malformed"):
            check_fraction(name, getattr(self, name) or 0.0)
        check_search(self.search, self.trials, self.seeds)
        check_one_adversary(self.sift.weight, self.techniques)

    @property
    def compute_dtype(self) -> str:
        if self.dtype != "auto":
            return self.dtype
        # `--help` reads this module and must not import JAX.
        import jax

        return "float32" if jax.default_backend() == "cpu" else "bfloat16"

    def training(self, steps_per_epoch: int, seed: int) -> TrainingConfig:
        """The engine's options for one seed."""
        steps = max(1, math.ceil(self.epochs * steps_per_epoch))
        optimizer = self.optimizer
        if optimizer.warmup >= 1 and optimizer.warmup > steps // 2:
            # Published warmups are for the full training set of a task.
            optimizer = dataclasses.replace(optimizer, warmup=0.1)
        return TrainingConfig(
            steps=steps,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            seed=seed,
            optimizer=optimizer,
            mesh=self.mesh,
            evaluate_every=self.evaluate_every or steps_per_epoch,
            checkpoint_every=self.checkpoint_every,
        )

    def settings(self) -> dict[str, Any]:
        """The options that determine the result, as JSON."""
        settings = dataclasses.asdict(self) | {"dtype": self.compute_dtype}
        for name in ("folder", "data", "processes", "seeds", "seed", "search", "trials", "upload", "wandb"):
            del settings[name]
        # Absent rather than off: a run without techniques has the settings that it had before they existed.
        if self.techniques == Techniques():
            del settings["techniques"]
        return settings
