"""What the devices of a mesh send to each other in a step of the 1.5 B model: parameters and gradients only."""

import dataclasses
import math
import re
from collections import Counter

import jax
import pytest

from deberta_jax.planning.collectives import group_size
from deberta_jax.planning.hlo import parse_program
from deberta_jax.pretraining.program import abstract_step, model_to_train
from deberta_jax.pretraining.recipes import recipe
from deberta_jax.sharding import make_mesh

ROWS, LENGTH = 16, 512


def compiled(mesh):
    """The step of the 1.5 B model with 16 sequences, and its abstract state."""
    config = recipe("v2-xxlarge")
    # The implementation without a loop over heads, as on GPU.
    config = dataclasses.replace(
        config, attention="xla", training=dataclasses.replace(config.training, batch_size=ROWS, accumulate=1)
    )
    abstract = abstract_step(config, model_to_train(config), make_mesh(*mesh))
    return abstract.step.lower(abstract.state, abstract.batch).compile(), abstract.state


def sent_arrays(program):
    """How often each kind of collective sends an array of a type and shape."""
    counts = Counter()
    for _, instruction, times in parse_program(program.as_text()).executed():
        kind = instruction.opcode.removesuffix("-start")
        is_collective = re.fullmatch(r"all-(gather|reduce|to-all)|reduce-scatter|collective-permute", kind)
        if is_collective and group_size(instruction, 8) > 1:
            for array in instruction.arrays:
                counts[kind, array.dtype, array.sizes] += times
    return counts


def large(counts, kind):
    """The arrays of a kind with at least a hundred thousand elements, and how often they are sent."""
    return Counter({sizes: n for (name, _, sizes), n in counts.items() if name == kind and math.prod(sizes) > 100_000})


def without_order(counts):
    """Counts of shapes whose axes may have another order: XLA transposes some gradients."""
    numbers = Counter()
    for shape, number in counts.items():
        numbers[tuple(sorted(shape))] += number
    return numbers


def elements(counts):
    return sum(times * math.prod(sizes) for sizes, times in counts.items())


@pytest.fixture(scope="module")
def sharded():
    """The collectives of the 1.5 B step with parameters over eight devices, and its abstract state."""
    program, state = compiled((1, 8, 1))
    return sent_arrays(program), state


def kernels(state):
    """The shapes of the large parameters of a layer and the number of each."""
    layers = state.model.deberta.encoder.layers
    shapes = (x.shape[1:] for x in jax.tree.leaves(layers))
    return Counter(shape for shape in shapes if math.prod(shape) > 100_000)


def test_each_parameter_is_gathered_twice_and_no_activation(sharded):
    counts, state = sharded
    gathered = large(counts, "all-gather")
    # The forward pass and its repetition in the backward pass. The decoder runs the last layer twice: what it gathers
    # stays, so the encoder's 47 layers count twice and that layer once.
    for shape, number in kernels(state).items():
        assert gathered.pop(shape) == number * (2 * 47 + 1)
    rows = 511
    assert gathered == {
        (128_100, 1536): 1,  # words, for the logits
        (1536, 1536): 1,  # dense layer of the head
        (3, 1536, 1, 1536): 1,  # convolution
        (rows, 1536): 2,  # relative table, for the scan and for the decoder
    }


def test_each_gradient_is_reduced_once(sharded):
    counts, state = sharded
    reduced, parameters = large(counts, "all-reduce"), sum(x.size for x in jax.tree.leaves(state.model))
    # One reduction for each layer, and one more for the last layer, whose gradients the decoder adds up.
    numbers, expected = without_order(reduced), without_order(kernels(state))
    assert {shape: numbers[shape] for shape in expected} == {shape: 49 * n for shape, n in expected.items()}
    assert reduced[128_100, 1536] == reduced[1536, 1536] == 1
    # The rest are gradients of the projected relative table.
    assert elements(reduced) < 1.07 * parameters
    assert not large(counts, "reduce-scatter") and not large(counts, "collective-permute")


def test_sequences_move_only_for_their_embeddings(sharded):
    counts, _ = sharded
    each = ROWS // 8
    assert set(large(counts, "all-to-all")) == {(each, LENGTH, 192)}
    tokens = {ROWS * LENGTH, each * LENGTH}
    for kind in ("all-gather", "all-reduce"):
        assert not [shape for shape in large(counts, kind) if LENGTH in shape or tokens & set(shape)]


def test_tensor_parallel_products_are_summed_for_the_own_sequences():
    program, state = compiled((2, 2, 2))
    counts = sent_arrays(program)
    gathered, reduced = large(counts, "all-gather"), large(counts, "all-reduce")
    parameters, rows = sum(x.size for x in jax.tree.leaves(state.model)), ROWS // 4
    # Between products the states are split over the sequence: before each pair of products they are gathered, two times
    # in the forward pass, in its repetition and in the backward pass.
    assert gathered.pop((rows, LENGTH, 1536)) <= 6 * 47.5 + 1
    assert elements(gathered) < 1.01 * parameters
    # Two sums in a forward pass, which is repeated, and four in the backward pass, where one is for each projection.
    assert reduced[rows * LENGTH, 1536] <= 8 * 47.5
    for shape in (*gathered, *reduced):
        assert ROWS not in shape and ROWS * LENGTH not in shape


def test_the_program_has_the_same_size_for_any_depth():
    sizes = []
    for layers in (6, 48):
        config = recipe("v2-xlarge")
        model = dataclasses.replace(model_to_train(config), num_hidden_layers=layers)
        abstract = abstract_step(config, model, make_mesh(fsdp=8, data=1))
        sizes.append(len(abstract.step.lower(abstract.state, abstract.batch).as_text()))
    assert max(sizes) < 1.01 * min(sizes)
