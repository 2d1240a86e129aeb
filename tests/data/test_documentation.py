"""The documentation corpus is prose without repetition, and its held-out documents stay held out."""

import pytest

from deberta_jax.data import documentation
from deberta_jax.data.documentation import prose, split_documents, write_documentation
from deberta_jax.data.sources import documents
from deberta_jax.errors import InputError

DOCSTRING = """Return the mean of the values in the array.

    Longer text that continues
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


@pytest.fixture(scope="module")
def small_packages():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documentation, "PACKAGES", ("optax", "no_such_package"))
        yield


@pytest.fixture(scope="module")
def written(small_packages, tmp_path_factory):
    """The paths of a written corpus."""
    return write_documentation(tmp_path_factory.mktemp("text"))


def test_prose_omits_code_and_markup():
    assert prose(DOCSTRING) == [
        "Return the mean of the values in the array.",
        "Longer text that continues over two lines, see numpy.mean and axis.",
        "x : array_like The values that are taken into the mean.",
        "Code may follow a sentence like this one:",
    ]


def test_no_paragraph_is_repeated_or_in_both_splits(written):
    train, held_out = (path.read_text() for path in written)
    paragraphs = [line for text in (train, held_out) for line in text.splitlines() if line]
    assert len(paragraphs) == len(set(paragraphs)) > 500
    assert 0.02 < len(held_out) / len(train) < 0.12


def test_the_files_contain_the_documents_and_the_corpus_is_reproducible(written):
    splits = tuple(list(documents([str(path)])) for path in written)
    assert splits == split_documents(documentation.documentation())


def test_existing_files_are_not_overwritten(tmp_path):
    for name in ("train.txt", "held_out.txt"):
        (tmp_path / name).write_text("Existing.")
    assert [path.read_text() for path in write_documentation(tmp_path)] == ["Existing."] * 2


def test_a_document_is_always_in_the_same_split():
    texts = [f"Text number {i}." for i in range(2000)]
    train, held_out = split_documents(iter(texts))
    assert 60 < len(held_out) < 140
    assert split_documents(iter(held_out + train[:10])) == (train[:10], held_out)


def test_an_installation_without_documentation_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(documentation, "PACKAGES", ("no_such_package",))
    with pytest.raises(InputError, match="name text files"):
        write_documentation(tmp_path / "text")
    assert not (tmp_path / "text").exists()
