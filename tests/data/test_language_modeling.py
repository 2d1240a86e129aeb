"""Rows of language models: no position predicts what it sees, and batches of two kinds on any number of hosts."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_text import LENGTH, ToyTokenizer

from deberta_jax.data.batch_share import BatchShare
from deberta_jax.data.batches import BothKinds, MaskSequence, TrainingBatches, TwoKinds, batch_shapes, held_out_batches
from deberta_jax.data.language_modeling import DIRECTIONS, Directions, OrderSequence, order_tokens
from deberta_jax.data.masking import Masking
from deberta_jax.data.packing import pack
from deberta_jax.errors import InputError

PACKINGS = st.lists(st.integers(1, 30), min_size=1, max_size=8)
CLS, SEP = 1, 2


def sequences(lengths, length=24):
    """Packed sequences whose tokens all differ, apart from special tokens."""
    starts = np.cumsum([10, *lengths])
    documents = [np.arange(start, start + size) for start, size in zip(starts, lengths, strict=False)]
    return list(pack(documents, length, cls_id=CLS, sep_id=SEP, pad_id=0))


@pytest.mark.parametrize("direction", DIRECTIONS)
@given(lengths=PACKINGS, seed=st.integers(0, 1000))
def test_no_position_predicts_a_token_that_it_sees(direction, lengths, seed):
    rng, step = np.random.default_rng(seed), -1 if direction == "right_to_left" else 1
    for sequence in sequences(lengths):
        order, labels, weights = order_tokens(*sequence, direction, rng)
        ids, segments = sequence.input_ids, sequence.segment_ids
        predicts = np.flatnonzero(weights)
        assert set(weights.tolist()) <= {0.0, 1.0}
        assert not labels[weights == 0].any()
        for position in predicts.tolist():
            target = position + step
            assert 0 < segments[position] == segments[target]
            assert labels[position] == ids[target]
            # The mask is transitive, so no state that the position reads has seen the target either.
            assert order[target] > order[position]


@given(lengths=PACKINGS, seed=st.integers(0, 1000))
def test_each_direction_predicts_all_tokens_that_have_a_context(lengths, seed):
    rng = np.random.default_rng(seed)
    for sequence in sequences(lengths):
        segments = sequence.segment_ids
        rows = {direction: order_tokens(*sequence, direction, rng) for direction in DIRECTIONS}
        for segment in range(1, segments.max() + 1):
            tokens = np.flatnonzero(segments == segment)
            counts = {name: int(weights[tokens].sum()) for name, (_, _, weights) in rows.items()}
            assert counts["left_to_right"] == counts["right_to_left"] == len(tokens) - 1
            order = rows["sequence_to_sequence"][0][tokens]
            source = int((order == order[0]).sum())
            assert source == 1 if len(tokens) < 3 else 2 <= source < len(tokens)
            # The source sees itself and nothing else; every target token is predicted.
            assert (order[source:] > order[0]).all() and (np.diff(order[source:]) > 0).all()
            assert counts["sequence_to_sequence"] == len(tokens) - source


def test_directions_are_drawn_by_their_shares():
    [sequence, *_] = sequences([22])
    make, rng, number = OrderSequence(Directions(1.0, 0.0, 3.0)), np.random.default_rng(0), 2000
    kinds = [np.sign(np.diff(make(sequence, rng)["order"])[0]) for _ in range(number)]
    # The first tokens of a source are equal.
    assert abs(kinds.count(1) / number - 1 / 4) < 0.03
    assert kinds.count(0) + kinds.count(1) == number
    assert Directions(0.5, 0.25, 0.25).shares() == (0.5, 0.25, 0.25)


@pytest.mark.parametrize(
    "shares", [(0.0, 0.0, 0.0), (1.0, -0.1, 0.0), (float("nan"), 0.0, 1.0), (float("inf"), 1.0, 1.0)]
)
def test_shares_that_are_not_shares_are_refused(shares):
    with pytest.raises(
        InputError, match="shares of directions: .* must be numbers of at least 0, and one of them must be"
    ):
        Directions(*shares)


NAMES = "masked/", "ordered/"
KINDS = MaskSequence(ToyTokenizer().vocabulary(), Masking()), OrderSequence(Directions(1.0, 1.0, 2.0))
TWO_KINDS = TwoKinds(NAMES, KINDS, 1, 4)


def take(folder, count, **options):
    with TrainingBatches(folder, **{"rows": TWO_KINDS, "batch_size": 16, "seed": 3, **options}) as batches:
        return [next(batches) for _ in range(count)]


def assert_same(batches, expected):
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name], strict=True)


@pytest.fixture(scope="module")
def first(shards):
    return take(shards, 7)


def test_a_batch_has_the_rows_of_each_kind_with_their_arrays(first):
    shapes = batch_shapes(TWO_KINDS, LENGTH, 16)
    for batch in first:
        assert {name: (value.shape, value.dtype) for name, value in batch.items()} == shapes
        assert batch["masked/input_ids"].shape == (4, LENGTH)
        assert batch["ordered/order"].shape == (12, LENGTH)
        assert (batch["masked/input_ids"] == ToyTokenizer.mask_id).any(1).all()
        assert not (batch["ordered/input_ids"] == ToyTokenizer.mask_id).any()


@pytest.mark.parametrize("hosts", [2, 4])
def test_the_batches_of_several_hosts_together_equal_those_of_one_host(shards, first, hosts):
    parts = [take(shards, 5, share=BatchShare((host,), hosts), start=2) for host in range(hosts)]
    joined = [{name: np.concatenate([x[name] for x in each]) for name in each[0]} for each in zip(*parts, strict=True)]
    assert_same(joined, first[2:])


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(0, 50))
def test_equal_parts_of_a_batch_have_equal_numbers_of_each_kind(part, others, hosts, number):
    """`part` of `part + others` rows for each host."""
    sequence, rng = sequences([22])[0], np.random.default_rng(0)
    kinds = TwoKinds(("a/", "b/"), (lambda *_: {"x": np.zeros(0)}, lambda *_: {"x": np.zeros(0)}), part, part + others)
    batch_size = hosts * (part + others)
    for host in range(hosts):
        rows = range(host * (part + others), (host + 1) * (part + others))
        names = [name for row in rows for name in kinds(((number * batch_size + row) % batch_size, sequence), rng)]
        assert names.count("a/x") == part and names.count("b/x") == others


def test_worker_processes_give_the_same_batches(shards, first, tmp_path):
    script = Path(__file__).parents[1] / "support/write_batches.py"
    command = [sys.executable, str(script), str(shards), str(tmp_path / "a.npz"), "two kinds"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "a.npz") as arrays:
        written = [{name: arrays[f"{k}/{name}"] for name in first[0]} for k in range(5)]
    assert_same(written, first[2:])


def test_held_out_batches_have_a_row_of_each_kind_for_every_sequence(shards):
    kinds = KINDS[0], OrderSequence(Directions())
    both = list(held_out_batches(shards, BothKinds(NAMES, kinds), batch_size=16))
    assert both[0]["masked/input_ids"].shape == both[0]["ordered/input_ids"].shape == (16, LENGTH)
    ordered = list(held_out_batches(shards, kinds[1], batch_size=16))
    for batch, alone in zip(both, ordered, strict=True):
        for name in alone:
            np.testing.assert_array_equal(batch[f"ordered/{name}"], alone[name])
    again = held_out_batches(shards, BothKinds(NAMES, kinds), batch_size=16, share=BatchShare((1,), 2))
    np.testing.assert_array_equal(again[1]["masked/labels"], both[1]["masked/labels"][8:])
