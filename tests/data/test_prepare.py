"""Shards do not depend on the workers that make them; complete shards are kept, and other shards are rejected."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pytest
from toy_shards import names_in, one_worker, prepare_toy, sequences_in, shard_bytes
from toy_text import ToyTokenizer, write_texts

from deberta_jax.data.manifest import read_manifest
from deberta_jax.data.sources import documents
from deberta_jax.errors import InputError


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts").mkdir()
    return write_texts(tmp_path / "texts")


def test_the_shards_contain_the_text(texts, tmp_path):
    report = prepare_toy(texts, tmp_path / "shards")
    sequences = sequences_in(tmp_path / "shards")
    ids = np.concatenate([sequence.input_ids for sequence in sequences])
    assert bytes((ids[(ids > 3)] - 4).astype(np.uint8)) == "".join(documents(texts)).encode()
    manifest = report.manifest
    assert manifest == read_manifest(tmp_path / "shards")
    assert (manifest.sequences, manifest.documents) == (len(sequences), 120)
    assert manifest.tokens == report.tokens == sum(int((sequence.segment_ids > 0).sum()) for sequence in sequences)
    assert manifest.bytes == report.bytes == len("".join(documents(texts)).encode())
    assert report.megabytes_per_second > 0 and report.speed().endswith("tokens/s")
    assert len(manifest.shards) == 4
    suffixes = sorted(path.suffix for path in (tmp_path / "shards").glob("[!.]*"))
    assert suffixes == [".arrayrecord"] * 4 + [".json"] * 6


def test_complete_shards_are_kept_and_missing_shards_are_made(texts, tmp_path):
    folder = tmp_path / "shards"
    prepare_toy(texts, folder)
    before, content = {path: path.stat().st_mtime_ns for path in folder.glob("*.arrayrecord")}, shard_bytes(folder)
    (folder / "manifest.json").unlink()
    missing, truncated = folder / "00002-of-00004.arrayrecord", folder / "00000-of-00004.arrayrecord"
    missing.unlink()
    os.truncate(truncated, truncated.stat().st_size // 2)
    (folder / "00001-of-00004.arrayrecord.77.partial").write_bytes(b"by a process that was killed")
    calls = []
    report = prepare_toy(texts, folder, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(3, 4), (4, 4)]
    assert report.bytes == sum(report.manifest.shards[index].bytes for index in (0, 2))
    assert {path for path in before if path.stat().st_mtime_ns != before[path]} == {missing, truncated}
    assert shard_bytes(folder) == content
    assert not list(folder.glob("*.partial"))


def test_unreadable_text_is_reported_and_leaves_no_partial_shard(texts, tmp_path):
    (tmp_path / "texts" / "2.txt").write_bytes(b"fine\n\nbad \xff\n")
    with pytest.raises(InputError, match=r"2.txt byte 10: not UTF-8"):
        prepare_toy(texts, tmp_path / "shards")
    with pytest.raises(InputError, match="create it with `deberta-jax prepare`"):
        read_manifest(tmp_path / "shards")
    assert all(path.suffix in {".json", ".arrayrecord"} for path in (tmp_path / "shards").glob("[!.]*"))


@pytest.fixture
def marks(texts, tmp_path):
    """The folder where killed processes leave a file; the text kills every process that reads it."""
    with (tmp_path / "texts" / "1.txt").open("a") as file:
        file.write("\n\nPlease kill me here.\n")
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def test_a_job_whose_worker_dies_is_repeated(texts, marks, tmp_path):
    prepare_toy(texts, tmp_path / "workers", ToyTokenizer(marks=str(marks), kills=1), workers=2)
    (killed,) = marks.iterdir()
    assert int(killed.name) != os.getpid()
    prepare_toy(texts, tmp_path / "one")
    assert shard_bytes(tmp_path / "workers") == shard_bytes(tmp_path / "one")
    assert names_in(tmp_path / "workers") == names_in(tmp_path / "one")


def test_text_that_kills_every_worker_is_an_error(texts, marks, tmp_path):
    tokenizer = ToyTokenizer(marks=str(marks), kills=1000)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        one_worker(processes=True) as scheduler,
        pytest.raises(InputError, match="a shard killed every worker that tried it"),
    ):
        prepare_toy(texts, tmp_path / "shards", tokenizer, scheduler=scheduler)
    assert list(marks.iterdir())


def test_a_worker_of_an_external_scheduler_reports_unreadable_text(texts, tmp_path):
    (tmp_path / "texts" / "2.txt").write_bytes(b"fine\n\nbad \xff\n")
    with one_worker(processes=False) as scheduler:
        with pytest.raises(InputError, match=r"2.txt byte 10: not UTF-8"):
            prepare_toy(texts, tmp_path / "a", scheduler=scheduler)
        (tmp_path / "texts" / "2.txt").write_text("Fine again.")
        assert prepare_toy(texts, tmp_path / "b", scheduler=scheduler).manifest.documents == 81


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": ToyTokenizer(sha256="7" * 64)}, "another vocabulary"),
        ({"length": 32}, "another sequence length"),
        ({"shards": 2}, "another text"),
    ],
)
def test_a_folder_with_other_shards_is_rejected(texts, tmp_path, change, message):
    prepare_toy(texts, tmp_path / "shards")
    with pytest.raises(InputError, match=f"contains shards of {message}"):
        prepare_toy(texts, tmp_path / "shards", **change)


def test_reading_shards_of_another_vocabulary_is_rejected(shards):
    assert read_manifest(shards, ToyTokenizer().sha256).vocab_size == 261
    message = "shards of vocabulary 555555555555, but the tokenizer has vocabulary 777777777777"
    with pytest.raises(InputError, match=message):
        read_manifest(shards, "7" * 64)


def test_a_missing_shard_or_a_damaged_manifest_is_reported_and_repaired_by_preparing_again(texts, tmp_path):
    folder = tmp_path / "shards"
    manifest = prepare_toy(texts, folder).manifest
    (folder / "00001-of-00004.arrayrecord").unlink()
    with pytest.raises(InputError, match="shard 00001-of-00004.arrayrecord is missing"):
        read_manifest(folder)
    assert prepare_toy(texts, folder).manifest == manifest
    for damaged in ("", "[]", "{}", (folder / "manifest.json").read_text()[:100]):
        (folder / "manifest.json").write_text(damaged)
        with pytest.raises(InputError, match="no manifest.json that this version reads"):
            read_manifest(folder)
        report = prepare_toy(texts, folder)
        assert (report.manifest, report.tokens, report.speed()) == (manifest, 0, "already complete")


def test_copied_text_is_the_same_text_and_changed_text_of_the_same_size_is_not(texts, tmp_path):
    folder = tmp_path / "shards"
    prepare_toy(texts, folder)
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "texts", moved, copy_function=shutil.copyfile)
    files = [str(path) for path in sorted(moved.iterdir())]
    assert prepare_toy(files, folder).tokens == 0
    first = moved / "1.txt"
    first.write_bytes(first.read_bytes().swapcase())
    with pytest.raises(InputError, match="another text"):
        prepare_toy(files, folder)


def test_a_folder_that_another_process_writes_is_locked(texts, tmp_path):
    calls = []

    def progress(done, total):
        with pytest.raises(InputError, match="another process is using this folder"):
            prepare_toy(texts, tmp_path / "shards")
        calls.append(done)

    prepare_toy(texts, tmp_path / "shards", progress=progress)
    assert calls == [1, 2, 3, 4]


@pytest.mark.parametrize("options", [{"shards": -3}, {"workers": 0}, {"length": 4}])
def test_options_below_their_minimum_are_rejected(texts, tmp_path, options):
    with pytest.raises(InputError, match="it must be at least"):
        prepare_toy(texts, tmp_path / "shards", **options)
    assert not (tmp_path / "shards").exists()


def test_relative_paths_refer_to_the_working_folder(texts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = prepare_toy(["texts/*.txt"], Path("shards"), shards=2).manifest
    assert manifest == prepare_toy(texts, tmp_path / "shards", shards=2).manifest


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of the memory from /proc")
def test_memory_does_not_grow_with_the_text(tmp_path):
    script, peaks = Path(__file__).parents[1] / "support/peak_memory.py", []
    for megabytes in (4, 16):
        folder = tmp_path / str(megabytes)
        folder.mkdir()
        command = [sys.executable, str(script), str(folder), str(megabytes)]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=100).stdout))
    assert peaks[1] < 1.05 * peaks[0]
