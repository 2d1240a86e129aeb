"""The embedded corpus is prose, without repetition, and its held-out side stays held out."""

import pytest

from deberta_jax.data import documentation
from deberta_jax.data.documentation import prose, split, write_documentation
from deberta_jax.data.sources import documents
from deberta_jax.errors import InputError

DOCSTRING = """Return the mean of the values in the array.

    Longer text that goes on
    over two lines, see :func:`numpy.mean` and ``axis``.

    Parameters
    ----------
    x : array_like
        The values that are taken into the mean.

    Examples
    --------
    >>> a = np.array([[1, 2], [3, 4]])
    >>> np.mean(a)
    2.5 is printed here and is no prose

    Code may follow a sentence like this one::

        for all of these words here:
            this is code and not a sentence

    .. note:: hidden

        This is hidden with its directive, all of it.

    ```python
    some code in a fence that looks like words
    ```

    f(x) = {y}, z = [w] | v
    """


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(documentation, "PACKAGES", ("optax", "no_such_package"))


def test_prose_is_what_remains_without_code():
    assert prose(DOCSTRING) == [
        "Return the mean of the values in the array.",
        "Longer text that goes on over two lines, see numpy.mean and axis.",
        "x : array_like The values that are taken into the mean.",
        "Code may follow a sentence like this one:",
    ]


def test_no_paragraph_comes_twice_and_none_is_on_both_sides(small, tmp_path):
    train, held_out = (path.read_text() for path in write_documentation(tmp_path / "a"))
    paragraphs = [line for side in (train, held_out) for line in side.splitlines() if line]
    assert len(paragraphs) == len(set(paragraphs)) > 500
    assert 0.02 < len(held_out) / len(train) < 0.12


def test_the_same_installation_gives_the_same_files_and_what_stands_is_kept(small, tmp_path):
    ours, theirs = write_documentation(tmp_path / "a"), write_documentation(tmp_path / "b")
    assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]
    ours[0].write_text("Kept.")
    write_documentation(tmp_path / "a")
    assert ours[0].read_text() == "Kept."


def test_the_files_read_back_as_the_documents(small, tmp_path):
    train, held_out = write_documentation(tmp_path)
    expected = split(documentation.documentation())
    assert (list(documents([str(train)])), list(documents([str(held_out)]))) == expected


def test_a_document_never_changes_sides():
    texts = [f"Text number {i}." for i in range(2000)]
    train, held_out = split(iter(texts))
    assert 60 < len(held_out) < 140
    again = split(iter(held_out + train[:10]))
    assert again == (train[:10], held_out)


def test_finding_nothing_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(documentation, "PACKAGES", ("no_such_package",))
    with pytest.raises(InputError, match="name text files"):
        write_documentation(tmp_path)
