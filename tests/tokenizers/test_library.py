"""Folders that transformers saved: `tokenizer.json`, `vocab.txt` and added tokens, as `tokenizers` reads them."""

import json
import pickle

import numpy as np
import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from toy_tokenizers import (
    ANY_TEXT,
    TEXT,
    byte_pair_json,
    special_tokens_json,
    template_json,
    unigram_json,
    unigram_model,
    word_piece_json,
    word_pieces,
    write_byte_pair,
    write_tokenizer_json,
    write_unigram,
)

import deberta_jax as dj
from deberta_jax.errors import InputError

DOCUMENTS = {
    "unigram": unigram_json(),
    "unigram with byte fallback": unigram_json(byte_fallback=True),
    "byte pairs": byte_pair_json(),
    "byte pairs with a space": byte_pair_json(add_prefix_space=True),
    "word pieces": word_piece_json(),
    "cased word pieces": word_piece_json(lowercase=False),
    "no post-processor": unigram_json() | {"post_processor": None},
}
CONTENTS = ["<ent>", "</ent>", "ent", "\n", "[E1]", "the", "ﬁ", "Ａ", " x", "ß", "<e", "日", "[MASK]x"]
FLAGS = st.fixed_dictionaries(
    {flag: st.booleans() for flag in ("lstrip", "rstrip", "single_word", "normalized", "special")}
)


def with_tokens(document, tokens):
    """The document with further added tokens, a mapping of their texts and options."""
    known = document["added_tokens"]
    start = max(token["id"] for token in known) + 1
    # Ids that the vocabulary already has are kept.
    added, vocab = [], document["model"]["vocab"]
    ids = {row[0]: index for index, row in enumerate(vocab)} if isinstance(vocab, list) else vocab
    start = max(start, len(ids))
    for text, flags in tokens.items():
        # The library does not end with some tokens that a normalizer removes.
        flags = flags | ({"normalized": False} if text.isspace() else {})
        index = ids.get(text, start + sum(each["content"] not in ids for each in added))
        added.append({"id": index, "content": text} | flags)
    return document | {"added_tokens": sorted([*known, *added], key=lambda token: token["id"])}


def check_offsets(tokenizer, text):
    """Spans increase, exclude white space at their ends, and leave no other character out."""
    try:
        ids, offsets = tokenizer.encode_with_offsets(text)
    except InputError as error:
        # The library finds normalized tokens that take white space with them at wrong bytes, and stops.
        assume("fails on a text" not in str(error))
        raise
    starts, ends = offsets.T
    assert ((starts >= 0) & (starts <= ends) & (ends <= len(text))).all()
    assert (np.diff(starts) >= 0).all() and (np.diff(ends) >= 0).all()
    plain = [
        (start, end) for index, (start, end) in zip(ids, offsets, strict=True) if index < tokenizer.vocabulary.size
    ]
    for start, end in plain:
        assert start == end or not (text[start].isspace() or text[end - 1].isspace())
    return ids


TOKENS = st.dictionaries(st.sampled_from(CONTENTS), FLAGS, max_size=4)
JOINTS = st.lists(st.sampled_from([*CONTENTS, "[SEP]", " [MASK] ", "[UNK]"]), max_size=3)


@pytest.mark.parametrize("name", DOCUMENTS)
@settings(max_examples=25, deadline=None)
@given(tokens=TOKENS, texts=st.tuples(ANY_TEXT, ANY_TEXT), joints=JOINTS)
def test_ids_equal_those_of_the_library(tmp_path_factory, name, tokens, texts, joints):
    document = with_tokens(DOCUMENTS[name], tokens)
    settings = {"add_prefix_space": True} if name == "byte pairs with a space" else {}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    folder = write_tokenizer_json(tmp_path_factory.mktemp("json"), document, settings)
    ours, reference = dj.Tokenizer(folder), tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    first, second = texts[0] + "".join(f"{joint}{texts[0]}" for joint in joints), texts[1]
    for text in (first, second):
        assert check_offsets(ours, text).tolist() == reference.encode(text, add_special_tokens=False).ids
    for arguments in ((first,), (first, second)):
        batch, expected = ours(*arguments), reference.encode(*arguments)
        assert batch.input_ids[0].tolist() == expected.ids
        assert batch.token_type_ids[0].tolist() == expected.type_ids
    ours.save(folder / "saved")
    again = dj.Tokenizer(folder / "saved")
    assert again(first, second).input_ids.tolist() == ours(first, second).input_ids.tolist()
    assert (again.sha256, again.special_ids, again.vocab_size) == (ours.sha256, ours.special_ids, ours.vocab_size)


PLAIN = st.lists(st.sampled_from([*CONTENTS, " ", "  ", "the fox", "Eats ", "[SEP]", "a"]), max_size=8).map("".join)


@pytest.mark.parametrize("write", [write_unigram, write_byte_pair])
@settings(max_examples=40, deadline=None)
@given(tokens=TOKENS, text=PLAIN)
def test_added_tokens_of_other_formats_are_found_as_the_library_finds_them(tmp_path_factory, write, tokens, text):
    folder = tmp_path_factory.mktemp("files")
    size = write(folder).vocab_size
    vocabulary = dj.Tokenizer(folder).vocabulary
    ids = {name: size + index for index, name in enumerate(name for name in tokens if vocabulary.id_of(name) is None)}
    decoder = {ids.get(name, vocabulary.id_of(name)): {"content": name} | flags for name, flags in tokens.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    ours = dj.Tokenizer(folder)
    ours.save(folder / "saved")
    reference = tokenizers.Tokenizer.from_file(str(folder / "saved" / "tokenizer.json"))
    assert check_offsets(ours, text).tolist() == reference.encode(text, add_special_tokens=False).ids


def test_an_added_token_that_the_normalizer_removes_is_found_in_the_text(tmp_path):
    size = write_unigram(tmp_path).vocab_size
    flags = {name: {"lstrip": True, "normalized": True} for name in ("ent", "ß")}
    flags |= {name: {"rstrip": True, "single_word": True, "normalized": True} for name in ("<e", "\n")}
    flags["ent"] = {"lstrip": True, "single_word": True}
    decoder = {size + index: {"content": name} | options for index, (name, options) in enumerate(flags.items())}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    # The library does not end with this text if "\n" is found in the normalized text.
    ours = dj.Tokenizer(tmp_path)
    assert ours.encode("a \n b").tolist().count(size + 3) == 1
    ours.save(tmp_path / "saved")
    reference = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    assert reference.encode("ent<ent><ent>", add_special_tokens=False).ids == ours.encode("ent<ent><ent>").tolist()


def test_settings_of_sentencepiece_change_ids_as_in_transformers(v3_folder):
    plain = dj.Tokenizer(v3_folder)
    for values, text, same in (
        ({"do_lower_case": True}, "The QUICK fox", "the quick fox"),
        ({"split_by_punct": True}, "she's", "she ' s"),
    ):
        (v3_folder / "tokenizer_config.json").write_text(json.dumps(values))
        changed = dj.Tokenizer(v3_folder)
        assert changed.encode(text).tolist() == plain.encode(same).tolist() != plain.encode(text).tolist()
        assert changed.sha256 != plain.sha256
        assert (changed.special_ids, changed.vocab_size) == (plain.special_ids, plain.vocab_size)
        assert pickle.loads(pickle.dumps(changed)).encode(text).tolist() == changed.encode(text).tolist()
        changed.save(v3_folder / "saved")
        assert dj.Tokenizer(v3_folder / "saved").encode(text).tolist() == changed.encode(text).tolist()
        assert (v3_folder / "saved" / "spm.model").read_bytes() == unigram_model()


def test_vocab_txt_is_read_as_by_bert(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(word_pieces()) + "\n", "utf-8")
    for lowercase in (True, False):
        config = {"do_lower_case": lowercase, "tokenizer_class": "BertTokenizer"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        document = write_tokenizer_json(tmp_path / "json", word_piece_json(lowercase=lowercase)) / "tokenizer.json"
        reference = tokenizers.Tokenizer.from_file(str(document))
        ours = dj.Tokenizer(tmp_path)
        for text in (TEXT, "Köln, 日本 The foxes", "[MASK] sings\u200b \x07a"):
            assert ours.encode(text).tolist() == reference.encode(text, add_special_tokens=False).ids
    assert ours("the foxes").word_starts.tolist() == [[False, True, True, False, False]]
    ours.save(tmp_path / "saved")
    assert dj.Tokenizer(tmp_path / "saved").sha256 == ours.sha256
    assert (tmp_path / "saved" / "vocab.txt").read_bytes() == (tmp_path / "vocab.txt").read_bytes()


@pytest.mark.parametrize("name", ["spiece.model", "sentencepiece.bpe.model", "tokenizer.model"])
def test_a_sentencepiece_model_under_another_name_is_read(v3, tmp_path, name):
    (tmp_path / name).write_bytes(unigram_model())
    assert dj.Tokenizer(tmp_path).sha256 == v3.sha256


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("spiece.model", {"tokenizer_class": "XLMRobertaTokenizer"}, "names XLMRobertaTokenizer, whose ids are not th"),
        (
            "vocab.txt",
            {"tokenizer_class": "BertJapaneseTokenizer"},
            "names BertJapaneseTokenizer, whose .*tokenizer.json",
        ),
        ("spm.model", {"tokenizer_class": "T5TokenizerFast"}, "names T5TokenizerFast, whose ids"),
    ],
)
def test_a_class_that_reads_the_file_in_another_way_is_refused(tmp_path, file, settings, message):
    content = unigram_model() if file.endswith("model") else "\n".join(word_pieces()).encode()
    (tmp_path / file).write_bytes(content)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=message):
        dj.Tokenizer(tmp_path)


def broken(**changes):
    return unigram_json() | changes


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"added_tokens": []}, "it has no model"),
        (broken(model={"type": "Magic"}), "not a tokenizer that tokenizers .* reads"),
        (broken(post_processor={"type": "Magic"}), "its post-processor is of type 'Magic'"),
        (broken(post_processor=template_json(1, 2) | {"pair": []}), "does not contain each text once"),
        (broken(added_tokens=[{"id": 10**12, "content": "a"}]), "a token has the id 1000000000000, expected less"),
        (broken(added_tokens=[{"id": 3}]), "invalid"),
        (broken(model={"type": "Unigram", "unk_id": 0, "vocab": []}), "tokenizer.json"),
    ],
)
def test_a_file_that_cannot_be_read_is_reported_in_one_line(tmp_path, document, message):
    write_tokenizer_json(tmp_path, document)
    with pytest.raises(InputError, match=message) as raised:
        dj.Tokenizer(tmp_path)
    assert "\n" not in str(raised.value) and "tokenizer.json" in str(raised.value)


def test_tokens_of_both_settings_lists_are_special(tmp_path):
    for key, value in (("additional_special_tokens", ["<a>"]), ("extra_special_tokens", {"first": "<a>"})):
        write_tokenizer_json(tmp_path, unigram_json(), {key: value})
        tokenizer = dj.Tokenizer(tmp_path)
        size = dj.Tokenizer(tmp_path).vocabulary.size
        assert tokenizer.encode("x<a>").tolist()[-1] == size + 1
        assert tokenizer.encode("x<a>", split_special_tokens=True).tolist()[-1] != size + 1
        tokenizer.save(tmp_path / "saved")
        config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
        assert config["additional_special_tokens"] == ["<a>"] and "extra_special_tokens" not in config


def test_roberta_separates_pairs_by_two_tokens(tmp_path):
    write_byte_pair(tmp_path)
    ids = json.loads((tmp_path / "vocab.json").read_text())
    names = {"[PAD]": "<pad>", "[CLS]": "<s>", "[SEP]": "</s>", "[UNK]": "<unk>", "[MASK]": "<mask>"}
    (tmp_path / "vocab.json").write_text(json.dumps({names.get(token, token): index for token, index in ids.items()}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    batch = dj.Tokenizer(tmp_path)("the", "fox<mask>")
    assert (batch.input_ids == 2).sum() == 3 and batch.input_ids[0, -2] == ids["[MASK]"]
    assert not batch.token_type_ids.any()
    assert batch.sequence_ids[0, [0, -1]].tolist() == [-1, -1]


def test_windows_count_the_special_tokens_of_the_template(tmp_path):
    write_tokenizer_json(tmp_path, byte_pair_json())
    tokenizer = dj.Tokenizer(tmp_path)
    batch = tokenizer(["the fox"], [TEXT], max_length=20, truncation="second", stride=2)
    assert batch.input_ids.shape[1] == 20 and len(batch.input_ids) > 5
    assert ((batch.input_ids == 2).sum(1) == 3).all()
    assert (batch.input_ids[:, 0] == 1).all()


def test_a_saved_tokenizer_of_version_3_is_encoded_by_sentencepiece_again(v3, tmp_path):
    v3.save(tmp_path)
    assert type(dj.Tokenizer(tmp_path).vocabulary) is type(v3.vocabulary)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    assert document["added_tokens"][:2] == special_tokens_json([0, 1, 2, 3, 4])[:2]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document | {"normalizer": None}))
    assert dj.Tokenizer(tmp_path).sha256 != v3.sha256
    (tmp_path / "spm.model").unlink()
    assert type(dj.Tokenizer(tmp_path).vocabulary) is not type(v3.vocabulary)


@pytest.mark.parametrize("name", ["unigram", "unigram with byte fallback"])
def test_text_that_is_not_trusted_gives_no_special_id(tmp_path, name):
    """Also where a character of a special token's name is unknown, which costs more than any piece."""
    document = DOCUMENTS[name]
    vocab = [[piece if piece not in "[]SEPCL" else f"x{piece}", score] for piece, score in document["model"]["vocab"]]
    write_tokenizer_json(tmp_path, document | {"model": document["model"] | {"vocab": vocab}})
    tokenizer = dj.Tokenizer(tmp_path)
    text = "a[SEP]b [CLS] [PAD][MASK]"
    special = {tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id}
    assert not special & {*tokenizer.encode(text, split_special_tokens=True).tolist()}
    assert not special & {*tokenizer.encode_many([text])[0].tolist()}


def test_each_byte_token_covers_its_character(tmp_path, v3):
    write_tokenizer_json(tmp_path, unigram_json(byte_fallback=True))
    tokenizer = dj.Tokenizer(tmp_path)
    for text in ("日本 x", "a 😀日 the", "日"):
        ids, offsets = tokenizer.encode_with_offsets(text)
        expected_ids, expected = v3.encode_with_offsets(text)
        assert ids.tolist() == expected_ids.tolist()
        assert offsets.tolist() == expected.tolist()


@pytest.mark.parametrize("lowercase", [True, False])
def test_the_settings_of_bert_apply_to_tokenizer_json(tmp_path, lowercase):
    folder = write_tokenizer_json(
        tmp_path,
        word_piece_json(lowercase=not lowercase),
        {"tokenizer_class": "BertTokenizer", "do_lower_case": lowercase},
    )
    reference = write_tokenizer_json(tmp_path / "same", word_piece_json(lowercase=lowercase))
    assert dj.Tokenizer(folder).encode(TEXT).tolist() == dj.Tokenizer(reference).encode(TEXT).tolist()


@pytest.mark.parametrize("write", [write_unigram, write_byte_pair])
def test_ids_with_a_gap_are_saved_for_the_library(tmp_path, write):
    size = write(tmp_path).vocab_size
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<ent>": size + 14}))
    tokenizer = dj.Tokenizer(tmp_path)
    tokenizer.save(tmp_path / "saved")
    reference = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    assert (
        tokenizer.encode("the<ent>")[-1] == reference.encode("the<ent>", add_special_tokens=False).ids[-1] == size + 14
    )
    saved = dj.Tokenizer(tmp_path / "saved")
    assert (saved.sha256, saved.vocab_size) == (tokenizer.sha256, tokenizer.vocab_size)
    assert saved.token(size + 3) == saved.decode([size + 3]) == ""


def test_the_class_decides_on_the_template_of_files_without_one(tmp_path):
    write_byte_pair(tmp_path)
    lengths = {"DebertaTokenizer": 5, "RobertaTokenizer": 6, "GPT2Tokenizer": 2}
    for name, length in lengths.items():
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
        assert dj.Tokenizer(tmp_path)("a", "b").input_ids.shape == (1, length)


def test_a_vocabulary_without_a_mask_token_is_read(tmp_path):
    document = unigram_json()
    write_tokenizer_json(tmp_path, document | {"added_tokens": document["added_tokens"][:4]})
    tokenizer = dj.Tokenizer(tmp_path)
    assert tokenizer.mask_id == tokenizer.vocabulary.size


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("added_tokens.json", {"<a>": 900, "<b>": 900}, "two tokens have the same id"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"900": {"content": "\ud800"}}}, "lone surrogate"),
    ],
)
def test_invalid_added_tokens_are_reported(v3_folder, file, content, message):
    (v3_folder / file).write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        dj.Tokenizer(v3_folder)
