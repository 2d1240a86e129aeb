import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deberta_jax.inference.entities import Word, _marked, merged, tag_entities, words_of
from deberta_jax.inference.rows import Row
from deberta_jax.inference.windows import Tokens, stitched, stride_of
from deberta_jax.tokenizers.batch import BatchOptions, EncodedText, make_batch

TEXT = "a b c d e f"


def entities_of(labels, marked=True):
    words = [Word(2 * place, 2 * place + 1, label, 0.5) for place, label in enumerate(labels.split())]
    return [(entity.label, entity.text) for entity in merged(TEXT, words, marked)]


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        ("O O O O O O", []),
        ("B-X I-X O I-X I-X O", [("X", "a b"), ("X", "d e")]),
        ("I-X I-X B-X I-X I-Y B-Y", [("X", "a b"), ("X", "c d"), ("Y", "e"), ("Y", "f")]),
        ("B-X I-Y I-X O O B-X", [("X", "a"), ("Y", "b"), ("X", "c"), ("X", "f")]),
        ("S-X S-X B-X E-X I-X O", [("X", "a"), ("X", "b"), ("X", "c d"), ("X", "e")]),
        ("B-X I-X E-X U-X B-X L-X", [("X", "a b c"), ("X", "d"), ("X", "e f")]),
    ],
)
def test_entities_are_read_from_every_scheme_of_labels(labels, wanted):
    assert entities_of(labels) == wanted


def test_neighbours_of_one_plain_label_are_one_entity():
    assert entities_of("X X O Y X X", marked=False) == [("X", "a b"), ("Y", "d"), ("X", "e f")]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("He (London) said", ["He", "(", "London", ")", "said"]),
        ("“Berlin”, #Rome!", ["“", "Berlin", "”", ",", "#", "Rome", "!"]),
        ("O'Brien's e-mail of the U.S.", ["O'Brien's", "e-mail", "of", "the", "U.S", "."]),
        ("Paris/Rome—AT&T ...", ["Paris", "/", "Rome", "—", "AT&T", ".", ".", "."]),
    ],
)
@pytest.mark.parametrize("kind", ["unigram", "byte_pair"])
def test_signs_part_words_but_for_those_within_one(text, wanted, kind, tokenizer, byte_pair_tokenizer):
    ids, offsets = (tokenizer if kind == "unigram" else byte_pair_tokenizer).encode_with_offsets(text)
    outputs = np.zeros(len(ids), np.int64), np.ones(len(ids))
    words = words_of(text, Tokens(offsets, outputs), "a")
    assert [text[word.start : word.end] for word in words] == wanted


def test_a_label_of_no_scheme_stands_beside_those_of_one():
    assert _marked(("O", "B-PER", "I-PER", "X", "[CLS]"))
    assert not _marked(("O", "B-cell", "T-cell", "protein"))
    assert entities_of("B-X I-X X O O O") == [("X", "a b c")]
    assert entities_of("B-Y I-Y X O O O") == [("Y", "a b"), ("X", "c")]


def test_words_are_parted_by_white_space_and_are_single_pieces_where_no_spaces_are_written():
    text = "Ab cd日本語"
    offsets = np.asarray([(0, 1), (1, 2), (3, 5), (5, 6), (5, 6), (6, 8)], np.int32)
    outputs = np.arange(6), np.linspace(0.1, 0.6, 6)
    words = words_of(text, Tokens(offsets, outputs), "abcdef")
    assert [(text[word.start : word.end], word.label) for word in words] == [
        ("Ab", "a"),
        ("cd", "c"),
        ("日", "d"),
        ("本語", "f"),
    ]
    assert words_of("", Tokens(offsets[:0], outputs), "abcdef") == []


def test_an_entitys_probability_is_the_mean_of_its_words():
    words = [Word(0, 1, "B-X", 0.4), Word(2, 3, "I-X", 0.8)]
    [entity] = merged(TEXT, words, True)
    assert entity.probability == pytest.approx(0.6)
    assert (entity.start, entity.end) == (0, 3)


def test_entities_stand_where_they_say_and_hold_whole_words(made, tokenizer, texts):
    model = made("token_classification", labels=("O", "B-A", "I-A", "S-B"))
    for text, entities in zip(texts, tag_entities(model, tokenizer, texts), strict=True):
        for entity in entities:
            assert text[entity.start : entity.end] == entity.text == entity.text.strip() != ""
            assert 0 < entity.probability <= 1
        ends = [place for entity in entities for place in (entity.start, entity.end)]
        assert ends == sorted(ends)
    assert sum(map(len, tag_entities(model, tokenizer, texts))) > 20


@given(st.integers(0, 200), st.sampled_from([12, 15, 32]))
@settings(max_examples=50, deadline=None)
def test_each_token_is_read_in_the_window_in_which_it_has_most_context(number, limit):
    ids = np.arange(10, number + 10, dtype=np.int32)
    offsets = np.stack([ids, ids + 1], axis=1)
    options = BatchOptions(1, 2, 0, limit, "first", stride_of(limit))
    batch = make_batch([EncodedText(ids, offsets, ids % 3 == 0)], None, options)
    rows, windows = [], []
    for its, mask in zip(batch.input_ids, batch.attention_mask, strict=True):
        size = int(mask.sum())
        windows.append(its[1 : size - 1].tolist())
        place = len(rows)
        outputs = np.stack([its, np.full(len(its), place)], axis=1)
        rows.append(Row(its[:size], batch.offsets[place, :size], its[:size], outputs))
    tokens = stitched(rows, limit)
    assert tokens.outputs[:, 0].tolist() == ids.tolist()
    assert tokens.offsets.tolist() == offsets.tolist()

    def context(token, place):
        left = windows[place].index(token) if place else 1000
        right = len(windows[place]) - 1 - windows[place].index(token) if place < len(windows) - 1 else 1000
        return min(left, right)

    for token, place in tokens.outputs.tolist():
        holding = [other for other, its in enumerate(windows) if token in its]
        assert context(token, place) == max(context(token, other) for other in holding)
