"""Rough estimates of a configuration from shapes alone. They decide what is compiled first, and are never reported."""

import math

from deberta_jax.config import DebertaConfig, Remat
from deberta_jax.planning.configuration import MeshSizes
from deberta_jax.pretraining.config import PretrainConfig
from deberta_jax.training.chips import CHIPS, Chip

# Forward passes in a step: one, a backward pass of two, and what is recomputed.
_PASSES: dict[Remat, float] = {"none": 3.0, "dots": 3.1, "full": 4.0}
# Values per token, layer and hidden unit that the backward pass reads.
_SAVED: dict[Remat, float] = {"none": 34.0, "dots": 18.0, "full": 2.0}
_GRADIENT_BYTES = 4


def estimated_seconds(
    config: PretrainConfig,
    model: DebertaConfig,
    mesh: MeshSizes,
    chip: Chip | None,
    parameters: int,
    forward_flops: int,
) -> float:
    """Seconds of a step if the FLOPs and the collectives of the mesh do not overlap."""
    chip = chip or CHIPS["v5e"]
    data, fsdp, tensor = mesh
    itemsize = 2 if config.dtype == "bfloat16" else 4
    tokens = config.training.batch_size * config.data.lengths[0] / (data * fsdp)
    # The gradients of one micro-batch and the parameters that fsdp gathers twice; sums of partial products per layer.
    gradients = 2 * _GRADIENT_BYTES * parameters / (fsdp * tensor) * (1 - 1 / data)
    gathered = 3 * itemsize * parameters / tensor * (1 - 1 / fsdp)
    partial = 8 * itemsize * tokens * model.hidden_size * model.num_hidden_layers * (1 - 1 / tensor)
    sent = config.training.accumulate * (gradients + gathered) + partial
    compute = _PASSES[config.remat] * forward_flops / (math.prod(mesh) * chip.flops)
    return compute + sent / chip.interconnect


class Activations:
    """Bytes of temporary memory per sequence on a device, by rematerialization: guesses until a step is compiled."""

    def __init__(self, model: DebertaConfig, config: PretrainConfig):
        itemsize = 2 if config.dtype == "bfloat16" else 4
        unit = config.data.lengths[0] * model.hidden_size * model.num_hidden_layers * itemsize
        self._bytes = {remat: factor * unit for remat, factor in _SAVED.items()}

    def bytes(self, remat: Remat, mesh: MeshSizes, sequences: float) -> float:
        """The temporary memory of this many sequences on a device."""
        return self._bytes[remat] * sequences / mesh.tensor

    def calibrate(self, remat: Remat, mesh: MeshSizes, sequences: float, measured: int) -> None:
        """Use the temporary memory of a compiled step from now on."""
        self._bytes[remat] = max(measured, 1) * mesh.tensor / sequences
