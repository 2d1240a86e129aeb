"""The options of a run. This module does not import JAX, so that `--help` is fast."""

import dataclasses
from typing import Literal

from deberta_jax.errors import InputError

OptimizerName = Literal["adamw", "microsoft_adam", "radam", "admax"]
ScheduleName = Literal[
    "linear",
    "cosine",
    "constant",
    "warmup_linear",
    "warmup_linear_shift",
    "warmup_cosine",
    "warmup_linear_cosine",
    "warmup_cyclic_linear_cosine",
    "warmup_constant",
]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How parameters follow their gradients; the defaults are the correct forms.

    `name`: "adamw" corrects the bias of both moments. "microsoft_adam", "radam" and "admax" are the original's, to
    reproduce its runs (spec 7.1). `warmup` below 1 is a part of the run, from 1 on a number of steps. `schedule`:
    the names that begin with "warmup_" are the original's (spec 7.3). `lookahead`, if not 0, pulls the parameters
    half way back to slow ones after that many updates (spec 7.1). `layer_decay` below 1 lets lower layers move less
    (`scale_by_layer`).
    """

    name: OptimizerName = "adamw"
    learning_rate: float = 5e-4
    schedule: ScheduleName = "linear"
    warmup: float = 0.1
    final_scale: float = 0.0
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    clip_norm: float = 1.0
    lookahead: int = 0
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "warmup", "weight_decay", "epsilon", "clip_norm", "lookahead"):
            if getattr(self, name) < 0:
                raise InputError(f"optimizer.{name} is {getattr(self, name)}; it cannot be negative")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"optimizer.{name} is {getattr(self, name)}; it must be in [0, 1)")
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"optimizer.layer_decay is {self.layer_decay}; it must be in (0, 1]")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices share a batch (data), the parameters too (fsdp), and each product (tensor); -1: the rest."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Length, batches and intervals of a run.

    `batch_size` rows are a step's, over all devices and over the `accumulate` micro-batches in which they are taken.
    The latest `keep` checkpoints stay, and each of a step that `keep_every` divides. The run stops with an error after
    `stop_after` steps in a row whose loss or gradient is not finite.
    """

    steps: int = 1000
    batch_size: int = 32
    accumulate: int = 1
    seed: int = 0
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    evaluate_every: int = 100
    checkpoint_every: int = 100
    keep: int = 2
    keep_every: int = 0
    stop_after: int = 10

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "evaluate_every", "checkpoint_every", "keep", "stop_after"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("steps", "seed", "keep_every"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it cannot be negative")


@dataclasses.dataclass(frozen=True)
class ProcessesConfig:
    """`join` makes this process one of several that run the same command on the same files.

    On Cloud TPU, Slurm, Open MPI and Kubernetes JAX finds the others by itself. Elsewhere `coordinator` is HOST:PORT of
    the first process, `count` how many there are and `index` which of them this is, from 0.
    """

    join: bool = False
    coordinator: str | None = None
    count: int | None = None
    index: int | None = None

    def __post_init__(self) -> None:
        given = [value is not None for value in (self.coordinator, self.count, self.index)]
        if any(given) and not (self.join and all(given)):
            raise InputError("processes: join, coordinator, count and index go together, or join alone")
