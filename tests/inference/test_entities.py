import numpy as np
import pytest

from deberta_jax.inference.entities import Word, has_prefixes, merge_words, split_words
from deberta_jax.inference.windows import Tokens

TEXT = "a b c d e f"


def entities_of(labels, prefixed=True):
    words = [Word(2 * index, 2 * index + 1, label, 0.5) for index, label in enumerate(labels.split())]
    return [(entity.label, entity.text) for entity in merge_words(TEXT, words, prefixed)]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("O O O O O O", []),
        ("B-X I-X O I-X I-X O", [("X", "a b"), ("X", "d e")]),
        ("I-X I-X B-X I-X I-Y B-Y", [("X", "a b"), ("X", "c d"), ("Y", "e"), ("Y", "f")]),
        ("B-X I-Y I-X O O B-X", [("X", "a"), ("Y", "b"), ("X", "c"), ("X", "f")]),
        ("S-X S-X B-X E-X I-X O", [("X", "a"), ("X", "b"), ("X", "c d"), ("X", "e")]),
        ("B-X I-X E-X U-X B-X L-X", [("X", "a b c"), ("X", "d"), ("X", "e f")]),
    ],
)
def test_entities_are_read_from_every_labeling_scheme(labels, expected):
    assert entities_of(labels) == expected


def test_neighboring_words_with_a_label_without_prefix_are_one_entity():
    assert entities_of("X X O Y X X", prefixed=False) == [("X", "a b"), ("Y", "d"), ("X", "e f")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He (London) said", ["He", "(", "London", ")", "said"]),
        ("“Berlin”, #Rome!", ["“", "Berlin", "”", ",", "#", "Rome", "!"]),
        ("O'Brien's e-mail of the U.S.", ["O'Brien's", "e-mail", "of", "the", "U.S", "."]),
        ("Paris/Rome—AT&T ...", ["Paris", "/", "Rome", "—", "AT&T", ".", ".", "."]),
    ],
)
@pytest.mark.parametrize("kind", ["unigram", "byte_pair"])
def test_punctuation_separates_words_except_inside_a_word(text, expected, kind, tokenizer, byte_pair_tokenizer):
    ids, offsets = (tokenizer if kind == "unigram" else byte_pair_tokenizer).encode_with_offsets(text)
    outputs = np.zeros(len(ids), np.int64), np.ones(len(ids))
    words = split_words(text, Tokens(offsets, outputs), "a")
    assert [text[word.start : word.end] for word in words] == expected


def test_a_label_without_prefix_is_allowed_among_prefixed_labels():
    assert has_prefixes(("O", "B-PER", "I-PER", "X", "[CLS]"))
    assert not has_prefixes(("O", "B-cell", "T-cell", "protein"))
    assert entities_of("B-X I-X X O O O") == [("X", "a b c")]
    assert entities_of("B-Y I-Y X O O O") == [("Y", "a b"), ("X", "c")]


def test_white_space_separates_words_and_each_token_is_a_word_in_scripts_without_spaces():
    text = "Ab cd日本語"
    offsets = np.asarray([(0, 1), (1, 2), (3, 5), (5, 6), (5, 6), (6, 8)], np.int32)
    outputs = np.arange(6), np.linspace(0.1, 0.6, 6)
    words = split_words(text, Tokens(offsets, outputs), "abcdef")
    assert [(text[word.start : word.end], word.label) for word in words] == [
        ("Ab", "a"),
        ("cd", "c"),
        ("日", "d"),
        ("本語", "f"),
    ]
    assert split_words("", Tokens(offsets[:0], outputs), "abcdef") == []


def test_the_probability_of_an_entity_is_the_mean_over_its_words():
    words = [Word(0, 1, "B-X", 0.4), Word(2, 3, "I-X", 0.8)]
    [entity] = merge_words(TEXT, words, True)
    assert entity.probability == pytest.approx(0.6)
    assert (entity.start, entity.end) == (0, 3)


def test_entities_of_a_model_have_their_text_and_do_not_overlap(texts, predictions):
    results = predictions("token_classification")
    for text, entities in zip(texts, results, strict=True):
        for entity in entities:
            assert text[entity.start : entity.end] == entity.text == entity.text.strip() != ""
            assert 0 < entity.probability <= 1
        ends = [end for entity in entities for end in (entity.start, entity.end)]
        assert ends == sorted(ends)
    assert sum(map(len, results)) > 20


def test_bare_prefixes_mark_entities_of_one_unnamed_type():
    assert has_prefixes(("O", "B", "I"))
    assert not has_prefixes(("O", "B", "X"))
    assert entities_of("B I B O I I") == [("entity", "a b"), ("entity", "c"), ("entity", "e f")]
