"""Batch k is the same whoever makes it: another start, other hosts, worker processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_text import LENGTH, ToyTokenizer

from deberta_jax.data.batches import Batches, held_out
from deberta_jax.data.masking import Masking
from deberta_jax.data.prepare import read_manifest
from deberta_jax.errors import InputError

VOCABULARY, MASKING = ToyTokenizer().vocabulary(), Masking()
COMMON = {"vocabulary": VOCABULARY, "masking": MASKING}


def take(folder, count, **options):
    with Batches(folder, **{"batch_size": 8, "seed": 3, **COMMON, **options}) as batches:
        return [next(batches) for _ in range(count)]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], strict=True)


def unmasked(batches):
    """Their rows as they were before masking, as hashable things."""
    rows = []
    for batch in batches:
        ids = batch["input_ids"].copy()
        for row, positions, labels, weights in zip(
            ids, batch["masked_positions"], batch["labels"], batch["label_weights"], strict=True
        ):
            row[positions[weights > 0]] = labels[weights > 0]
            if row.any():
                rows.append(row.tobytes())
    return rows


@pytest.fixture(scope="module")
def first(shards):
    return take(shards, 12)


def test_a_batch_has_its_shapes(first):
    slots = MASKING.predictions(LENGTH)
    widths = {"input_ids": LENGTH, "segment_ids": LENGTH, "position_ids": LENGTH}
    widths |= {"masked_positions": slots, "labels": slots, "label_weights": slots}
    for batch in first:
        assert {name: value.shape for name, value in batch.items()} == {n: (8, width) for n, width in widths.items()}
        assert {name for name, value in batch.items() if value.dtype != np.int32} == {"label_weights"}
        assert batch["label_weights"].dtype == np.float32
        assert (batch["input_ids"] == VOCABULARY.mask_id).any(axis=1).all()


def test_the_same_seed_gives_the_same_batches_and_another_does_not(shards, first):
    assert_same(take(shards, 12), first)
    assert unmasked(take(shards, 12, seed=4)) != unmasked(first)


@pytest.mark.parametrize("start", [1, 7, 11])
def test_going_on_at_batch_k_is_never_having_stopped(shards, first, start):
    assert_same(take(shards, 12 - start, start=start), first[start:])


@pytest.mark.parametrize("hosts", [2, 4])
def test_the_hosts_batches_side_by_side_are_the_one_host_batch(shards, first, hosts):
    parts = [take(shards, 5, host_index=host, host_count=hosts, start=2) for host in range(hosts)]
    joined = [{name: np.concatenate([part[k][name] for part in parts]) for name in parts[0][k]} for k in range(5)]
    assert_same(joined, first[2:7])


def test_an_epoch_has_every_row_once_and_the_next_has_another_order_and_other_masks(shards):
    rows = read_manifest(shards).rows
    batches = take(shards, 2 * rows, batch_size=1)
    one, two = unmasked(batches[:rows]), unmasked(batches[rows:])
    assert sorted(one) == sorted(two)
    assert one != two
    masks = {row: batch["masked_positions"].tobytes() for row, batch in zip(one, batches[:rows], strict=True)}
    again = {row: batch["masked_positions"].tobytes() for row, batch in zip(two, batches[rows:], strict=True)}
    assert sum(masks[row] == again[row] for row in masks) < 0.1 * len(masks)


def test_the_rows_of_a_batch_come_from_all_over_the_text(shards):
    rows = unmasked(held_out(shards, batch_size=8, **COMMON))
    places = [rows.index(row) for row in unmasked(take(shards, 4, batch_size=16))]
    assert np.abs(np.diff(places)).mean() > len(rows) / 6


def test_a_step_far_ahead_begins_at_once(shards):
    assert_same(take(shards, 1, start=10**9), take(shards, 2, start=10**9 - 1)[1:])


def test_held_out_rows_come_once_in_order_with_masks_of_their_own(shards):
    batches = held_out(shards, batch_size=7, **COMMON)
    rows = read_manifest(shards).rows
    assert len(batches) == -(-rows // 7)
    assert_same(list(batches), list(held_out(shards, batch_size=7, **COMMON)))
    assert len(unmasked(batches)) == rows
    assert unmasked(batches) == unmasked(held_out(shards, batch_size=16, **COMMON))
    last = batches[len(batches) - 1]
    assert last["input_ids"].shape == (7, LENGTH)
    assert (last["label_weights"].sum(axis=1) > 0).sum() == rows - 7 * (len(batches) - 1)
    assert not last["segment_ids"][-1].any()
    assert_same(list(held_out(shards, batch_size=7, most=2, **COMMON)), list(batches)[:2])


def test_the_hosts_share_the_held_out_rows(shards):
    whole = list(held_out(shards, batch_size=16, **COMMON))
    parts = [list(held_out(shards, batch_size=16, host_index=i, host_count=4, **COMMON)) for i in range(4)]
    joined = [{name: np.concatenate([p[k][name] for p in parts]) for name in whole[k]} for k in range(len(whole))]
    assert_same(joined, whole)


def test_worker_processes_give_the_same_batches_and_leave_nothing_behind(shards, first, tmp_path):
    script = Path(__file__).parents[1] / "support/write_batches.py"
    done = subprocess.run(
        [sys.executable, str(script), str(shards), str(tmp_path / "a.npz")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "leaked" not in done.stderr
    assert "Traceback" not in done.stderr
    with np.load(tmp_path / "a.npz") as found:
        for k in range(5):
            for name, value in first[k + 2].items():
                np.testing.assert_array_equal(found[f"{k}/{name}"], value, strict=True)


def test_a_damaged_shard_is_named(shards, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(shards, folder)
    damaged = folder / "00002-of-00004.arrayrecord"
    os.truncate(damaged, damaged.stat().st_size // 2)
    with pytest.raises(InputError, match=r"00002-of-00004.arrayrecord: damaged"):
        take(folder, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_flipped_bytes_in_a_shard_are_noticed_and_it_is_named(shards, tmp_path, workers):
    folder = tmp_path / "damaged"
    shutil.copytree(shards, folder)
    damaged = folder / "00002-of-00004.arrayrecord"
    content = bytearray(damaged.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    damaged.write_bytes(content)
    with pytest.raises(InputError, match=r"00002-of-00004.arrayrecord: damaged"):
        take(folder, read_manifest(folder).rows // 8 + 1, workers=workers)


def test_what_cannot_be_is_refused(shards, tmp_path):
    for options, message in [
        ({"batch_size": 6, "host_count": 4}, "cannot be shared by 4 hosts"),
        ({"host_index": 2, "host_count": 2}, "counted from 0"),
        ({"vocabulary_sha256": "7" * 64}, "shards of vocabulary"),
    ]:
        with pytest.raises(InputError, match=message):
            take(shards, 1, **options)
    with pytest.raises(InputError, match="prepare them first"):
        take(tmp_path, 1)
