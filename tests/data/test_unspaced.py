"""Whole-word masking of text without spaces: units, masked shares and spans, and the report about such text."""

import itertools
import random

import numpy as np
import pytest
from toy_text import ToyTokenizer
from toy_tokenizers import write_byte_pair, write_unigram

from deberta_jax.data.masking import Masking, MaskingVocabulary, mask_tokens
from deberta_jax.data.mixture import Source
from deberta_jax.data.prepare import prepare
from deberta_jax.data.unspaced import unspaced_lines
from deberta_jax.data.words import split_unspaced
from deberta_jax.errors import InputError
from deberta_jax.tokenizers.scripts import CONTINUES, OTHER, UNSPACED, unspaced_codes
from deberta_jax.tokenizers.train import train_tokenizer

CHINESE, DNA, ENGLISH = "chinese", "dna", "english"
LENGTH = 256


def make_text(name, characters, seed=0):
    rng = random.Random(seed)
    if name == DNA:
        return "".join(rng.choices("ACGT", k=characters))
    if name == ENGLISH:
        syllables = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
        words = ["".join(rng.choices(syllables, k=rng.choice((1, 2, 2, 3, 4)))) for _ in range(300)]
        chosen = rng.choices(words, [1 / (rank + 3) for rank in range(300)], k=characters // 5)
        return " ".join(word + "." * (rng.random() < 0.1) for word in chosen)
    # Words of one to three characters from 300, Zipf's law, and a comma after about 12 characters.
    words = ["".join(chr(0x4E00 + rng.randrange(300)) for _ in range(rng.choice((1, 2, 2, 3)))) for _ in range(500)]
    chosen = rng.choices(words, [1 / (rank + 3) for rank in range(500)], k=characters // 2)
    return "".join(word + "，" * (rng.random() < 1 / 6) for word in chosen)


@pytest.fixture(scope="module", params=[CHINESE, DNA, ENGLISH])
def corpus(request, tmp_path_factory):
    """The name of a text, a tokenizer that was trained on it, and sequences of it."""
    name, folder = request.param, tmp_path_factory.mktemp("tokenizer")
    text = make_text(name, 40_000)
    pieces = {CHINESE: 900, DNA: 400, ENGLISH: 400}[name]
    tokenizer = train_tokenizer(
        [text[start : start + 2000] for start in range(0, len(text), 2000)], folder / "a", pieces
    )
    ids = tokenizer.encode(text)
    number = min(24, len(ids) // (LENGTH - 2))
    rows = ids[: number * (LENGTH - 2)].reshape(number, -1)
    ends = np.ones((number, 1), np.int32)
    return name, tokenizer, np.hstack([ends * tokenizer.cls_id, rows, ends * tokenizer.sep_id]).astype(np.int32)


def vocabulary_of(tokenizer):
    return MaskingVocabulary(
        tokenizer.mask_id, tokenizer.vocab_size, tokenizer.special_ids, tokenizer.word_starts(), tokenizer.unspaced()
    )


def spans(positions):
    """The lengths of runs of consecutive positions."""
    return [len(list(run)) for _, run in itertools.groupby(enumerate(positions), lambda pair: pair[1] - pair[0])]


def test_a_share_of_15_percent_is_masked_in_short_spans_over_the_whole_sequence(corpus):
    name, tokenizer, sequences = corpus
    vocabulary, rng = vocabulary_of(tokenizer), np.random.default_rng(0)
    shares, lengths, counts = [], [], np.zeros(LENGTH)
    for input_ids in np.repeat(sequences, 5, 0):
        _, positions, _, weights = mask_tokens(input_ids, np.ones_like(input_ids), rng, vocabulary, Masking())
        chosen = positions[weights > 0]
        shares.append(len(chosen) / (LENGTH - 2))
        lengths += spans(chosen.tolist())
        counts[chosen] += 1
    assert 0.149 < np.mean(shares) < 0.16
    assert np.mean(lengths) < (4 if name == ENGLISH else 2.6)
    assert np.quantile(lengths, 0.95) <= (12 if name == ENGLISH else 6)
    # Each eighth of the sequence is masked about equally often.
    eighths = counts[1:-1][:248].reshape(8, -1).mean(1) / len(shares)
    assert np.abs(eighths - 0.155).max() < 0.05


def test_without_the_rule_long_runs_are_masked_as_one_word(corpus):
    name, tokenizer, sequences = corpus
    vocabulary = vocabulary_of(tokenizer)
    lengths = []
    for index, input_ids in enumerate(sequences):
        rows = [
            mask_tokens(input_ids, np.ones_like(input_ids), np.random.default_rng(index), vocabulary, masking)
            for masking in (Masking(), Masking(max_word_tokens=None))
        ]
        if name == ENGLISH:
            assert all((a == b).all() for a, b in zip(*rows, strict=True))
        positions, weights = rows[1][1], rows[1][3]
        lengths += spans(positions[weights > 0].tolist())
    assert name == ENGLISH or np.mean(lengths) > 5


def test_the_mode_of_the_original_has_no_limit(corpus):
    _, tokenizer, sequences = corpus
    vocabulary = vocabulary_of(tokenizer)
    plain = MaskingVocabulary(vocabulary.mask_id, vocabulary.vocab_size, vocabulary.special_ids, vocabulary.word_starts)
    for input_ids in sequences[:4]:
        one, other = (
            mask_tokens(input_ids, np.ones_like(input_ids), np.random.default_rng(3), each, masking)
            for each, masking in (
                (vocabulary, Masking(mode="tail_biased")),
                (plain, Masking(mode="tail_biased", max_word_tokens=None)),
            )
        )
        assert all((a == b).all() for a, b in zip(one, other, strict=True))


def test_such_text_is_reported_in_one_line(corpus, tmp_path):
    name, tokenizer, _ = corpus
    (tmp_path / "text.txt").write_text(make_text(name, 4000))
    prepare([str(tmp_path / "text.txt")], tmp_path / "shards", tokenizer, length=64)
    vocabulary, shards = vocabulary_of(tokenizer), tmp_path / "shards"
    lines = unspaced_lines(shards, vocabulary, Masking())
    assert len(lines) == (name != ENGLISH)
    if lines:
        assert lines[0].startswith("text without spaces: ") and "each of them is masked as a word" in lines[0]
        (named,) = unspaced_lines([Source("web", shards, 1.0)], vocabulary, Masking())
        assert "web: " in named
        for masking in (Masking(max_word_tokens=None), Masking(mode="tail_biased")):
            (line,) = unspaced_lines(shards, vocabulary, masking)
            assert "runs of them are masked as one word; set data.masking.mode uniform" in line
    assert not unspaced_lines(shards, vocabulary, Masking(whole_words=False))
    assert not unspaced_lines(shards, vocabulary, Masking(mode="tail_biased", max_ngram=1))


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["今天", "▁我", "##天", "カ", "ก", "ລ", "ក", "မ", "𠀀"], UNSPACED),
        (["the", "▁the", "é", "한", "д", "，", "。", "5", "▁", "", "[CLS]", "<0x41>", "<0xC3>", "<0xEA>"], OTHER),
        (["\u0e34", "\u0301", "<0x80>", "<0xBF>"], CONTINUES),
        (["<0xE3>", "<0xE9>"], UNSPACED),
    ],
)
def test_tokens_of_scripts_without_spaces(tokens, expected):
    assert unspaced_codes(tokens).tolist() == [expected] * len(tokens)


def test_tokens_of_byte_level_vocabularies_are_read_as_bytes(tmp_path):
    # 今 is E4 BB 8A: its bytes are spelled ä, » and Ĭ.
    tokens = ["Ġthe", "ä»Ĭ", "Ġä»Ĭ", "ä", "ä»", "»", "Ĭä»Ĭ", "Ã©", "Ã"]
    expected = [OTHER, *[UNSPACED] * 4, CONTINUES, CONTINUES, OTHER, OTHER]
    assert unspaced_codes(tokens).tolist() == expected
    for write in (write_byte_pair, write_unigram):
        tokenizer = write(tmp_path)
        codes = tokenizer.unspaced()
        assert codes.shape == (tokenizer.vocab_size,)
        assert not codes[list(tokenizer.special_ids)].any()


def test_words_begin_at_letters_of_such_scripts_and_after_them_and_in_long_words():
    codes = np.array([0, 0, 1, 1, 2, 2, 1, 0, 0, 0, 0, 2, 0, 0, 0, 0], np.int8)
    starts = np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0], bool)
    limited = split_unspaced(starts, codes, 4)
    assert np.flatnonzero(limited).tolist() == [0, 2, 3, 6, 7, 9, 10, 12, 13, 14]
    assert np.flatnonzero(split_unspaced(starts, codes, 5)).tolist() == [0, 2, 3, 6, 7, 9, 14]
    assert not len(split_unspaced(starts[:0], codes[:0], 5))


def test_a_table_of_another_size_is_rejected():
    with pytest.raises(InputError, match="unspaced has 3 entries, but the vocabulary has 261 tokens"):
        MaskingVocabulary(260, 261, (260,), ToyTokenizer().vocabulary().word_starts, np.zeros(3, np.int8))
    with pytest.raises(InputError, match="max_word_tokens is 0; it must be at least 1"):
        Masking(max_word_tokens=0)
