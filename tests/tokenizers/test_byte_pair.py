"""Byte pair encoding: GPT-2's ids, and the files of Hugging Face and Microsoft."""

import json
import pickle

import pytest
from hypothesis import given, settings
from toy_tokenizers import (
    ANY_TEXT,
    TEXT,
    byte_pair_merges,
    gpt2_files,
    merge,
    microsoft_ids,
    words,
    write_bpe_encoder,
    write_byte_pair,
)

import deberta_jax as dj
from deberta_jax.errors import InputError


@pytest.fixture(scope="module")
def ranks():
    return {pair: rank for rank, pair in enumerate(byte_pair_merges())}


@settings(max_examples=300, deadline=None)
@given(ANY_TEXT)
def test_ids_equal_merging_pairs_in_order_and_decode_to_the_text(v1, ranks, text):
    ids = microsoft_ids(gpt2_files()[0])
    encoded = v1.encode(text, split_special_tokens=True)
    assert encoded.tolist() == [ids[part] for word in words(text) for part in merge(word, ranks)]
    assert v1.decode(encoded) == text


def test_english_text_has_fewer_tokens_than_characters(v1):
    assert len(v1.encode(TEXT)) < 0.6 * len(TEXT)


@pytest.mark.parametrize("as_text", [True, False])
def test_microsofts_file_gives_the_same_ids_as_the_two_files(v1, tmp_path, as_text):
    write_bpe_encoder(tmp_path / "bpe_encoder.bin", as_text)
    microsoft = dj.Tokenizer(tmp_path)
    assert microsoft.sha256 == v1.sha256
    assert (microsoft.vocab_size, microsoft.special_ids) == (v1.vocab_size, v1.special_ids)
    assert (microsoft.encode(TEXT + "[MASK]") == v1.encode(TEXT + "[MASK]")).all()


@pytest.mark.shared
def test_gpt2s_original_files_are_read(shared, tmp_path):
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
    text = (shared / "data" / "SOURCES.md").read_text("utf-8") + TEXT
    expected = [encoder[part] + 4 for word in words(text) for part in merge(word, ranks)]
    assert tokenizer.encode(text).tolist() == expected


def test_files_without_the_special_tokens_are_rejected(v1, tmp_path):
    (tmp_path / "merges.txt").write_bytes((v1.path / "merges.txt").read_bytes())
    (tmp_path / "vocab.json").write_text(json.dumps(gpt2_files()[0]))
    with pytest.raises(InputError, match=r"vocab.json: \[PAD\] is missing"):
        dj.Tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("merges.txt", None, "merges.txt: cannot be read"),
        ("merges.txt", b"#version: 0.2\nt h\nt h e\n", "merges.txt: merge 3 is not a pair of GPT-2 tokens: 't h e'"),
        # In no text is "t" a neighbor of "he": "t" and "h" are merged first.
        ("merges.txt", b"#version: 0.2\nt h\nh e\nt he\n", "merges.txt: the merges do not produce 'the'"),
        ("merges.txt", b"\xff\xfe", "merges.txt: not UTF-8 text"),
        ("vocab.json", b'{"a": 1', "vocab.json: not valid JSON"),
        ("vocab.json", b'{"a": "b"}', "vocab.json: expected a JSON object of tokens and ids"),
        ("vocab.json", b'{"a": 1, "b": 1}', "vocab.json: two tokens have the same id"),
        ("vocab.json", b"\xff\xfe", "vocab.json: not valid JSON"),
    ],
)
def test_damaged_files_are_reported_in_one_line(tmp_path, name, content, message):
    write_byte_pair(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        dj.Tokenizer(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (pickle.dumps({"dict_map": [], "vocab": ""}), r"\(encoder missing\)"),
        (pickle.dumps([1, 2]), r"\(dict_map, vocab, encoder missing\)"),
        (pickle.dumps({"dict_map": 3, "vocab": "", "encoder": {}}), "not the layout of Microsoft's"),
        (b"damaged", "bpe_encoder.bin"),
    ],
)
def test_a_damaged_microsoft_file_is_reported_in_one_line(tmp_path, contents, message):
    (tmp_path / "bpe_encoder.bin").write_bytes(contents)
    with pytest.raises(InputError, match=message) as raised:
        dj.Tokenizer(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_byte_that_is_not_in_the_vocabulary_is_unknown(v1, tmp_path):
    ids = json.loads((v1.path / "vocab.json").read_text())
    del ids["!"]
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    (tmp_path / "merges.txt").write_bytes((v1.path / "merges.txt").read_bytes())
    tokenizer = dj.Tokenizer(tmp_path)
    ids, offsets = tokenizer.encode_with_offsets("the! day")
    assert offsets[ids == tokenizer.unk_id].tolist() == [[3, 4]]
