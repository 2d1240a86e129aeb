"""Bounds of the step time, and the table of chips."""

import pytest

from deberta_jax.planning.collectives import Collective
from deberta_jax.planning.compiled_step import Costs
from deberta_jax.planning.roofline import bounds
from deberta_jax.training.chips import CHIPS, Chip, find_chip

CHIP = Chip(("test",), flops=100.0, memory=1, bandwidth=10.0, interconnect=5.0, source="")


def test_the_step_takes_at_least_the_longest_of_compute_memory_and_interconnect():
    costs = Costs(30, (Collective("all-gather", 2, 10), Collective("all-reduce", 1, 30)))
    limits = bounds(CHIP, 4, costs, step_flops=2000, model_flops=1600)
    assert limits[:4] == (5, 3, 8, 0)
    assert limits.step == 8 and limits.limit == "interconnect"
    assert limits.mfu == pytest.approx(1600 / (4 * 100 * 8))


def test_collectives_between_slices_take_the_time_of_the_network():
    costs = Costs(0, (Collective("all-gather", 2, 10), Collective("all-reduce between slices", 1, 30)))
    limits = bounds(CHIP._replace(network=2.0), 4, costs, step_flops=2000, model_flops=1600)
    assert limits[:4] == (5, 0, 2, 15) and limits.limit == "network" and limits.step == 15
    assert bounds(CHIP, 4, costs, step_flops=2000, model_flops=1600).network == 0


def test_without_recomputation_a_step_bound_by_compute_has_full_utilization():
    limits = bounds(CHIP, 1, Costs(0, ()), step_flops=500, model_flops=500)
    assert limits.limit == "compute" and limits.mfu == 1


@pytest.mark.parametrize("name", CHIPS)
def test_each_chip_is_identified_by_its_kinds_and_has_a_source(name):
    chip = CHIPS[name]
    assert all(find_chip(kind) == chip for kind in chip.kinds)
    assert chip.source and min(chip.flops, chip.memory, chip.bandwidth, chip.interconnect) > 0
    # What the last three columns have in common: memory is read faster than links send.
    assert chip.flops > chip.bandwidth > chip.interconnect
