"""The options of a run. This module does not import JAX, so that `--help` is fast."""

import dataclasses
from typing import Literal

from deberta_jax.errors import InputError, check_at_least, check_fraction

OptimizerName = Literal["adamw", "microsoft_adam", "radam", "admax"]
ScheduleName = Literal[
    "linear",
    "cosine",
    "constant",
    "wsd",
    "warmup_linear",
    "warmup_linear_shift",
    "warmup_cosine",
    "warmup_linear_cosine",
    "warmup_cyclic_linear_cosine",
    "warmup_constant",
]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer, learning-rate schedule and gradient clipping."""

    name: OptimizerName = "adamw"
    """Optimizer: adamw, or microsoft_adam, radam or admax to reproduce a run of the original."""
    learning_rate: float = 5e-4
    """Peak learning rate."""
    schedule: ScheduleName = "linear"
    """Learning-rate schedule; wsd is warmup-stable-decay, the names that begin with warmup_ are the original's."""
    warmup: float = 0.1
    """Warm-up: a fraction of the run if below 1, otherwise a number of steps."""
    decay_steps: float = 0.1
    """wsd: decay at the end, a fraction of the run if below 1, otherwise a number of steps; 0 is none. May change."""
    final_scale: float = 0.0
    """Learning rate at the end of the schedule, as a fraction of the peak."""
    weight_decay: float = 0.01
    """Decoupled weight decay; biases and layer-norm scales are excluded."""
    beta1: float = 0.9
    """Decay rate of the first moment."""
    beta2: float = 0.999
    """Decay rate of the second moment."""
    epsilon: float = 1e-6
    """Term added to the denominator of the update."""
    clip_norm: float = 1.0
    """Global gradient norm above which gradients are scaled down; 0 disables clipping."""
    lookahead: int = 0
    """Updates between two synchronizations with lookahead's slow weights; 0 disables lookahead."""
    layer_decay: float = 1.0
    """Factor on the learning rate per layer below the head; 1 gives all layers the same rate."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "warmup", "decay_steps", "weight_decay", "epsilon", "clip_norm", "lookahead"):
            check_at_least(f"optimizer.{name}", getattr(self, name), 0)
        if self.schedule != "wsd" and self.decay_steps != OptimizerConfig.decay_steps:
            raise InputError(
                f"optimizer.decay_steps is set, but optimizer.schedule is {self.schedule}; add --optimizer.schedule wsd"
            )
        for name in ("beta1", "beta2"):
            check_fraction(f"optimizer.{name}", getattr(self, name))
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"optimizer.layer_decay is {self.layer_decay}; it must be in (0, 1]")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Numbers of devices along the axes of the mesh; one of them may be -1, which means all remaining devices."""

    data: int = -1
    """Devices that split the batch."""
    fsdp: int = 1
    """Devices that split the batch, the parameters and the optimizer state."""
    tensor: int = 1
    """Devices that split each matrix product."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Length of a run, batches, optimizer, devices, and intervals of evaluations and checkpoints."""

    steps: int = 1000
    """Training steps; a finished run can be extended with a larger number."""
    batch_size: int = 32
    """Examples (packed sequences in pretraining) per step, over all devices and micro-batches."""
    accumulate: int = 1
    """Micro-batches per step; more of them need less memory."""
    seed: int = 0
    """Seed of the initial parameters, the data order, masking and dropout."""
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    evaluate_every: int = 100
    """Steps between evaluations on held-out data."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    keep: int = 2
    """Number of latest checkpoints to keep."""
    keep_every: int = 0
    """Also keep the checkpoints of steps divisible by this number; 0 keeps only the latest ones."""
    stop_after: int = 10
    """Consecutive steps with a non-finite loss or gradient after which the run stops with an error."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "evaluate_every", "checkpoint_every", "keep", "stop_after"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("steps", "seed", "keep_every"):
            check_at_least(name, getattr(self, name), 0)
