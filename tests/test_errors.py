"""Names and values in messages are few and short."""

from deberta_jax.errors import MAX_CHARACTERS, MAX_LISTED, list_names, shorten


def test_few_names_are_listed_in_full():
    assert list_names([]) == ""
    assert list_names(["a", 2]) == "a, 2"
    assert list_names((str(number) for number in range(MAX_LISTED)), "; ").count(";") == MAX_LISTED - 1


def test_many_names_are_counted():
    assert list_names(range(1020)).endswith("18, 19, … and 1,000 more")


def test_long_values_are_cut_and_stay_in_one_line():
    assert shorten("x" * MAX_CHARACTERS) == "x" * MAX_CHARACTERS
    assert shorten("x" * 5000) == "x" * MAX_CHARACTERS + "… (5,000 characters)"
    assert shorten("a\nb") == "a\\nb"
    assert len(list_names(["y" * 10**6] * 10**4)) < (MAX_LISTED + 1) * (MAX_CHARACTERS + 40)
