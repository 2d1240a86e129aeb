"""Lower bounds of the time of a step, from the peak rates of its devices (Williams et al. 2009, the roofline)."""

from typing import NamedTuple

from deberta_jax.planning.collectives import is_between_slices
from deberta_jax.planning.compiled_step import Costs
from deberta_jax.training.chips import Chip


class Bounds(NamedTuple):
    """Seconds that a step takes at least for its products, its memory traffic and its collectives, each alone.

    `interconnect` is for collectives within a slice, and `network` for those between slices: 0 for chips whose
    network has an unknown rate. `mfu` is the model FLOP utilization of a step that takes exactly the longest of them:
    an upper bound.
    """

    compute: float
    memory: float
    interconnect: float
    network: float
    mfu: float

    @property
    def step(self) -> float:
        """The lower bound of the step time: everything overlaps perfectly."""
        return max(self.compute, self.memory, self.interconnect, self.network)

    @property
    def limit(self) -> str:
        """What the bound comes from: "compute", "memory", "interconnect" or "network"."""
        return max(("compute", "memory", "interconnect", "network"), key=lambda name: getattr(self, name))


def bounds(chip: Chip, num_devices: int, costs: Costs, *, step_flops: int, model_flops: int) -> Bounds:
    """The bounds of a step; both numbers of FLOPs are for all devices, `step_flops` with recomputation."""
    compute = step_flops / (num_devices * chip.flops)
    memory = costs.memory_bytes / chip.bandwidth
    within, between = (
        sum(collective.bytes for collective in costs.collectives if is_between_slices(collective.kind) == between)
        for between in (False, True)
    )
    limits = compute, memory, within / chip.interconnect, between / chip.network if chip.network else 0.0
    return Bounds(*limits, mfu=model_flops / (num_devices * chip.flops) / max(limits))
