"""How a run is laid out over devices and time: mesh, rematerialization and micro-batches."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from deberta_jax.config import DebertaConfig, Remat
from deberta_jax.pretraining.config import PretrainConfig
from deberta_jax.sharding import make_mesh
from deberta_jax.training.config import MeshConfig
from deberta_jax.training.step import check_batch_size

# From the fastest to the one that needs the least memory.
REMATS: tuple[Remat, ...] = ("none", "dots", "full")


class MeshSizes(NamedTuple):
    """Devices along the axes of the mesh."""

    data: int
    fsdp: int
    tensor: int

    def __str__(self) -> str:
        axes = zip(self._fields, self, strict=True)
        return " x ".join(f"{name} {size}" for name, size in axes if size > 1) or "1 device"


def config_mesh(config: PretrainConfig, devices: Sequence[Any]) -> Mesh:
    """The mesh of a run over devices; raises InputError if it does not match them, or does not divide the batch."""
    axes = config.training.mesh
    mesh = make_mesh(axes.data, axes.fsdp, axes.tensor, devices=devices)
    check_batch_size(config.training.batch_size, mesh, config.training.accumulate)
    return mesh


def mesh_sizes(mesh: Mesh) -> MeshSizes:
    """The sizes of a mesh."""
    return MeshSizes(**mesh.shape)


def possible_meshes(num_devices: int, batch_size: int, model: DebertaConfig) -> Iterator[MeshSizes]:
    """All meshes of these devices that divide the batch and the heads; more sharding of the state comes later."""
    sizes = [size for size in range(1, num_devices + 1) if num_devices % size == 0]
    for tensor in sizes:
        for fsdp in sizes:
            data = num_devices // (fsdp * tensor)
            divides = batch_size % max(data * fsdp, 1) == 0 and model.num_attention_heads % tensor == 0
            if math.prod((data, fsdp, tensor)) == num_devices and divides:
                yield MeshSizes(data, fsdp, tensor)


def with_mesh(config: PretrainConfig, sizes: MeshSizes) -> PretrainConfig:
    """The same run on another mesh."""
    training = dataclasses.replace(config.training, mesh=MeshConfig(*sizes))
    return dataclasses.replace(config, training=training)


def with_accumulation(config: PretrainConfig, number: int) -> PretrainConfig:
    """The same run with another number of micro-batches."""
    training = dataclasses.replace(config.training, accumulate=number)
    return dataclasses.replace(config, training=training, micro_batch=None)


def with_remat(config: PretrainConfig, remat: Remat) -> PretrainConfig:
    """The same run with another rematerialization."""
    return dataclasses.replace(config, remat=remat)


def configuration_line(config: PretrainConfig, sizes: MeshSizes) -> str:
    """A configuration in a few words."""
    training = config.training
    micro_batch = training.batch_size // training.accumulate
    return f"mesh {sizes}, remat {config.remat}, accumulate {training.accumulate} (micro-batch {micro_batch:,})"


def configuration_options(config: PretrainConfig, sizes: MeshSizes) -> str:
    """The options of `pretrain` that choose a configuration."""
    mesh = " ".join(f"--mesh.{name} {size}" for name, size in zip(sizes._fields, sizes, strict=True))
    return f"{mesh} --remat {config.remat} --accumulate {config.training.accumulate}"
