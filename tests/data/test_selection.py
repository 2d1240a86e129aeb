"""The selection of documents does not depend on the workers, is resumed, and is part of what a folder contains."""

import sys

import numpy as np
import pytest
from toy_shards import names_in, one_worker, prepare_toy, sequences_in, shard_bytes
from toy_text import ToyTokenizer

from deberta_jax.data import selection as selection_module
from deberta_jax.data.fingerprints import minhash
from deberta_jax.data.manifest import read_manifest
from deberta_jax.data.selection import Selection
from deberta_jax.errors import InputError

WORDS = [f"{first}{last}" for first in ("bar", "cel", "dom", "fen", "gul", "hap", "jit") for last in "aeioumnrst"]
NEAR = Selection(filter="gopher", deduplicate="near")


def article(number):
    """70 words, in another order for each number."""
    return " ".join([*np.random.default_rng(number).permutation(WORDS), "end", str(number)])


@pytest.fixture
def texts(tmp_path):
    """Three files of articles: the second repeats an article of the first, and the third has a changed copy."""
    folder = tmp_path / "texts"
    folder.mkdir()
    documents = [[article(10 * file + i) for i in range(8)] for file in range(3)]
    documents[1][3] = documents[0][2].upper().replace(" ", "  ")
    documents[2][5] = documents[0][4] + " and more"
    documents[2][6] = "Too short."
    for name, parts in zip("abc", documents, strict=True):
        (folder / f"{name}.txt").write_text("\n\n".join(parts))
    return [str(folder / "*.txt")]


def text_in(folder):
    ids = [token for sequence in sequences_in(folder) for token in sequence.input_ids if token > 3]
    return bytes(token - 4 for token in ids).decode()


def test_the_first_of_similar_documents_stays_and_reasons_are_counted(texts, tmp_path):
    everything = prepare_toy(texts, tmp_path / "all")
    report = prepare_toy(texts, tmp_path / "near", selection=NEAR)
    assert report.manifest.dropped == {"length": 1, "exact duplicate": 1, "near duplicate": 1}
    assert report.manifest == read_manifest(tmp_path / "near")
    assert (everything.manifest.documents, report.manifest.documents) == (24, 21)
    remaining = text_in(tmp_path / "all")
    for dropped in (article(2).upper().replace(" ", "  "), article(4) + " and more", "Too short."):
        assert dropped in remaining
        remaining = remaining.replace(dropped, "")
    assert text_in(tmp_path / "near") == remaining


@pytest.mark.parametrize(
    ("selection", "dropped"),
    [
        (Selection(deduplicate="exact"), {"exact duplicate": 1}),
        (Selection(filter="gopher"), {"length": 1}),
        (Selection(deduplicate="near", similarity=1.0), {"exact duplicate": 1}),
    ],
)
def test_each_part_of_the_selection_works_alone(texts, tmp_path, selection, dropped):
    assert prepare_toy(texts, tmp_path / "shards", selection=selection).manifest.dropped == dropped


def test_without_a_selection_nothing_but_the_shards_is_written(texts, tmp_path):
    prepare_toy(texts, tmp_path / "shards")
    assert not (tmp_path / "shards" / "documents").exists()
    assert "dropped" not in (tmp_path / "shards" / "manifest.json").read_text()


def test_workers_and_the_number_of_parts_do_not_change_the_documents(texts, tmp_path):
    prepare_toy(texts, tmp_path / "one", selection=NEAR)
    prepare_toy(texts, tmp_path / "two", selection=NEAR, workers=2)
    prepare_toy(texts, tmp_path / "few", selection=NEAR, shards=2)
    with one_worker(processes=False) as scheduler:
        prepare_toy(texts, tmp_path / "cluster", selection=NEAR, scheduler=scheduler)
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "two") == shard_bytes(tmp_path / "cluster")
    assert names_in(tmp_path / "one" / "documents") == names_in(tmp_path / "two" / "documents")
    assert text_in(tmp_path / "few") == text_in(tmp_path / "one")


def test_an_interrupted_selection_is_resumed(texts, tmp_path, monkeypatch):
    prepare_toy(texts, tmp_path / "expected", selection=NEAR)
    folder, examined = tmp_path / "shards", []
    original = selection_module._examined

    def stop(document, selection, kind):
        examined.append(document)
        if len(examined) == 14:
            raise KeyboardInterrupt
        return original(document, selection, kind)

    monkeypatch.setattr(selection_module, "_examined", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare_toy(texts, folder, selection=NEAR)
    calls = []
    report = prepare_toy(texts, folder, selection=NEAR, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (8, 8)
    # The documents of complete parts were not examined again.
    assert len(examined) < 14 + 24
    assert shard_bytes(folder) == shard_bytes(tmp_path / "expected")
    count = len(examined)
    assert prepare_toy(texts, folder, selection=NEAR).manifest == report.manifest
    assert len(examined) == count


def test_another_selection_needs_another_folder(texts, tmp_path):
    prepare_toy(texts, tmp_path / "shards", selection=NEAR)
    for selection in (Selection(), Selection(deduplicate="exact")):
        with pytest.raises(InputError, match="contains shards of another selection of documents"):
            prepare_toy(texts, tmp_path / "shards", selection=selection)


def test_a_selection_that_drops_everything_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("Short.\n\nShort too.")
    with pytest.raises(InputError, match=r"a.txt: the selection drops all text \(length 2\)"):
        prepare_toy([str(tmp_path / "a.txt")], tmp_path / "shards", ToyTokenizer(), selection=NEAR)


@pytest.mark.parametrize("options", [{"similarity": 0.1}, {"shingle": 0}])
def test_invalid_options_are_rejected(options):
    with pytest.raises(InputError, match="it must be"):
        Selection(**options)


def test_a_missing_library_is_reported_before_any_text_is_read(texts, tmp_path, monkeypatch):
    minhash.cache_clear()
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(InputError, match="near-duplicate removal requires datasketch; pip install"):
        prepare_toy(texts, tmp_path / "shards", selection=NEAR)
    assert not list((tmp_path / "shards").rglob("*.documents"))
