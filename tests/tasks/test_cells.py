"""Cells of a table: lists as JSON, Python, pandas and numpy write them; missing labels; names of labels."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deberta_jax.tasks.cells import is_missing, label_name, list_items, number_in
from deberta_jax.tasks.literals import parse_literal
from deberta_jax.tasks.rows import UnusableRow

ITEMS = st.one_of(st.text(max_size=8), st.integers(), st.booleans(), st.none())


@given(st.lists(st.one_of(ITEMS, st.dictionaries(st.text(max_size=3), st.lists(ITEMS, max_size=2), min_size=1))))
def test_lists_are_read_as_python_and_json_write_them(items):
    assert list_items(repr(items), "|") == items
    assert list_items(json.dumps(items), "|") == items


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8), max_size=6))
def test_texts_are_read_as_numpy_writes_them(texts):
    array = np.asarray([text.rstrip("\x00") for text in texts], object)
    assert list_items(str(array), "|") == list(array)
    assert list_items(repr(array), "|") == list(array)


@pytest.mark.parametrize(
    ("cell", "items"),
    [
        (str(np.asarray([2, 7])), [2, 7]),
        (str(np.asarray([0.5, 1.0])), [0.5, 1.0]),
        ("('O', 'B-PER')", ["O", "B-PER"]),
        ("{'joy', 'pride'}", ["joy", "pride"]),
        ("[np.int64(3), np.str_('x')]", [3, "x"]),
        ("[]", []),
        ("O B-PER O", ["O", "B-PER", "O"]),
        ("(a) b", ["(a)", "b"]),
        (None, []),
    ],
)
def test_a_cell_is_a_list_in_many_spellings(cell, items):
    assert list_items(cell, None) == items


def test_an_object_of_arrays_is_read():
    cell = "{'text': array(['red', \"it's\"], dtype=object), 'label': array(['A', 'B'], dtype=object)}"
    assert parse_literal(cell) == {"text": ["red", "it's"], "label": ["A", "B"]}
    (value,) = parse_literal("[nan]")
    assert math.isnan(value)


@pytest.mark.parametrize("cell", ["[joy, pride]", "['a', 'b'] ['c']", "['a' b]", "[CLS] a [SEP]", "{'a': 1, 'b'}"])
def test_a_cell_that_only_looks_like_a_list_is_an_error(cell):
    with pytest.raises(UnusableRow, match="looks like a list, but is not one"):
        list_items(cell, "|")


def test_a_list_that_was_cut_is_an_error():
    cell = str(np.arange(2000))
    with pytest.raises(UnusableRow, match=r"is a list that was cut with '\.\.\.'"):
        list_items(cell, None)


@pytest.mark.parametrize("cell", [None, "", "  ", float("nan"), "NaN", "nan", "N/A", "#N/A", "<NA>", "null"])
def test_a_missing_label_has_many_spellings(cell):
    assert is_missing(cell)
    assert number_in(cell) is None


@pytest.mark.parametrize("cell", ["None", "NA", "no", 0, False, "0", []])
def test_other_labels_are_not_missing(cell):
    assert not is_missing(cell)


@pytest.mark.parametrize(
    ("cells", "name"),
    [
        ([1, 1.0, "1", "1.0", " 1 "], "1"),
        ([True, "True", "TRUE", "true"], "true"),
        ([0.5, "0.5"], "0.5"),
        (["v1.0"], "v1.0"),
    ],
)
def test_one_label_has_one_name(cells, name):
    assert {label_name(cell) for cell in cells} == {name}


def test_a_number_is_finite():
    assert number_in("2.5") == number_in(2.5) == 2.5
    with pytest.raises(UnusableRow, match="infinite number"):
        number_in("inf")
    with pytest.raises(UnusableRow, match="'two' is not a number"):
        number_in("two")
