"""The tokenizer: ids, offsets, decoding, special tokens, and damaged files."""

import functools
import json
import pickle
import time
from collections import Counter

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from mock_hub import serving
from toy_tokenizers import ANY_TEXT, TEXT

import deberta_jax as dj
from deberta_jax.errors import InputError
from deberta_jax.tokenizers.characters import check_texts, text_list


@pytest.fixture(scope="module")
def reference(v3):
    """SentencePiece itself, with the same model."""
    return sentencepiece.SentencePieceProcessor(model_file=str(v3.path / "spm.model"))


@settings(max_examples=500, deadline=None)
@given(ANY_TEXT)
def test_ids_equal_those_of_sentencepiece_and_offsets_locate_each_piece(v3, reference, text):
    ids = reference.encode(text)
    assert v3.encode(text, split_special_tokens=True).tolist() == ids
    assert v3.encode_many([text, text])[1].tolist() == ids
    assert check_offsets(v3, text, reference).tolist() == ids


@settings(max_examples=400, deadline=None)
@given(ANY_TEXT)
def test_offsets_locate_each_token_of_byte_pairs(v1, text):
    check_offsets(v1, text)


@functools.cache
def is_white(character, model):
    """White space in Python, or a character that the normalizer turns into a space."""
    return character.isspace() or (model is not None and model.normalize(f"a{character}b") == "▁a▁b")


def check_offsets(tokenizer, text, model=None):
    """Check the spans of all tokens and return the ids."""
    ids, offsets = tokenizer.encode_with_offsets(text, split_special_tokens=True)
    starts, ends = offsets.T
    assert ((starts >= 0) & (starts <= ends) & (ends <= len(text))).all()
    assert (np.diff(starts) >= 0).all()
    assert (np.diff(ends) >= 0).all()
    for start, end in offsets:
        # Spans exclude white space.
        assert start == end or not (is_white(text[start], model) or is_white(text[end - 1], model))
    covered = np.zeros(len(text), bool)
    for start, end in offsets:
        covered[start:end] = True
    if len(ids):
        uncovered = {character for character, is_covered in zip(text, covered, strict=True) if not is_covered}
        assert all(is_white(character, model) for character in uncovered)
    for start, end in zip(starts[1:], ends[:-1], strict=True):
        if start < end:
            # Two tokens share at most one character, with its combining marks.
            shared = text[start:end]
            units = {*model.normalize(shared, with_offsets=True)[1][:-1]} if model else shared
            assert len(units) <= 1, (ids, offsets)
    return ids


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  The  day ", ["The", "day"]),
        ("of\u00a0ﬁnds", ["of", "ﬁnds"]),
        ("e\u0301日\u200ba", ["e\u0301日", "a"]),
        ("\x07of\x07 \x07day\x07", ["\x07of\x07", "\x07day\x07"]),
        ("of½ \u2581½", ["of½", "½"]),
        ("ﷺ", ["ﷺ"] * 4),
    ],
)
def test_spans_of_words_are_the_words_of_the_text(v3, text, words):
    ids, offsets = v3.encode_with_offsets(text)
    starts = np.flatnonzero([v3.token(index).startswith("▁") for index in ids])
    parts = [part[part[:, 0] < part[:, 1]] for part in np.split(offsets, starts[1:])]
    assert [text[part[0, 0] : part[-1, 1]] for part in parts] == words


def test_several_pieces_of_one_character_share_its_span(v3):
    text = "of Q\u0308㎏日"
    ids, offsets = v3.encode_with_offsets(text)
    spans = Counter(text[start:end] for start, end in offsets)
    assert (spans["Q"], spans["\u0308"], spans["㎏"], spans["日"]) == (1, 2, 2, 3)


def test_several_bytes_of_one_character_share_its_span(v1):
    text = "a 😀\u3000b"
    ids, offsets = v1.encode_with_offsets(text)
    assert {text[start:end] for start, end in offsets} == {"a", "😀", "", "b"}
    assert (v1.decode(ids), len(ids) > 6) == (text, True)


def test_decoded_pieces_are_the_normalized_text(v3):
    assert v3.decode(v3.encode("Fine  ﬁnds, 日本!")) == "Fine finds, 日本!"
    assert v3.decode([v3.cls_id, *v3.encode("A [MASK] sings"), v3.sep_id]) == "[CLS] A [MASK] sings [SEP]"


def test_special_tokens_are_recognized_in_a_text_unless_it_is_not_trusted(tokenizer):
    text = "A man [MASK], [CLS][MASK]"
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert offsets[ids == tokenizer.mask_id].tolist() == [[6, 12], [19, 25]]
    assert offsets[ids == tokenizer.cls_id].tolist() == [[14, 19]]
    assert tokenizer.decode(ids).split() == ["A", "man", "[MASK]", ",", "[CLS]", "[MASK]"]
    assert (tokenizer.encode(text) == ids).all()
    assert tokenizer.mask_id not in tokenizer.encode_many(["[MASK]"])[0]
    special = {*tokenizer.special_ids} - {tokenizer.unk_id}
    plain = dj.Tokenizer(tokenizer.path, split_special_tokens=True)
    for ids in (tokenizer.encode(text, split_special_tokens=True), plain.encode(text), *plain(text).input_ids[:, 1:-1]):
        assert not special & {*ids.tolist()}
    assert pickle.loads(pickle.dumps(plain)).split_special_tokens
    assert special >= {*plain.encode("[MASK][CLS]", split_special_tokens=False).tolist()}


@pytest.mark.parametrize(
    ("texts", "message"), [([None], "text 0 is 'None' .NoneType"), (["a", 3], "text 1 is '3' .int")]
)
def test_a_text_that_is_not_a_string_is_reported(texts, message):
    with pytest.raises(InputError, match=message):
        check_texts(texts)


@pytest.mark.parametrize("value", [None, 3, b"a"])
def test_what_is_no_list_of_texts_is_reported(value):
    with pytest.raises(InputError, match=r"texts: (None|3) .*expected a string|text 0 is '97'"):
        check_texts(text_list("texts", value))


def test_an_id_outside_the_vocabulary_is_reported(tokenizer):
    for index in (-1, tokenizer.vocab_size, 10**12):
        with pytest.raises(InputError, match=rf"id {index} is not in the vocabulary: its ids are 0 to"):
            tokenizer.decode([1, index])


def test_mask_includes_the_space_before_it_in_v1(v1):
    assert v1.encode("the [MASK] dog").tolist() == [*v1.encode("the"), v1.mask_id, *v1.encode(" dog")]


def test_encoding_many_texts_equals_encoding_each(tokenizer):
    texts = [line * (number % 3) for number, line in enumerate(TEXT.split("\n") * 40)]
    encoded = tokenizer.encode_many(texts)
    assert len(encoded) == len(texts)
    assert all((ids == tokenizer.encode(text)).all() for ids, text in zip(encoded, texts, strict=True))
    assert all(ids.dtype == np.int32 for ids in encoded)


def test_a_lone_surrogate_is_rejected_with_its_position(tokenizer):
    for encode in (tokenizer.encode, tokenizer, lambda text: tokenizer.encode_many(["a", text])):
        with pytest.raises(InputError, match=r"lone surrogate U\+D83D at character 2"):
            encode("ab\ud83d!")


def test_a_tokenizer_can_be_pickled(tokenizer):
    unpickled = pickle.loads(pickle.dumps(tokenizer))
    assert unpickled.sha256 == tokenizer.sha256
    assert unpickled.encode("the dog").tolist() == tokenizer.encode("the dog").tolist()


def test_words_start_with_a_space_and_single_symbols_are_words(tokenizer):
    batch = tokenizer("The lazy dog, it's")
    starts = {batch.offsets[0, position, 0] for position in np.flatnonzero(batch.word_starts[0])}
    assert starts - {12, 16} == {0, 4, 9, 14}
    assert tokenizer.word_starts().shape == (tokenizer.vocab_size,)
    assert tokenizer.word_starts()[list(tokenizer.special_ids)].all()


def test_special_tokens_have_their_ids(v3, v1):
    assert (v3.special_ids, v3.vocab_size) == ((0, 1, 2, 3, 360), 361)
    assert v1.special_ids == (0, 1, 2, 3, v1.vocab_size - 1)
    for tokenizer in (v3, v1):
        names = [tokenizer.token(index) for index in tokenizer.special_ids]
        assert names == ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "not a SentencePiece model"),
        (b"\n\x03abc" * 20, "not a SentencePiece model"),
        (None, "no tokenizer found"),
    ],
)
def test_a_damaged_model_file_is_reported_in_one_line(tmp_path, contents, message):
    path = tmp_path / "spm.model"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(InputError, match=message) as raised:
        dj.Tokenizer(path)
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_truncated_model_file_is_rejected(tmp_path, v3):
    content = (v3.path / "spm.model").read_bytes()
    for size in range(1, len(content), len(content) // 20):
        (tmp_path / "spm.model").write_bytes(content[:size])
        with pytest.raises(InputError, match=r"spm.model: "):
            dj.Tokenizer(tmp_path)


def test_a_model_without_the_special_pieces_needs_their_names(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split("\n")), model_prefix=str(tmp_path / "spm"), vocab_size=80, minloglevel=2
    )
    with pytest.raises(InputError, match=r"spm.model: \[PAD\] is missing.*pad_token"):
        dj.Tokenizer(tmp_path)
    names = {"pad_token": "<unk>", "cls_token": {"content": "<s>"}, "sep_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    tokenizer = dj.Tokenizer(tmp_path)
    assert tokenizer.special_ids == (0, 1, 2, 0, 80)
    assert tokenizer("日本 a").input_ids[0].tolist() == [1, *tokenizer.encode("日本 a"), 2]
    check_offsets(tokenizer, "日本 a  ﬁ x日", tokenizer.vocabulary.model)


def test_damaged_settings_are_rejected(v3_folder):
    (v3_folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer_config.json: not valid JSON"):
        dj.Tokenizer(v3_folder)


def test_encoding_a_long_run_of_white_space_takes_linear_time(v1):
    text = " " * 200_000 + "a"
    started = time.process_time()
    v1.encode(text)
    assert time.process_time() - started < 5
    assert v1.encode("a   [MASK] [MASK]  b").tolist().count(v1.mask_id) == 2


def test_a_tokenizer_is_read_from_a_folder_or_the_hub_without_other_files(folder, tmp_path, monkeypatch):
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    local = dj.Tokenizer.from_pretrained(folder)
    assert local.sha256 == dj.Tokenizer(folder).sha256
    with serving({"me/tiny": folder}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        assert dj.Tokenizer.from_pretrained("me/tiny").sha256 == local.sha256
        assert not {"model.safetensors", "config.json"} & {*hub.fetched()}
    with pytest.raises(InputError, match="no such folder"):
        dj.Tokenizer.from_pretrained(tmp_path / "none")
