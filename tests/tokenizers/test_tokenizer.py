import json
import pickle
import time
from collections import Counter

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from toy_tokenizers import ANY_TEXT, TEXT, write_byte_pair, write_unigram

import deberta_jax as dj
from deberta_jax.errors import InputError

VERSIONS = ("v3", "v1")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    v3, v1 = (tmp_path_factory.mktemp(version) for version in VERSIONS)
    write_unigram(v3)
    write_byte_pair(v1)
    return {"v3": dj.Tokenizer(v3), "v1": dj.Tokenizer(v1)}


@pytest.fixture(params=VERSIONS)
def tokenizer(tokenizers, request):
    return tokenizers[request.param]


@pytest.fixture(scope="module")
def v3(tokenizers):
    return tokenizers["v3"]


@pytest.fixture(scope="module")
def v1(tokenizers):
    return tokenizers["v1"]


@settings(max_examples=500, deadline=None)
@given(ANY_TEXT)
def test_ids_are_those_of_sentencepiece_itself(v3, text):
    judge = sentencepiece.SentencePieceProcessor(model_file=str(v3.path / "spm.model"))
    assert v3.encode(text).tolist() == judge.encode(text)
    assert v3.encode_many([text, text])[1].tolist() == judge.encode(text)
    assert v3.encode_with_offsets(text)[0].tolist() == judge.encode(text)


def is_white(sign, judge):
    """White space for Python, or for the normaliser."""
    return sign.isspace() or (judge is not None and judge.normalize(f"a{sign}b") == "▁a▁b")


def check_offsets(tokenizer, text, judge=None):
    ids, offsets = tokenizer.encode_with_offsets(text)
    starts, ends = offsets.T
    assert ((starts >= 0) & (starts <= ends) & (ends <= len(text))).all()
    assert (np.diff(starts) >= 0).all()
    assert (np.diff(ends) >= 0).all()
    stretches = [text[start:end] for start, end in offsets]
    for stretch in stretches:
        # White space is outside.
        assert not stretch or not (is_white(stretch[0], judge) or is_white(stretch[-1], judge))
    covered = np.zeros(len(text), bool)
    for start, end in offsets:
        covered[start:end] = True
    if len(ids):
        assert all(is_white(sign, judge) for sign, its in zip(text, covered, strict=True) if not its)
    for start, end in zip(starts[1:], ends[:-1], strict=True):
        if start < end:
            # What two tokens share is one character, with the marks that it was composed with.
            shared = text[start:end]
            units = {*judge.normalize(shared, with_offsets=True)[1][:-1]} if judge else shared
            assert len(units) <= 1, (ids, offsets)


@settings(max_examples=700, deadline=None)
@given(ANY_TEXT)
def test_offsets_say_where_in_the_text_each_piece_comes_from(v3, text):
    check_offsets(v3, text, v3.vocabulary.model)


@settings(max_examples=500, deadline=None)
@given(ANY_TEXT)
def test_offsets_say_where_in_the_text_each_run_of_bytes_comes_from(v1, text):
    check_offsets(v1, text)


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
def test_stretches_of_words_are_the_words_as_they_were_written(v3, text, words):
    ids, offsets = v3.encode_with_offsets(text)
    begins = np.flatnonzero([v3.token(index).startswith("▁") for index in ids])
    parts = [its[its[:, 0] < its[:, 1]] for its in np.split(offsets, begins[1:])]
    assert [text[its[0, 0] : its[-1, 1]] for its in parts] == words


def test_tokens_of_one_character_share_it(v3):
    text = "of Q\u0308㎏日"
    ids, offsets = v3.encode_with_offsets(text)
    found = Counter(text[start:end] for start, end in offsets)
    assert (found["Q"], found["\u0308"], found["㎏"], found["日"]) == (1, 2, 2, 3)


def test_bytes_of_one_character_share_it(v1):
    text = "a 😀\u3000b"
    ids, offsets = v1.encode_with_offsets(text)
    assert {text[start:end] for start, end in offsets} == {"a", "😀", "", "b"}
    assert (v1.decode(ids), len(ids) > 6) == (text, True)


@settings(max_examples=200, deadline=None)
@given(ANY_TEXT)
def test_bytes_are_decoded_to_the_text_they_were(v1, text):
    assert v1.decode(v1.encode(text)) == text


def test_pieces_are_decoded_to_the_text_as_it_was_normalised(v3):
    assert v3.decode(v3.encode("Fine  ﬁnds, 日本!")) == "Fine finds, 日本!"
    assert v3.decode([v3.cls_id, *v3.encode("A [MASK] sings"), v3.sep_id]) == "[CLS] A [MASK] sings [SEP]"


def test_a_mask_is_recognised_and_other_special_tokens_are_plain_text(tokenizer):
    ids, offsets = tokenizer.encode_with_offsets("A man [MASK], [CLS][MASK]")
    places = np.flatnonzero(ids == tokenizer.mask_id)
    assert offsets[places].tolist() == [[6, 12], [19, 25]]
    assert not {tokenizer.cls_id, tokenizer.unk_id, tokenizer.pad_id, tokenizer.sep_id} & set(ids.tolist())
    assert tokenizer.decode(ids) == "A man [MASK] , [CLS] [MASK]"
    assert (tokenizer.encode("A man [MASK], [CLS][MASK]") == ids).all()
    assert tokenizer.mask_id not in tokenizer.encode_many(["[MASK]"])[0]


def test_the_space_before_a_mask_is_no_token_of_its_own_in_v1(v1):
    assert v1.encode("the [MASK] dog").tolist() == [*v1.encode("the"), v1.mask_id, *v1.encode(" dog")]


def test_many_texts_are_encoded_as_each_alone(tokenizer):
    texts = [line * (number % 3) for number, line in enumerate(TEXT.split("\n") * 40)]
    many = tokenizer.encode_many(texts)
    assert len(many) == len(texts)
    assert all((ids == tokenizer.encode(text)).all() for ids, text in zip(many, texts, strict=True))
    assert all(ids.dtype == np.int32 for ids in many)


def test_a_lone_surrogate_is_refused_with_its_place(tokenizer):
    for encode in (tokenizer.encode, tokenizer, lambda text: tokenizer.encode_many(["a", text])):
        with pytest.raises(InputError, match=r"lone surrogate U\+D83D at character 2"):
            encode("ab\ud83d!")


def test_a_tokenizer_can_be_sent_to_another_process(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.sha256 == tokenizer.sha256
    assert again.encode("the dog").tolist() == tokenizer.encode("the dog").tolist()


def test_words_begin_with_a_space_and_single_signs_stand_alone(tokenizers):
    text = "The lazy dog, it's"
    for tokenizer in tokenizers.values():
        batch = tokenizer(text)
        starts = {batch.offsets[0, place, 0] for place in np.flatnonzero(batch.word_starts[0])}
        assert starts - {12, 16} == {0, 4, 9, 14}
        assert tokenizer.word_starts().shape == (tokenizer.vocab_size,)
        assert tokenizer.word_starts()[list(tokenizer.special_ids)].all()


def test_ids_stand_in_the_vocabulary(v3, v1):
    assert (v3.special_ids, v3.vocab_size) == ((0, 1, 2, 3, 360), 361)
    assert v1.special_ids == (0, 1, 2, 3, v1.vocab_size - 1)
    for tokenizer in (v3, v1):
        names = [tokenizer.token(index) for index in tokenizer.special_ids]
        assert names == ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]


@pytest.mark.parametrize(
    ("contents", "message"),
    [(b"", "not a SentencePiece model"), (b"\n\x03abc" * 20, "not a SentencePiece model"), (None, "no such tokenizer")],
)
def test_a_damaged_model_file_is_one_line(tmp_path, contents, message):
    path = tmp_path / "spm.model"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(InputError, match=message) as raised:
        dj.Tokenizer(path)
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_truncated_model_file_is_refused(tmp_path, v3):
    whole = (v3.path / "spm.model").read_bytes()
    for size in range(1, len(whole), len(whole) // 20):
        (tmp_path / "spm.model").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"spm.model: "):
            dj.Tokenizer(tmp_path)


def test_a_model_without_the_special_pieces_is_refused(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split("\n")), model_prefix=str(tmp_path / "spm"), vocab_size=80, minloglevel=2
    )
    with pytest.raises(InputError, match=r"spm.model: has no \[PAD\].*pad_token"):
        dj.Tokenizer(tmp_path)
    names = {"pad_token": "<unk>", "cls_token": {"content": "<s>"}, "sep_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    tokenizer = dj.Tokenizer(tmp_path)
    assert tokenizer.special_ids == (0, 1, 2, 0, 80)
    assert tokenizer("日本 a").input_ids[0].tolist() == [1, *tokenizer.encode("日本 a"), 2]
    check_offsets(tokenizer, "日本 a  ﬁ x日", tokenizer.vocabulary.model)


def test_settings_that_change_ids_are_refused(tmp_path, v3):
    (tmp_path / "spm.model").write_bytes((v3.path / "spm.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    with pytest.raises(InputError, match="do_lower_case"):
        dj.Tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer_config.json: not JSON"):
        dj.Tokenizer(tmp_path)


def test_white_space_takes_no_more_time_than_it_has_signs(v1):
    text = " " * 200_000 + "a"
    started = time.process_time()
    v1.encode(text)
    assert time.process_time() - started < 5
    mask = v1.mask_id
    assert v1.encode("a   [MASK] [MASK]  b").tolist().count(mask) == 2
