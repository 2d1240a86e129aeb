"""Saved folders: read back, and read by transformers, with the same ids."""

import json
import os
import pickle

import numpy as np
import pytest
import sentencepiece
from toy_tokenizers import CHARACTERS, TEXT, write_bpe_encoder

import deberta_jax as dj
from deberta_jax.errors import InputError

TEXTS = [
    *TEXT.splitlines(),
    "Fine ﬁnds, Ａ１２ ½ x² №5…\u00a0a\u200bb",
    "  two  spaces\n\ttab ",
    "😀 日本 <0x41>",
    "",
    " ",
]


def add_tokens(folder):
    """Add three tokens, in both files that transformers uses for them; returns the id of the first."""
    tokenizer = dj.Tokenizer(folder)
    size = tokenizer.vocab_size
    (folder / "added_tokens.json").write_text(json.dumps({"[NEW]": size + 2}))
    flags = {"lstrip": False, "normalized": False, "rstrip": True, "single_word": True, "special": True}
    settings = {"model_max_length": 99, "added_tokens_decoder": {str(size): {"content": "[ENT", **flags}}}
    settings["added_tokens_decoder"][str(size + 1)] = {"content": "[ENTITY]", **flags, "rstrip": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return size


def check_same(one, other):
    assert (one.sha256, one.vocab_size, one.special_ids) == (other.sha256, other.vocab_size, other.special_ids)
    for text in (*TEXTS, "a [MASK] [NEW][ENTITY] [ENT x"):
        assert (one.encode(text) == other.encode(text)).all()


def test_a_saved_tokenizer_is_read_back(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "deep" / "saved")
    saved = dj.Tokenizer(tmp_path / "deep" / "saved")
    check_same(saved, tokenizer)
    before = {file.name: file.read_bytes() for file in saved.path.iterdir()}
    saved.save(saved.path)
    assert {file.name: file.read_bytes() for file in saved.path.iterdir()} == before
    for file in tokenizer.path.iterdir():
        assert before[file.name] == file.read_bytes()


def test_added_tokens_are_recognized_counted_and_saved(folder, tmp_path):
    plain = dj.Tokenizer(folder)
    first = add_tokens(folder)
    tokenizer = dj.Tokenizer(folder)
    assert (tokenizer.mask_id, tokenizer.vocab_size) == (plain.mask_id, plain.vocab_size + 3)
    assert tokenizer.sha256 != plain.sha256
    text = "a[NEW][ENTITY] [ENT x[ENT"
    ids, offsets = tokenizer.encode_with_offsets(text)
    tokens = [(tokenizer.token(index), text[start:end]) for index, (start, end) in zip(ids, offsets, strict=True)]
    assert [pair for pair in tokens if pair[0].startswith("[")][:3] == [
        (name, name) for name in ("[NEW]", "[ENTITY]", "[ENT")
    ]
    assert np.isin(ids, first).sum() == 1
    assert tokenizer.word_starts().shape == (tokenizer.vocab_size,)
    tokenizer.save(tmp_path / "saved")
    check_same(dj.Tokenizer(tmp_path / "saved"), tokenizer)
    check_same(pickle.loads(pickle.dumps(tokenizer)), tokenizer)
    assert json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())["model_max_length"] == 99


def test_microsofts_file_is_saved_with_the_two_files_of_hugging_face(tmp_path):
    write_bpe_encoder(tmp_path / "bpe_encoder.bin")
    tokenizer = dj.Tokenizer(tmp_path)
    tokenizer.save(tmp_path / "saved")
    assert {"bpe_encoder.bin", "vocab.json", "merges.txt"} < {*os.listdir(tmp_path / "saved")}
    check_same(dj.Tokenizer(tmp_path / "saved"), tokenizer)


def test_a_file_that_cannot_be_written_is_reported_and_leaves_the_existing_files(v3, tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(InputError, match=r"file: cannot create this folder"):
        v3.save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "here"
    target = tmp_path / "target"
    (target / "tokenizer.json").mkdir(parents=True)
    with pytest.raises(InputError, match="tokenizer.json: cannot be written"):
        v3.save(target)
    assert not [name for name in os.listdir(target) if name.endswith(".partial")]


def test_a_vocabulary_file_that_was_removed_is_reported(v3_folder, tmp_path):
    tokenizer = dj.Tokenizer(v3_folder)
    (v3_folder / "spm.model").unlink()
    with pytest.raises(InputError, match=r"spm.model: cannot be read again \(No such file or directory\)"):
        tokenizer.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    "values", [[1], {"added_tokens_decoder": {"x": {"content": "a"}}}, {"added_tokens_decoder": {"1": 2}}]
)
def test_invalid_settings_are_reported_in_one_line(v3_folder, values):
    (v3_folder / "tokenizer_config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"tokenizer_config.json") as raised:
        dj.Tokenizer(v3_folder)
    assert "\n" not in str(raised.value)


def test_saving_over_another_format_removes_its_files(tokenizers, tmp_path):
    former = {"v3": "spm.model", "v1": "vocab.json"}
    for version, other in (("v3", "v1"), ("v1", "v3"), ("v3", "v1")):
        tokenizers[version].save(tmp_path)
        assert dj.Tokenizer(tmp_path).sha256 == tokenizers[version].sha256
        assert not (tmp_path / former[other]).exists()


@pytest.mark.reference
def test_transformers_gives_the_same_ids(folder, tmp_path):
    from transformers import AutoTokenizer

    add_tokens(folder)
    ours = dj.Tokenizer(folder)
    ours.save(tmp_path / "saved")
    model_type = "deberta-v2" if folder.name == "v3" else "deberta"
    (tmp_path / "saved" / "config.json").write_text(json.dumps({"model_type": model_type}))
    reference = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in (*TEXTS, *(text for text in CHARACTERS if text not in ("[CLS]", "ｶﾞ"))):
        assert reference(text, add_special_tokens=False)["input_ids"] == ours.encode(text).tolist(), text
    text = "A man [MASK], the [NEW][ENTITY] dog"
    batch = ours([text, "A man"], [TEXTS[0], "sings"])
    expected = reference([text, "A man"], [TEXTS[0], "sings"], padding=True)
    for name in batch.keys():  # noqa: SIM118
        assert expected[name] == batch[name].tolist()
    assert len(reference) == ours.vocab_size
    assert (reference.mask_token_id, reference.pad_token_id) == (ours.mask_id, ours.pad_id)


@pytest.mark.reference
def test_sentencepiece_reads_the_saved_file(v3, tmp_path):
    v3.save(tmp_path / "saved")
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "saved" / "spm.model"))
    assert reference.encode(TEXT) == v3.encode(TEXT).tolist()
