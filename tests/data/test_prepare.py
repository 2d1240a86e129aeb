"""Shards: the same whoever makes them, kept where they stand, refused where they do not belong."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from distributed import LocalCluster
from toy_text import LENGTH, ToyTokenizer, write_texts

from deberta_jax.data.prepare import from_record, prepare, read_manifest
from deberta_jax.data.sources import documents
from deberta_jax.errors import InputError


def rows_of(folder):
    rows = []
    for path in read_manifest(folder).paths(folder):
        reader = ArrayRecordReader(path)
        rows += [from_record(record) for record in reader.read_all()]
        reader.close()
    return rows


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.arrayrecord")}


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts").mkdir()
    return write_texts(tmp_path / "texts")


def test_the_shards_hold_the_text(texts, tmp_path):
    report = prepare(texts, tmp_path / "shards", ToyTokenizer(), length=LENGTH, shards=4)
    rows = rows_of(tmp_path / "shards")
    ids = np.concatenate([row.input_ids for row in rows])
    assert bytes((ids[(ids > 3)] - 4).astype(np.uint8)) == "".join(documents(texts)).encode()
    manifest = report.manifest
    assert manifest == read_manifest(tmp_path / "shards")
    assert (manifest.rows, manifest.documents) == (len(rows), 120)
    assert manifest.tokens == report.tokens == sum(int((row.segment_ids > 0).sum()) for row in rows)
    assert manifest.bytes == report.bytes == len("".join(documents(texts)).encode())
    assert report.megabytes_per_second > 0
    assert len(manifest.shards) == 4
    suffixes = sorted(path.suffix for path in (tmp_path / "shards").glob("[!.]*"))
    assert suffixes == [".arrayrecord"] * 4 + [".json"] * 6


def test_what_stands_is_kept_and_what_is_missing_made_again(texts, tmp_path):
    folder = tmp_path / "shards"
    prepare(texts, folder, ToyTokenizer(), length=LENGTH, shards=4)
    before, content = {path: path.stat().st_mtime_ns for path in folder.glob("*.arrayrecord")}, bytes_of(folder)
    (folder / "manifest.json").unlink()
    lost = folder / "00002-of-00004.arrayrecord"
    lost.unlink()
    seen = []
    report = prepare(
        texts, folder, ToyTokenizer(), length=LENGTH, shards=4, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(4, 4)]
    assert report.bytes == report.manifest.shards[2].bytes
    assert {path for path in before if path.stat().st_mtime_ns != before[path]} == {lost}
    assert bytes_of(folder) == content


def test_a_failure_leaves_no_half_shard_and_is_told(texts, tmp_path):
    (tmp_path / "texts" / "2.txt").write_bytes(b"fine\n\nbad \xff\n")
    with pytest.raises(InputError, match=r"2.txt, byte 10: not UTF-8"):
        prepare(texts, tmp_path / "shards", ToyTokenizer(), length=LENGTH, shards=4)
    with pytest.raises(InputError, match="prepare them first"):
        read_manifest(tmp_path / "shards")
    assert all(path.suffix in {".json", ".arrayrecord"} for path in (tmp_path / "shards").glob("[!.]*"))


@pytest.fixture
def deadly(texts, tmp_path):
    """A folder where killed processes leave their mark."""
    with (tmp_path / "texts" / "1.txt").open("a") as file:
        file.write("\n\nPlease kill me here.\n")
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def test_a_killed_worker_costs_a_retry(texts, deadly, tmp_path):
    tokenizer = ToyTokenizer(marks=str(deadly), kills=1)
    prepare(texts, tmp_path / "many", tokenizer, length=LENGTH, shards=4, workers=2)
    (killed,) = deadly.iterdir()
    assert int(killed.name) != os.getpid()
    prepare(texts, tmp_path / "one", ToyTokenizer(), length=LENGTH, shards=4)
    assert bytes_of(tmp_path / "many") == bytes_of(tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )


def test_text_that_kills_every_worker_is_an_error_and_no_hang(texts, deadly, tmp_path):
    tokenizer = ToyTokenizer(marks=str(deadly), kills=1000)
    with pytest.raises(InputError, match="a shard killed every worker that tried it"):
        prepare(texts, tmp_path / "shards", tokenizer, length=LENGTH, shards=4, workers=2)


def test_bad_text_is_told_by_a_worker_of_a_running_cluster_too(texts, tmp_path):
    (tmp_path / "texts" / "2.txt").write_bytes(b"fine\n\nbad \xff\n")
    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster:
        with pytest.raises(InputError, match=r"2.txt, byte 10: not UTF-8"):
            prepare(texts, tmp_path / "a", ToyTokenizer(), length=LENGTH, shards=4, scheduler=cluster.scheduler_address)
        (tmp_path / "texts" / "2.txt").write_text("Fine again.")
        report = prepare(
            texts, tmp_path / "b", ToyTokenizer(), length=LENGTH, shards=4, scheduler=cluster.scheduler_address
        )
        assert report.manifest.documents == 81


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": ToyTokenizer(sha256="7" * 64)}, "another vocabulary"),
        ({"length": 32}, "another row length"),
        ({"shards": 2}, "another text"),
    ],
)
def test_a_folder_of_other_shards_is_refused(shards, texts, tmp_path, change, message):
    prepare(texts, tmp_path / "shards", ToyTokenizer(), length=LENGTH, shards=4)
    asked = {"tokenizer": ToyTokenizer(), "length": LENGTH, "shards": 4} | change
    with pytest.raises(InputError, match=message):
        prepare(texts, tmp_path / "shards", asked.pop("tokenizer"), **asked)


def test_training_on_shards_of_another_vocabulary_is_refused(shards):
    assert read_manifest(shards, ToyTokenizer().sha256).vocab_size == 261
    with pytest.raises(InputError, match="shards of vocabulary 555555555555, the tokenizer's is 777777777777"):
        read_manifest(shards, "7" * 64)


def test_lost_shards_and_damaged_manifests_are_named_and_preparing_again_mends_them(texts, tmp_path):
    folder = tmp_path / "shards"

    def again():
        return prepare(texts, folder, ToyTokenizer(), length=LENGTH, shards=4)

    whole = again().manifest
    (folder / "00001-of-00004.arrayrecord").unlink()
    with pytest.raises(InputError, match="00001-of-00004"):
        read_manifest(folder)
    assert again().manifest == whole
    for damaged in ("", "[]", "{}", (folder / "manifest.json").read_text()[:100]):
        (folder / "manifest.json").write_text(damaged)
        with pytest.raises(InputError, match="or no manifest"):
            read_manifest(folder)
        report = again()
        assert (report.manifest, report.tokens) == (whole, 0)


def test_text_that_was_copied_elsewhere_is_the_same_text_and_text_of_the_same_size_is_not(texts, tmp_path):
    folder = tmp_path / "shards"
    prepare(texts, folder, ToyTokenizer(), length=LENGTH, shards=4)
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "texts", moved, copy_function=shutil.copyfile)
    files = [str(path) for path in sorted(moved.iterdir())]
    assert prepare(files, folder, ToyTokenizer(), length=LENGTH, shards=4).tokens == 0
    first = moved / "1.txt"
    first.write_bytes(first.read_bytes().swapcase())
    with pytest.raises(InputError, match="another text"):
        prepare(files, folder, ToyTokenizer(), length=LENGTH, shards=4)


def test_a_folder_that_is_being_written_is_left_alone(texts, tmp_path):
    seen = []

    def intrude(done, total):
        with pytest.raises(InputError, match="another process works in this folder"):
            prepare(texts, tmp_path / "shards", ToyTokenizer(), length=LENGTH, shards=4)
        seen.append(done)

    prepare(texts, tmp_path / "shards", ToyTokenizer(), length=LENGTH, shards=4, progress=intrude)
    assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize("wrong", [{"shards": -3}, {"workers": 0}, {"length": 4}])
def test_numbers_that_cannot_be_are_refused(texts, tmp_path, wrong):
    with pytest.raises(InputError, match="it must be at least"):
        prepare(texts, tmp_path / "shards", ToyTokenizer(), **{"length": LENGTH, **wrong})
    assert not (tmp_path / "shards").exists()


def test_files_may_be_named_from_the_working_folder(texts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = prepare(["texts/*.txt"], Path("shards"), ToyTokenizer(), length=LENGTH, shards=2).manifest
    assert one == prepare(texts, tmp_path / "shards", ToyTokenizer(), length=LENGTH, shards=2).manifest
