"""A held-out share and folds: stratified, complete, by groups, and the same for a seed."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from deberta_jax.errors import InputError
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.splits import common_groups_note, fold_numbers, hold_out, units_of
from deberta_jax.finetuning.strata import BY_ANSWERABLE, BY_LABEL, BY_QUANTILE, BY_TAG, NOT_STRATIFIED
from deberta_jax.tasks.examples import Seq2SeqExample, SpanExample, TextExample, WordsExample


def texts(labels, inputs=None):
    return [
        TextExample(str(k), f"text {inputs[k] if inputs else k}", None, label, f"row {k}")
        for k, label in enumerate(labels)
    ]


def counts(examples):
    return Counter(example.label for example in examples)


def test_each_label_has_its_share_and_the_seed_decides():
    examples = texts(["a"] * 600 + ["b"] * 300 + ["c"] * 100)
    train, dev, notes = hold_out(examples, 0.1, 0, BY_LABEL)
    assert counts(dev) == {"a": 60, "b": 30, "c": 10}
    assert sorted(map(int, (e.id for e in train + dev))) == list(range(1000))
    assert notes == ("held out 100 of 1,000 examples as dev (stratified by label, seed 0)",)
    assert hold_out(examples, 0.1, 0, BY_LABEL).dev == dev
    other = hold_out(examples, 0.1, 1, BY_LABEL).dev
    assert counts(other) == counts(dev) and other != dev
    # The held-out examples are spread over the table.
    assert 20 < sum(int(example.id) < 300 for example in dev) < 40
    assert counts(hold_out(examples, 0.35, 0, BY_LABEL).dev) == {"a": 210, "b": 105, "c": 35}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_only_example_of_a_label_stays_in_training_and_is_reported(share):
    examples = texts(["no"] * 41 + ["ok"] * 40 + ["closing"] + ["x"])
    train, dev, notes = hold_out(examples, share, 0, BY_LABEL)
    assert {"closing", "x", "no", "ok"} == set(counts(train))
    assert set(counts(dev)) == {"no", "ok"}
    assert notes[1] == "2 labels have only one example, which stays in training: closing, x"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 12), st.integers(0, 6)), min_size=2, max_size=40),
    st.sampled_from([0.05, 0.1, 0.3, 0.7]),
    st.integers(0, 5),
)
def test_any_table_is_split_completely_by_groups_and_texts(rows, share, seed):
    labels, inputs, numbers = (list(column) for column in zip(*rows, strict=True))
    examples, groups = texts(labels, inputs), [f"g{k}" if k else "" for k in numbers]
    try:
        train, dev, _ = hold_out(examples, share, seed, BY_LABEL, groups)
    except InputError:
        # Each label has one unit of examples at most that could be taken.
        assert len(set(units_of(examples, groups).tolist())) <= len(set(labels))
        return
    assert sorted(e.group for e in train + dev) == sorted(e.group for e in examples)
    assert train and dev
    assert set(counts(train)) == set(labels)
    assert not {e.text for e in train} & {e.text for e in dev}
    by_row = dict(zip((e.group for e in examples), groups, strict=True))
    assert not ({by_row[e.group] for e in train} & {by_row[e.group] for e in dev}) - {""}


def test_groups_that_share_a_text_are_one_unit():
    examples = texts("aaaaaa", inputs=[0, 1, 1, 2, 3, 4])
    assert units_of(examples).tolist() == [0, 1, 1, 2, 3, 4]
    assert units_of(examples, ["x", "x", "y", "", "z", ""]).tolist() == [0, 0, 0, 1, 2, 3]


def test_a_share_of_large_groups_is_close():
    random = np.random.default_rng(0)
    groups = [f"g{k}" for k in random.integers(0, 50, 1000)]
    labels = [str(k) for k in random.integers(0, 3, 1000)]
    _, dev, notes = hold_out(texts(labels), 0.1, 0, BY_LABEL, groups)
    assert 80 <= len(dev) <= 120
    assert min(counts(dev).values()) > 20
    assert "50 groups" in notes[0]


def test_numbers_are_stratified_by_quantile_also_several():
    values = np.random.default_rng(0).exponential(size=(500, 2))
    for label, column in (("one", values[:, 0].tolist()), ("two", [tuple(row) for row in values.tolist()])):
        dev = np.asarray([np.atleast_1d(e.label) for e in hold_out(texts(column), 0.2, 3, BY_QUANTILE).dev])
        assert 95 <= len(dev) <= 105, label
        np.testing.assert_allclose(np.median(dev, 0), np.median(values[:, : dev.shape[1]], 0), rtol=0.12)
        # Each tenth of the values is there.
        edges = np.quantile(values[:, 0], np.arange(1, 10) / 10)
        assert np.bincount(np.searchsorted(edges, dev[:, 0], side="right")).min() >= 8
    assert len(hold_out(texts([1.0, 1.0, 2.0]), 0.1, 0, BY_QUANTILE).dev) == 1


def test_rare_labels_of_several_and_rare_tags_are_on_both_sides():
    random = np.random.default_rng(0)
    labels = [
        tuple(name for name, p in (("a", 0.5), ("b", 0.3), ("c", 0.03)) if random.random() < p) for _ in range(400)
    ]
    train, dev, _ = hold_out(texts(labels), 0.25, 0, BY_LABEL)
    for name in "abc":
        total = sum(name in example.label for example in train + dev)
        assert sum(name in example.label for example in dev) == pytest.approx(total / 4, abs=1.5)
    words = [WordsExample(str(k), (f"w{k}",) * 2, ("O", "B-RARE" if k in (3, 7) else "B-X"), (2,)) for k in range(40)]
    train, dev, notes = hold_out(words[:7] + words[8:], 0.5, 0, BY_TAG)
    assert any("B-RARE" in e.tags for e in train) and not any("B-RARE" in e.tags for e in dev)
    assert notes[1] == "1 tag has only one example, which stays in training: B-RARE"
    train, dev, _ = hold_out(words, 0.5, 0, BY_TAG)
    assert any("B-RARE" in e.tags for e in train) and any("B-RARE" in e.tags for e in dev)


def test_questions_and_texts_are_split():
    questions = [SpanExample(str(k), f"q{k}", "c", (("c", 0),) if k % 4 else ()) for k in range(40)]
    _, dev, _ = hold_out(questions, 0.2, 0, BY_ANSWERABLE)
    assert Counter(bool(e.answers) for e in dev) == {True: 6, False: 2}
    _, dev, notes = hold_out([Seq2SeqExample(str(k), f"s{k}", "t") for k in range(40)], 0.1, 0, NOT_STRATIFIED)
    assert len(dev) == 4 and notes == ("held out 4 of 40 examples as dev (seed 0)",)


def test_a_set_without_anything_to_hold_out_is_an_error():
    with pytest.raises(
        InputError, match="none of the 3 training examples can be held out, because each label has only"
    ):
        hold_out(texts("abc"), 0.1, 0, BY_LABEL)
    with pytest.raises(InputError, match="because each label has only one group of examples; add a dev file"):
        hold_out(texts("aabb"), 0.5, 0, BY_LABEL, list("xxyy"))


def test_folds_are_as_even_as_those_of_scikit_learn_and_complete():
    labels = list("a" * 57 + "b" * 23 + "c" * 4)
    folds = fold_numbers(texts(labels), 5, 0, BY_LABEL)
    for fold in range(5):
        assert sum(folds == fold) in (16, 17, 18)
    parts = [np.asarray(labels)[folds == fold] for fold in range(5)]
    sizes = sorted(Counter(part.tolist())["a"] for part in parts)
    reference = StratifiedKFold(5).split(labels[:80], labels[:80])
    assert sizes == sorted(Counter(labels[k] for k in test)["a"] for _, test in reference)
    assert sorted(Counter(part.tolist())["c"] for part in parts) == [0, 1, 1, 1, 1]
    assert fold_numbers(texts(labels), 5, 0, BY_LABEL).tolist() == folds.tolist()


def test_no_fold_is_empty_and_groups_stay_together():
    groups = ["big"] * 50 + [f"g{k}" for k in range(4)]
    folds = fold_numbers(texts(["a"] * 54), 5, 0, BY_LABEL, groups)
    assert len(set(folds[:50].tolist())) == 1
    assert set(folds.tolist()) == set(range(5))
    with pytest.raises(InputError, match="folds is 5, but the training set has only 3 groups of examples"):
        fold_numbers(texts("abcabc"), 5, 0, BY_LABEL, list("xyzxyz"))


def test_common_groups_are_reported():
    assert common_groups_note(["a", "b", ""], ["b", "c", "c", ""]) == (
        "1 of 2 groups of the dev set are also in the training set"
    )
    assert common_groups_note(["a", ""], ["b", ""]) is None
    assert common_groups_note(None, None) is None


def test_every_kind_names_its_strata():
    names = {name: kind.stratification.name for name, kind in KINDS.items()}
    assert names["single_label"] == names["multi_label"] == names["multiple_choice"] == "label"
    assert names["regression"] == "quantile"
