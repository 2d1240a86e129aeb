"""The options of `deberta-jax plan`: those of `pretrain`, the devices, and what to report. Does not import JAX."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from deberta_jax.errors import check_at_least
from deberta_jax.pretraining import recipes
from deberta_jax.pretraining.config import PretrainConfig

RECIPES = recipes.RECIPES
Selection = recipes.Selection


@dataclass(frozen=True)
class PlanConfig:
    """Compile the step of a pretraining run for devices that you do not have, and report what it needs.

    Reports memory, FLOPs, traffic, collectives, and lower bounds of time and cost. Reads no text and allocates nothing.
    All options of `pretrain` are accepted.
    """

    topology: str = "local"
    """Devices: local, a TPU slice such as v5e:4x4 (extra tpu), or GPUs of a host such as h100:8 (extra cuda)."""
    slices: int = 1
    """TPU slices of this topology, connected by the data-center network; --mesh.data goes across them."""
    price: float | None = None
    """Dollars per chip and hour, to report the cost of the run."""
    search: bool = False
    """Rank meshes, rematerialization and micro-batches that fit, instead of the configuration given."""
    output: Path | None = None
    """JSON file to write."""
    plot: Path | None = None
    """PNG file to write: memory by configuration."""
    pretrain: Annotated[PretrainConfig, tyro.conf.arg(name="")] = field(default_factory=PretrainConfig)

    def __post_init__(self) -> None:
        check_at_least("price", self.price, 0)
        check_at_least("slices", self.slices, 1)


def recipe(name: str, selection: Selection | None = None) -> PlanConfig:
    """The options that a recipe of `pretrain` starts with."""
    return PlanConfig(pretrain=recipes.recipe(name, selection))
