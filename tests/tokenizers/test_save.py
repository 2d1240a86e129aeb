import json
import os
import pickle

import numpy as np
import pytest
import sentencepiece
from toy_tokenizers import SIGNS, TEXT, write_bpe_encoder, write_byte_pair, write_unigram

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


@pytest.fixture
def v3(tmp_path):
    folder = tmp_path / "v3"
    folder.mkdir()
    write_unigram(folder)
    return folder


@pytest.fixture
def v1(tmp_path):
    folder = tmp_path / "v1"
    folder.mkdir()
    write_byte_pair(folder)
    return folder


def add_tokens(folder):
    """Three tokens, in the two ways that transformers writes them; returns the id of the first."""
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


@pytest.mark.parametrize("version", ["v3", "v1"])
def test_what_is_saved_is_loaded_again(version, request, tmp_path):
    tokenizer = dj.Tokenizer(request.getfixturevalue(version))
    tokenizer.save(tmp_path / "deep" / "saved")
    saved = dj.Tokenizer(tmp_path / "deep" / "saved")
    check_same(saved, tokenizer)
    before = {file.name: file.read_bytes() for file in saved.path.iterdir()}
    saved.save(saved.path)
    assert {file.name: file.read_bytes() for file in saved.path.iterdir()} == before
    for file in tokenizer.vocabulary.files:
        assert before[file.name] == file.read_bytes()


@pytest.mark.parametrize("version", ["v3", "v1"])
def test_added_tokens_are_recognised_counted_and_kept(version, request, tmp_path):
    folder = request.getfixturevalue(version)
    plain = dj.Tokenizer(folder)
    first = add_tokens(folder)
    tokenizer = dj.Tokenizer(folder)
    assert (tokenizer.mask_id, tokenizer.vocab_size) == (plain.mask_id, plain.vocab_size + 3)
    assert tokenizer.sha256 != plain.sha256
    text = "a[NEW][ENTITY] [ENT x[ENT"
    ids, offsets = tokenizer.encode_with_offsets(text)
    named = [(tokenizer.token(index), text[start:end]) for index, (start, end) in zip(ids, offsets, strict=True)]
    assert [pair for pair in named if pair[0].startswith("[")][:3] == [
        (name, name) for name in ("[NEW]", "[ENTITY]", "[ENT")
    ]
    assert np.isin(ids, first).sum() == 1
    assert tokenizer.word_starts().shape == (tokenizer.vocab_size,)
    tokenizer.save(tmp_path / "saved")
    check_same(dj.Tokenizer(tmp_path / "saved"), tokenizer)
    check_same(pickle.loads(pickle.dumps(tokenizer)), tokenizer)
    assert json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())["model_max_length"] == 99


def test_microsofts_file_is_saved_as_the_two_and_kept(tmp_path):
    write_bpe_encoder(tmp_path / "bpe_encoder.bin")
    tokenizer = dj.Tokenizer(tmp_path)
    tokenizer.save(tmp_path / "saved")
    assert {"bpe_encoder.bin", "vocab.json", "merges.txt"} < {*os.listdir(tmp_path / "saved")}
    check_same(dj.Tokenizer(tmp_path / "saved"), tokenizer)


def test_a_file_that_cannot_be_written_leaves_what_was_there(v3, tmp_path):
    tokenizer = dj.Tokenizer(v3)
    (tmp_path / "file").write_text("here")
    with pytest.raises(InputError, match=r"file: no folder could be made"):
        tokenizer.save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "here"
    target = tmp_path / "target"
    (target / "tokenizer.json").mkdir(parents=True)
    with pytest.raises(InputError, match="could not be written"):
        tokenizer.save(target)
    assert not [name for name in os.listdir(target) if name.endswith(".partial")]


@pytest.mark.parametrize(
    "values", [[1], {"added_tokens_decoder": {"x": {"content": "a"}}}, {"added_tokens_decoder": {"1": 2}}]
)
def test_settings_of_another_form_are_one_line(v3, values):
    (v3 / "tokenizer_config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"tokenizer_config.json") as raised:
        dj.Tokenizer(v3)
    assert "\n" not in str(raised.value)


def test_a_folder_that_holds_only_what_transformers_5_writes_is_refused_with_advice(v3):
    dj.Tokenizer(v3).save(v3)
    (v3 / "spm.model").unlink()
    with pytest.raises(InputError, match=r"tokenizer.json alone"):
        dj.Tokenizer(v3)
    assert not dj.Tokenizer.stands_in(v3)


@pytest.mark.reference
@pytest.mark.parametrize("version", ["v3", "v1"])
def test_transformers_gives_the_same_ids(version, request, tmp_path):
    from transformers import AutoTokenizer

    folder = request.getfixturevalue(version)
    add_tokens(folder)
    ours = dj.Tokenizer(folder)
    ours.save(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text(json.dumps({"model_type": "deberta" + "-v2" * (version == "v3")}))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in (*TEXTS, *(sign for sign in SIGNS if sign not in ("[CLS]", "ｶﾞ"))):
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text).tolist(), text
    text = "A man [MASK], the [NEW][ENTITY] dog"
    batch = ours([text, "A man"], [TEXTS[0], "sings"])
    pair = theirs([text, "A man"], [TEXTS[0], "sings"], padding=True)
    for name in ("input_ids", "token_type_ids", "attention_mask"):
        assert pair[name] == getattr(batch, name).tolist()
    assert len(theirs) == ours.vocab_size
    assert (theirs.mask_token_id, theirs.pad_token_id) == (ours.mask_id, ours.pad_id)


@pytest.mark.reference
def test_sentencepiece_reads_the_saved_file(v3, tmp_path):
    dj.Tokenizer(v3).save(tmp_path / "saved")
    judge = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "saved" / "spm.model"))
    assert judge.encode(TEXT) == dj.Tokenizer(v3).encode(TEXT).tolist()


def test_saved_over_another_kind_the_former_vocabulary_goes(tmp_path):
    for name, write in (("v3", write_unigram), ("v1", write_byte_pair)):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
    first, third = dj.Tokenizer(tmp_path / "v1"), dj.Tokenizer(tmp_path / "v3")
    third.save(tmp_path / "saved")
    first.save(tmp_path / "saved")
    assert dj.Tokenizer(tmp_path / "saved").encode("A man eats.").tolist() == first.encode("A man eats.").tolist()
    assert not (tmp_path / "saved" / "spm.model").exists()
    third.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "vocab.json").exists()
    assert dj.Tokenizer(tmp_path / "saved").encode("A man eats.").tolist() == third.encode("A man eats.").tolist()
