import json
import pickle

import pytest
from hypothesis import given, settings
from toy_tokenizers import (
    ANY_TEXT,
    TEXT,
    byte_pair_merges,
    gpt2_files,
    merged,
    microsoft_ids,
    words,
    write_bpe_encoder,
    write_byte_pair,
)

import deberta_jax as dj
from deberta_jax.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("v1")
    write_byte_pair(folder)
    return folder


@pytest.fixture(scope="module")
def v1(folder):
    return dj.Tokenizer(folder)


@pytest.fixture(scope="module")
def ranks():
    return {pair: rank for rank, pair in enumerate(byte_pair_merges())}


@settings(max_examples=300, deadline=None)
@given(ANY_TEXT)
def test_ids_are_those_of_merging_in_the_order_of_the_merges(v1, ranks, text):
    ids = microsoft_ids(gpt2_files()[0])
    assert v1.encode(text).tolist() == [ids[part] for word in words(text) for part in merged(word, ranks)]


def test_pairs_are_merged_in_english_text(v1):
    assert len(v1.encode(TEXT)) < 0.6 * len(TEXT)


@pytest.mark.parametrize("as_text", [True, False])
def test_microsofts_file_gives_the_ids_of_the_two_files(v1, tmp_path, as_text):
    write_bpe_encoder(tmp_path / "bpe_encoder.bin", as_text)
    microsoft = dj.Tokenizer(tmp_path)
    assert microsoft.sha256 == v1.sha256
    assert (microsoft.vocab_size, microsoft.special_ids) == (v1.vocab_size, v1.special_ids)
    assert (microsoft.encode(TEXT + "[MASK]") == v1.encode(TEXT + "[MASK]")).all()


@pytest.mark.shared
def test_gpt2s_own_files_are_read(shared, tmp_path):
    source = shared / "data" / "tokenizers" / "gpt2"
    encoder = json.loads((source / "encoder.json").read_text())
    lines = (source / "vocab.bpe").read_text("utf-8")
    counts = [(str(index), 1) for index in range(50257)] + [(f"madeupword{number:04}", 0) for number in range(3)]
    contents = {"dict_map": counts, "vocab": lines, "encoder": encoder}
    (tmp_path / "bpe_encoder.bin").write_bytes(pickle.dumps(contents, protocol=2))
    tokenizer = dj.Tokenizer(tmp_path)
    assert (tokenizer.vocab_size, tokenizer.special_ids) == (50265, (0, 1, 2, 3, 50264))
    assert tokenizer.token(15496 + 4) == "Hello"
    ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(lines.split("\n")[1:-1])}
    readme = (shared / "data" / "SOURCES.md").read_text("utf-8") + TEXT
    want = [encoder[part] + 4 for word in words(readme) for part in merged(word, ranks)]
    assert tokenizer.encode(readme).tolist() == want


def test_a_pair_of_files_without_the_special_tokens_is_refused(folder, tmp_path):
    (tmp_path / "merges.txt").write_bytes((folder / "merges.txt").read_bytes())
    (tmp_path / "vocab.json").write_text(json.dumps(gpt2_files()[0]))
    with pytest.raises(InputError, match=r"vocab.json: has no \[PAD\]"):
        dj.Tokenizer(tmp_path)


def without_merges(folder):
    (folder / "merges.txt").unlink()


def bad_merges(folder):
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nt h e\n")


def untrained_merges(folder):
    """No text has "t" and "he" side by side: "t" and "h" are merged before."""
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nh e\nt he\n")


def bad_json(folder):
    (folder / "vocab.json").write_text('{"a": 1')


def no_ids(folder):
    (folder / "vocab.json").write_text('{"a": "b"}')


def one_id_twice(folder):
    (folder / "vocab.json").write_text('{"a": 1, "b": 1}')


def not_text(folder):
    (folder / "vocab.json").write_bytes(b"\xff\xfe")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_merges, "merges.txt: cannot be read"),
        (bad_merges, "merges.txt: merge 3 is not two tokens"),
        (untrained_merges, "merges.txt: its merges do not make 'the'"),
        (bad_json, "vocab.json: not JSON"),
        (no_ids, "vocab.json: not an object of tokens"),
        (one_id_twice, "vocab.json: two tokens have one id"),
        (not_text, "vocab.json: not text"),
    ],
)
def test_damaged_files_are_one_line(tmp_path, spoil, message):
    write_byte_pair(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message) as raised:
        dj.Tokenizer(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (pickle.dumps({"dict_map": [], "vocab": ""}), "has no encoder"),
        (pickle.dumps([1, 2]), "has no dict_map, vocab, encoder"),
        (pickle.dumps({"dict_map": 3, "vocab": "", "encoder": {}}), "not laid out as Microsoft's"),
        (b"damaged", "bpe_encoder.bin"),
    ],
)
def test_a_damaged_file_of_microsofts_is_one_line(tmp_path, contents, message):
    (tmp_path / "bpe_encoder.bin").write_bytes(contents)
    with pytest.raises(InputError, match=message) as raised:
        dj.Tokenizer(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_byte_that_the_vocabulary_has_not_is_unknown(folder, tmp_path):
    ids = json.loads((folder / "vocab.json").read_text())
    del ids["!"]
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    (tmp_path / "merges.txt").write_bytes((folder / "merges.txt").read_bytes())
    tokenizer = dj.Tokenizer(tmp_path)
    ids, offsets = tokenizer.encode_with_offsets("the! day")
    assert offsets[ids == tokenizer.unk_id].tolist() == [[3, 4]]
