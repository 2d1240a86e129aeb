"""A mixture has the shares that were given, and the guarantees of a single folder: any start, any number of hosts."""

import subprocess
import sys
from pathlib import Path

import grain
import numpy as np
import pytest
from toy_batches import assert_same, join_hosts, take, unmasked
from toy_text import LENGTH, ToyTokenizer, write_texts

from deberta_jax.data.batch_share import BatchShare
from deberta_jax.data.batches import MaskSequence, held_out_batches
from deberta_jax.data.manifest import read_manifest
from deberta_jax.data.masking import Masking
from deberta_jax.data.mixture import PERIOD, Mixture, Source, temperature_weights
from deberta_jax.data.packing import PackedSequence
from deberta_jax.data.prepare import prepare
from deberta_jax.errors import InputError

ROWS = MaskSequence(ToyTokenizer().vocabulary(), Masking())


@pytest.fixture(scope="module")
def sources(shards, tmp_path_factory):
    """A large source with weight 3, and a small one with weight 1 whose text is in capitals."""
    texts, folder = tmp_path_factory.mktemp("texts"), tmp_path_factory.mktemp("small")
    write_texts(texts, files=1, documents=20)
    for path in texts.iterdir():
        path.write_text(path.read_text().upper())
    prepare([str(texts / "*.txt")], folder, ToyTokenizer(), length=LENGTH, shards=2)
    return Source("large", shards, 3.0), Source("small", folder, 1.0)


@pytest.fixture(scope="module")
def first(sources):
    return take(sources, 40)


def is_small(sequence):
    ids = np.frombuffer(sequence, np.int32)
    return not (ids >= 4 + ord("a")).any()


def test_batches_depend_on_the_seed_and_their_number_only(sources, first):
    assert_same(take(sources, 40), first)
    assert_same(take(sources, 3, start=37), first[37:])
    assert unmasked(take(sources, 5, seed=4)) != unmasked(first[:5])
    assert_same(take(sources, 1, start=10**9), take(sources, 2, start=10**9 - 1)[1:])


def test_several_hosts_and_worker_processes_have_the_same_batches(sources, first, tmp_path):
    parts = [take(sources, 5, share=BatchShare((host,), 4), start=2) for host in range(4)]
    assert_same(join_hosts(parts), first[2:7])
    script = Path(__file__).parents[1] / "support/write_batches.py"
    folders = [str(source.folder) for source in sources]
    command = [sys.executable, str(script), folders[0], str(tmp_path / "a.npz"), "mixture", folders[1]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "a.npz") as arrays:
        for k in range(5):
            for name, value in first[k + 2].items():
                np.testing.assert_array_equal(arrays[f"{k}/{name}"], value, strict=True)


def test_the_sources_have_their_shares_and_their_own_epochs(sources, first):
    sequences = unmasked(first)
    small = [sequence for sequence in sequences if is_small(sequence)]
    # 320 draws with a share of 1/4: the standard deviation is below 8.
    assert abs(len(small) - 80) < 32
    count = read_manifest(sources[1].folder).sequences
    epochs = [small[i : i + count] for i in range(0, len(small) - count, count)]
    assert len(epochs) > 1
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert epochs[0] != epochs[1]
    large = [sequence for sequence in sequences if not is_small(sequence)]
    whole = unmasked(held_out_batches(sources[0].folder, ROWS, batch_size=8))
    assert sorted(large[: len(whole)]) == sorted(whole)


def test_a_period_has_the_exact_shares():
    one = np.ones(1, np.int32)
    numbers = [grain.MapDataset.range(10**8).map(lambda i: PackedSequence(one * np.int32(i), one))] * 3
    mixture = Mixture(numbers, [0.7, 0.3, 1e-9], seed=0)
    counts = np.bincount(mixture._source_of, minlength=3)
    assert counts.tolist() == [round(0.7 * (PERIOD - 3)) + 1, round(0.3 * (PERIOD - 3)) + 1, 1]
    drawn = [mixture[i].input_ids[0] for i in np.flatnonzero(mixture._source_of == 0)[[0, 1, -1]].tolist()]
    assert drawn == [0, 1, counts[0] - 1]
    assert mixture[int(np.flatnonzero(mixture._source_of == 2)[0]) + 5 * PERIOD].input_ids[0] == 5
    with pytest.raises(InputError, match="they must be positive"):
        Mixture(numbers, [1.0, 0.0, 1.0], seed=0)


def test_held_out_sequences_come_once_and_begin_with_the_shares(sources):
    batches = list(held_out_batches(sources, ROWS, batch_size=8))
    sequences = unmasked(batches)
    alone = [unmasked(held_out_batches(source.folder, ROWS, batch_size=8)) for source in sources]
    assert sorted(sequences) == sorted(alone[0] + alone[1])
    assert sum(map(is_small, sequences[:16])) == 4
    assert_same(list(held_out_batches(sources, ROWS, batch_size=8, limit=2)), batches[:2])
    parts = [list(held_out_batches(sources, ROWS, batch_size=8, share=BatchShare((i,), 2))) for i in range(2)]
    assert_same(join_hosts(parts), batches)


def test_temperature_raises_the_share_of_small_languages():
    sizes = {"en": 1000, "sw": 10}
    assert temperature_weights(sizes, 1.0) == pytest.approx({"en": 1000 / 1010, "sw": 10 / 1010})
    assert temperature_weights(sizes, 0.0) == pytest.approx({"en": 0.5, "sw": 0.5})
    assert temperature_weights(sizes, 0.3)["sw"] == pytest.approx(10**0.3 / (10**0.3 + 1000**0.3))
