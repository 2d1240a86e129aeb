"""The smallest number of micro-batches that fits, with memory as a function instead of a compiler."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deberta_jax.errors import InputError
from deberta_jax.planning.accumulation import accumulations, first_fit, smallest_accumulation
from deberta_jax.planning.compiled_step import CompiledStep, Memory
from deberta_jax.planning.configuration import config_mesh, with_accumulation

CANDIDATES = [1, 2, 4, 8, 16, 32, 64, 128]


def steps_of(capacity, state, gradients, per_batch, candidates=CANDIDATES):
    """The steps that are compiled, where accumulation needs memory for gradients and divides the activations."""

    def compile_with(number):
        memory = Memory(state, (gradients if number > 1 else 0) + per_batch // number)
        return CompiledStep(memory, memory.peak <= capacity, None, 0.0)

    return smallest_accumulation(candidates, compile_with, capacity), compile_with


@given(*(st.integers(0, limit).map(lambda n: n * 10**6) for limit in (2000, 300, 100, 5000)))
def test_the_smallest_number_that_fits_is_chosen_with_few_compilations(capacity, state, gradients, per_batch):
    steps, compile_with = steps_of(capacity, state, gradients, per_batch)
    fitting = [number for number in CANDIDATES if compile_with(number).fits]
    assert first_fit(steps) == min(fitting, default=None)
    assert len(steps) <= 5


def test_the_largest_number_is_tried_before_giving_up():
    steps, _ = steps_of(capacity=100, state=90, gradients=20, per_batch=1000)
    assert first_fit(steps) is None and max(steps) == 128


def test_numbers_of_micro_batches_divide_the_batch_of_each_device(config, target):
    assert accumulations(config, config_mesh(config, target.topology.devices)) == [1, 2, 4]


def test_a_number_that_does_not_divide_the_batch_is_refused(config, target):
    with pytest.raises(InputError, match="it must be a multiple of 24"):
        config_mesh(with_accumulation(config, 3), target.topology.devices)
