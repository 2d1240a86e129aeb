"""Tokenizers with new tokens: ids, offsets, word starts, saved folders."""

import json
import pickle

import numpy as np
import pytest
from toy_tokenizers import TEXT

import deberta_jax as dj
from deberta_jax.errors import InputError
from deberta_jax.tokenizers.special_tokens import check_new_tokens

NEW = ["<gene>", "<gene>s", "[E1]", "müller"]
TEXTS = ["the <gene> eats<gene>it, <gene>s!", "[E1]müller[E1] Müller  <gene>\n<gene>", "a [MASK] <gene>", "<gene", ""]
TEXTS += TEXT.splitlines()


def test_new_tokens_are_single_ids_after_the_vocabulary(tokenizer):
    extended = tokenizer.with_tokens(NEW)
    size = tokenizer.vocab_size
    assert extended.vocab_size == size + 4
    assert [extended.encode(token).tolist() for token in NEW] == [[size], [size + 1], [size + 2], [size + 3]]
    assert [extended.token(size + index) for index in range(4)] == NEW
    assert extended.special_ids == tokenizer.special_ids
    # The original tokenizer does not change, and other texts have the same ids.
    assert (tokenizer.vocab_size, len(tokenizer.encode("<gene>")) > 1) == (size, True)
    assert extended.sha256 != tokenizer.sha256
    assert (extended.encode(TEXT) == tokenizer.encode(TEXT)).all()


def test_tokens_that_are_already_known_keep_their_ids(tokenizer):
    extended = tokenizer.with_tokens(["<gene>", "e", "[MASK]", "<gene>", "[CLS]"])
    assert extended.vocab_size == tokenizer.vocab_size + 1
    assert extended.encode("the")[-1] == tokenizer.vocabulary.id_of("e") != tokenizer.encode("the")[-1]
    assert (extended.encode("[MASK]") == tokenizer.encode("[MASK]")).all()
    assert (extended.encode("[CLS]") == tokenizer.encode("[CLS]")).all()
    assert extended.with_tokens(["<gene>"]).sha256 == extended.sha256
    twice = tokenizer.with_tokens(["<gene>"]).with_tokens(["[E1]"])
    assert twice.sha256 == tokenizer.with_tokens(["<gene>", "[E1]"]).sha256


def test_offsets_word_starts_and_truncation_count_a_new_token_as_one_word(tokenizer):
    extended = tokenizer.with_tokens(NEW)
    extended.word_starts()
    text = "the <gene> eats <gene>s"
    ids, offsets = extended.encode_with_offsets(text)
    spans = {text[start:end] for index, (start, end) in zip(ids, offsets, strict=True) if index >= tokenizer.vocab_size}
    assert spans == {"<gene>", "<gene>s"}
    starts = extended.word_starts()
    assert starts.shape == (extended.vocab_size,) and starts[tokenizer.vocab_size :].all()
    assert (starts[: tokenizer.vocab_size] == tokenizer.word_starts()).all()
    batch = extended([f"<gene> {TEXT}"], max_length=4)
    assert batch.input_ids.shape == (1, 4)
    assert batch.input_ids[0, 1] == tokenizer.vocab_size
    assert batch.word_starts[0, 1]
    assert extended.decode(ids[:2]).startswith("the")


def test_word_starts_read_before_do_not_belong_to_the_new_tokenizer(tokenizer):
    tokenizer(["a"])
    assert tokenizer.with_tokens(NEW)(["<gene>"]).word_starts[0, 1]


def test_new_tokens_are_saved_and_pickled(tokenizer, tmp_path):
    extended = tokenizer.with_tokens(NEW)
    extended.save(tmp_path)
    added = json.loads((tmp_path / "added_tokens.json").read_text())
    assert added.items() >= {token: tokenizer.vocab_size + index for index, token in enumerate(NEW)}.items()
    for again in (dj.Tokenizer(tmp_path), pickle.loads(pickle.dumps(extended))):
        assert (again.sha256, again.vocab_size) == (extended.sha256, extended.vocab_size)
        for text in TEXTS:
            assert (again.encode(text) == extended.encode(text)).all()
    # In a folder that already contains them, the tokens are not added again.
    assert dj.Tokenizer(tmp_path).with_tokens(NEW).vocab_size == extended.vocab_size


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["<a>", ""], "token 2 of 2 is ''; expected a string with a visible character"),
        ([" \t"], "token 1 of 1 is ' .t'"),
        ([3], "token 1 of 1 is 3; expected a string"),
        ("<gene>", "tokens is the string '<gene>'; expected a list of tokens"),
        (["\ud800"], "lone surrogate"),
    ],
)
def test_invalid_tokens_are_refused(tokens, message):
    with pytest.raises(InputError, match=message) as raised:
        check_new_tokens(tokens)
    assert "\n" not in str(raised.value)


@pytest.mark.reference
def test_transformers_gives_the_same_ids(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    extended = tokenizer.with_tokens([*NEW, "e"])
    extended.save(tmp_path)
    model_type = "deberta" if (tmp_path / "vocab.json").is_file() else "deberta-v2"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    reference = AutoTokenizer.from_pretrained(tmp_path)
    assert len(reference) == extended.vocab_size
    for text in TEXTS:
        assert reference(text, add_special_tokens=False)["input_ids"] == extended.encode(text).tolist(), text
    expected, batch = reference(TEXTS[:2], padding=True), extended(TEXTS[:2])
    assert (np.asarray(expected["input_ids"]) == batch.input_ids).all()
    assert reference.convert_tokens_to_ids(NEW) == [extended.vocab_size - 4 + index for index in range(4)]
