"""How a model is fine-tuned: the options of a run."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from deberta_jax.config import Remat
from deberta_jax.errors import InputError
from deberta_jax.tasks.custom import Columns
from deberta_jax.training.config import MeshConfig, OptimizerConfig, ProcessesConfig, TrainingConfig

BALANCED = "balanced"
Divergence = Literal["symmetric_kl", "kl", "mse"]
Targets = Literal["attention", "all"]


@dataclasses.dataclass(frozen=True)
class SiftConfig:
    """Virtual adversarial training: a step costs three forward and two backward passes.

    `weight` is that of the adversarial loss, 0: none; published are 5, and 3 for v3-xsmall. A perturbation of standard
    deviation `initial` is moved by `learning_rate` along the gradient of `divergence`; the adversarial loss itself is
    the symmetric one (spec 6).
    """

    weight: float = 0.0
    learning_rate: float = 1e-4
    initial: float = 1e-2
    divergence: Divergence = "symmetric_kl"

    def __post_init__(self) -> None:
        for name in ("weight", "learning_rate", "initial"):
            if getattr(self, name) < 0:
                raise InputError(f"sift.{name} is {getattr(self, name)}; it cannot be negative")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Adapters of a rank, 0: none, the whole model is trained.

    The product of an adapter's matrices counts `alpha` / `rank` times. `targets`: the kernels of queries, keys and
    values ("attention"), or of every product of a layer ("all"). The head is trained as a whole.
    """

    rank: int = 0
    alpha: float = 16.0
    targets: Targets = "attention"

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha <= 0:
            raise InputError(
                f"lora.rank is {self.rank}, lora.alpha {self.alpha:g}; both must be positive, rank 0 is off"
            )


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tune a model on a task's own files, keep the best by the task's metric, evaluate, predict, report.

    The run's folder gets `model`, the best so far, which transformers loads; `metrics.json`; predictions in the form
    that the task's leaderboard takes; `report.html` with its figures; `metrics.jsonl`, TensorBoard events, checkpoints.
    The same command goes on where it was stopped, to the last bit. A recipe's values are those published for --model.
    """

    model: str = ""
    """Model folder, or owner/name on the hub; the result of another task, as --model runs/mnli/model, too."""
    data: Path | None = None
    """Folder of the task's files, by their official names; for `generic` a file, of which a tenth is held out."""
    folder: Path = Path("runs/finetune")
    """Everything of the run."""
    columns: Columns = dataclasses.field(default_factory=Columns)
    epochs: float = 3.0
    batch_size: int = 32
    accumulate: int = 1
    """Micro-batches in which a batch is taken."""
    max_length: int = 256
    """Tokens of the longest row; longer texts are cut, or read in windows."""
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(learning_rate=2e-5, warmup=0.1)
    )
    head_dropout: float | None = None
    """Before the classifier; the model's own by default."""
    label_smoothing: float = 0.0
    class_weights: tuple[str, ...] = ()
    """LABEL=WEIGHT for each label, or "balanced": the rarer, the heavier."""
    evaluate_every: int = 0
    """Steps; 0: an epoch."""
    patience: int = 0
    """Evaluations without a better one after which the run ends; 0: never."""
    checkpoint_every: int = 1000
    seed: int = 0
    seeds: int = 1
    """Runs of different seeds; the best is kept, median and spread are told."""
    from_scratch: bool = False
    """Begin with random weights, of --model only its config and tokenizer."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of computation; auto is bfloat16 but on CPUs. Parameters are float32."""
    remat: Remat = "none"
    sift: SiftConfig = dataclasses.field(default_factory=SiftConfig)
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    processes: ProcessesConfig = dataclasses.field(default_factory=ProcessesConfig)
    # The task that the options began as.
    task: tyro.conf.Suppress[str] = ""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("accumulate", 1), ("max_length", 8), ("seeds", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("evaluate_every", "patience"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it cannot be negative")
        if not 0 < self.epochs <= 10_000:
            raise InputError(f"epochs is {self.epochs}; a positive number is wanted, such as 3 or 0.5")
        for name in ("label_smoothing", "head_dropout"):
            if not 0 <= (getattr(self, name) or 0.0) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")

    @property
    def compute_dtype(self) -> str:
        if self.dtype != "auto":
            return self.dtype
        import jax

        return "float32" if jax.default_backend() == "cpu" else "bfloat16"

    def training(self, steps_in_epoch: int, seed: int) -> TrainingConfig:
        """How a run of one seed goes, whose epoch has so many steps."""
        steps = max(1, math.ceil(self.epochs * steps_in_epoch))
        optimizer = self.optimizer
        if optimizer.warmup >= 1 and optimizer.warmup > steps // 2:
            # Published warm-ups are for the whole of a task's data.
            optimizer = dataclasses.replace(optimizer, warmup=0.1)
        return TrainingConfig(
            steps=steps,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            seed=seed,
            optimizer=optimizer,
            mesh=self.mesh,
            evaluate_every=self.evaluate_every or steps_in_epoch,
            checkpoint_every=self.checkpoint_every,
        )

    def settings(self) -> dict[str, Any]:
        """All that makes the run what it is, as JSON."""
        settings = dataclasses.asdict(self) | {"dtype": self.compute_dtype}
        for name in ("folder", "data", "processes", "seeds", "seed"):
            del settings[name]
        return settings

    def weights_of(self, labels: Sequence[str], counted: Counter[str]) -> tuple[float, ...]:
        """The weight of each label, of which `counted` are in the training data; none where all weigh the same."""
        if not self.class_weights:
            return ()
        if self.class_weights == (BALANCED,):
            whole = sum(counted.values())
            return tuple(whole / (len(labels) * max(counted[label], 1)) for label in labels)
        weights = dict.fromkeys(labels, 1.0)
        for word in self.class_weights:
            label, _, value = word.rpartition("=")
            if label not in weights:
                raise InputError(f"class_weights: no label {label!r}; there are {', '.join(labels)}")
            try:
                weights[label] = float(value)
            except ValueError:
                raise InputError(f"class_weights: {word!r} is not LABEL=NUMBER") from None
            if not 0 <= weights[label] < math.inf:
                raise InputError(f"class_weights: {word!r}: a weight cannot be negative or infinite")
        return tuple(weights.values())
