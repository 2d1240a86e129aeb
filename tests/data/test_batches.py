"""Batch k is the same from any start, on any number of hosts, and from threads or worker processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_batches import COMMON, MASKING, VOCABULARY, assert_same, join_hosts, take, unmasked
from toy_text import LENGTH

from deberta_jax.data.batch_share import BatchShare
from deberta_jax.data.batches import held_out_batches
from deberta_jax.data.manifest import read_manifest
from deberta_jax.errors import InputError


@pytest.fixture(scope="module")
def first(shards):
    return take(shards, 12)


@pytest.fixture(scope="module")
def held_out(shards):
    return list(held_out_batches(shards, batch_size=16, **COMMON))


def test_a_batch_has_its_shapes(first):
    slots = MASKING.slots(LENGTH)
    widths = dict.fromkeys(("input_ids", "segment_ids", "position_ids"), LENGTH)
    widths |= dict.fromkeys(("masked_positions", "labels", "label_weights"), slots)
    for batch in first:
        assert {name: value.shape for name, value in batch.items()} == {n: (8, width) for n, width in widths.items()}
        assert {name for name, value in batch.items() if value.dtype != np.int32} == {"label_weights"}
        assert batch["label_weights"].dtype == np.float32
        assert (batch["input_ids"] == VOCABULARY.mask_id).any(axis=1).all()


def test_the_seed_determines_the_batches(shards, first):
    assert_same(take(shards, 12), first)
    assert unmasked(take(shards, 12, seed=4)) != unmasked(first)


@pytest.mark.parametrize("start", [1, 7, 11])
def test_starting_at_batch_k_equals_an_uninterrupted_stream(shards, first, start):
    assert_same(take(shards, 12 - start, start=start), first[start:])


@pytest.mark.parametrize("hosts", [2, 4])
def test_the_batches_of_several_hosts_together_equal_those_of_one_host(shards, first, hosts):
    parts = [take(shards, 5, share=BatchShare((host,), hosts), start=2) for host in range(hosts)]
    assert_same(join_hosts(parts), first[2:7])


@pytest.mark.parametrize("parts", [(0, 3), (5, 1, 2)])
def test_a_host_may_have_parts_that_are_not_beside_each_other(shards, first, parts):
    rows = [row for part in sorted(parts) for row in range(4 * part, 4 * part + 4)]
    for batch, whole in zip(
        take(shards, 3, batch_size=24, share=BatchShare(parts, 6)), take(shards, 3, batch_size=24), strict=True
    ):
        for name, values in batch.items():
            np.testing.assert_array_equal(values, whole[name][rows], strict=True)


def test_no_sequence_is_lost_or_repeated_when_the_number_of_hosts_changes(shards):
    count, size = read_manifest(shards).sequences, 8
    steps = count // size
    batches = []
    # Stopped and resumed twice within an epoch, each time with another number of hosts.
    for hosts, start, end in ((4, 0, steps // 3), (1, steps // 3, steps // 2), (2, steps // 2, steps)):
        for host in range(hosts):
            share = BatchShare((host,), hosts)
            batches += take(shards, end - start, batch_size=size, share=share, start=start)
    assert sorted(unmasked(batches)) == sorted(unmasked(take(shards, steps, batch_size=size)))


def test_an_epoch_has_every_sequence_once_and_the_next_has_another_order_and_other_masks(shards):
    count = read_manifest(shards).sequences
    batches = take(shards, 2 * count, batch_size=1)
    one, two = unmasked(batches[:count]), unmasked(batches[count:])
    assert sorted(one) == sorted(two)
    assert one != two
    masks, others = (
        {sequence: batch["masked_positions"].tobytes() for sequence, batch in zip(sequences, epoch, strict=True)}
        for sequences, epoch in ((one, batches[:count]), (two, batches[count:]))
    )
    assert sum(masks[sequence] == others[sequence] for sequence in masks) < 0.1 * len(masks)


def test_the_sequences_of_a_batch_come_from_the_whole_text(shards, held_out):
    sequences = unmasked(held_out)
    positions = [sequences.index(sequence) for sequence in unmasked(take(shards, 4, batch_size=16))]
    assert np.abs(np.diff(positions)).mean() > len(sequences) / 6


def test_a_late_start_is_reached_directly(shards):
    assert_same(take(shards, 1, start=10**9), take(shards, 2, start=10**9 - 1)[1:])


def test_held_out_sequences_come_once_in_order_with_fixed_masks(shards, held_out):
    batches = held_out_batches(shards, batch_size=7, **COMMON)
    count = read_manifest(shards).sequences
    assert len(batches) == -(-count // 7)
    all_batches = list(batches)
    assert_same([batches[k] for k in (0, len(batches) - 1)], [all_batches[0], all_batches[-1]])
    assert len(unmasked(all_batches)) == count
    assert unmasked(all_batches) == unmasked(held_out)
    # The mask of a sequence does not depend on the size of a batch.
    for name in held_out[0]:
        first, second = (
            np.concatenate([batch[name] for batch in listed])[:count] for listed in (all_batches, held_out)
        )
        np.testing.assert_array_equal(first, second)
    last = all_batches[-1]
    assert last["input_ids"].shape == (7, LENGTH)
    assert (last["label_weights"].sum(axis=1) > 0).sum() == count - 7 * (len(batches) - 1)
    assert not last["segment_ids"][-1].any()
    assert_same(list(held_out_batches(shards, batch_size=7, limit=2, **COMMON)), all_batches[:2])


def test_several_hosts_share_the_held_out_sequences(shards, held_out):
    parts = [list(held_out_batches(shards, batch_size=16, share=BatchShare((i,), 4), **COMMON)) for i in range(4)]
    assert_same(join_hosts(parts), held_out)


def test_worker_processes_give_the_same_batches_and_stop_cleanly(shards, first, tmp_path):
    script = Path(__file__).parents[1] / "support/write_batches.py"
    done = subprocess.run(
        [sys.executable, str(script), str(shards), str(tmp_path / "a.npz")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "leaked" not in done.stderr
    assert "Traceback" not in done.stderr
    with np.load(tmp_path / "a.npz") as arrays:
        for k in range(5):
            for name, value in first[k + 2].items():
                np.testing.assert_array_equal(arrays[f"{k}/{name}"], value, strict=True)


@pytest.fixture
def copied(shards, tmp_path):
    """A copy of the shards, and the path of one of them."""
    folder = tmp_path / "damaged"
    shutil.copytree(shards, folder)
    return folder, folder / "00002-of-00004.arrayrecord"


def test_more_shards_than_files_may_be_open_are_not_damaged(copied, monkeypatch):
    folder, _ = copied

    def refuse(path):
        raise RuntimeError(f"open() failed: Too many open files; opening {path}")

    monkeypatch.setattr("deberta_jax.data.records.ArrayRecordReader", refuse)
    with pytest.raises(InputError, match="00000-of-00004.arrayrecord: too many open files; raise the limit"):
        take(folder, 1)


def test_a_truncated_shard_is_named(copied):
    folder, damaged = copied
    os.truncate(damaged, damaged.stat().st_size // 2)
    with pytest.raises(InputError, match=r"00002-of-00004.arrayrecord: damaged"):
        take(folder, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_flipped_bytes_in_a_shard_are_detected_and_the_shard_is_named(copied, workers):
    folder, damaged = copied
    content = bytearray(damaged.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    damaged.write_bytes(content)
    with pytest.raises(InputError, match=r"00002-of-00004.arrayrecord: damaged"):
        take(folder, read_manifest(folder).sequences // 8 + 1, workers=workers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 6, "share": BatchShare((0,), 4)}, "6 sequences cannot be split into 4 equal parts"),
        ({"share": BatchShare((2,), 2)}, r"parts \[2\] of a batch were requested; they must be from 0 to 1"),
        ({"vocabulary_sha256": "7" * 64}, "shards of vocabulary"),
    ],
)
def test_invalid_options_are_rejected(shards, options, message):
    with pytest.raises(InputError, match=message):
        take(shards, 1, **options)


def test_a_folder_without_shards_is_rejected(tmp_path):
    with pytest.raises(InputError, match="create it with `deberta-jax prepare`"):
        take(tmp_path, 1)
