"""Lower bounds of the time of a step, from the peak rates of its devices (Williams et al. 2009, the roofline)."""

from typing import NamedTuple

from deberta_jax.planning.compiled_step import Costs
from deberta_jax.training.chips import Chip


class Bounds(NamedTuple):
    """Seconds that a step takes at least for its products, its memory traffic and its collectives, each alone.

    `mfu` is the model FLOP utilization of a step that takes exactly the longest of the three: an upper bound.
    """

    compute: float
    memory: float
    interconnect: float
    mfu: float

    @property
    def step(self) -> float:
        """The lower bound of the step time: everything overlaps perfectly."""
        return max(self.compute, self.memory, self.interconnect)

    @property
    def limit(self) -> str:
        """What the bound comes from: "compute", "memory" or "interconnect"."""
        return max(("compute", "memory", "interconnect"), key=lambda name: getattr(self, name))


def bounds(chip: Chip, num_devices: int, costs: Costs, *, step_flops: int, model_flops: int) -> Bounds:
    """The bounds of a step; both numbers of FLOPs are for all devices, `step_flops` with recomputation."""
    compute = step_flops / (num_devices * chip.flops)
    memory = costs.memory_bytes / chip.bandwidth
    interconnect = sum(collective.bytes for collective in costs.collectives) / chip.interconnect
    longest = max(compute, memory, interconnect)
    return Bounds(compute, memory, interconnect, model_flops / (num_devices * chip.flops) / longest)
