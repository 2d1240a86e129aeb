"""Files of tagged words in CoNLL's format."""

import pytest

from deberta_jax.errors import InputError
from deberta_jax.tasks.conll import read_words, scheme_of, to_iob2


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("IOB1", ["I-PER", "I-PER", "B-PER", "O", "I-LOC", "I-ORG"]),
        ("IOB2", ["B-PER", "I-PER", "B-PER", "O", "B-LOC", "B-ORG"]),
        ("BIOES", ["B-PER", "E-PER", "S-PER", "O", "S-LOC", "S-ORG"]),
        ("BIOES", ["B-PER", "L-PER", "U-PER", "O", "U-LOC", "U-ORG"]),
    ],
)
def test_tags_of_any_scheme_are_converted_to_iob2(scheme, tags):
    assert scheme_of([tags]) == scheme
    assert to_iob2(tags, scheme) == ["B-PER", "I-PER", "B-PER", "O", "B-LOC", "B-ORG"]


@pytest.mark.parametrize("columns", [2, 3, 4, 5])
def test_lines_have_two_to_five_columns_and_empty_documents_are_skipped(tmp_path, columns):
    path = tmp_path / "train.txt"
    more = " x" * (columns - 2)
    lines = ["-DOCSTART- O", "", "-DOCSTART- O", "", f"Köln{more} B-LOC", f"sings{more} O", "", "", f"A{more} O"]
    path.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    examples, (report,) = read_words(path, "train")
    assert [example.words for example in examples] == [("Köln", "sings", "A")]
    assert examples[0].sentence_lengths == (2, 1)
    assert (report.read, report.used) == (3, 3)


def test_invalid_tags_and_numbers_of_columns_are_reported_with_their_lines(tmp_path):
    path = tmp_path / "train.txt"
    good = "".join(f"word{k} X O\n" for k in range(60))
    path.write_text(good + "man X B_PER\nalone\n")
    _, (report,) = read_words(path, "train")
    assert report.errors == [f"{path} line 61: invalid tag 'B_PER'", f"{path} line 62: 1 columns instead of 3"]
    path.write_text("a b c d e f O\n")
    with pytest.raises(InputError, match="lines have up to 7 columns; expected 2 to 5"):
        read_words(path, "train")


def test_without_docstart_lines_each_sentence_is_a_document(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("a O\nb O\n\nc B-X\n")
    assert [example.words for example in read_words(path, "train").examples] == [("a", "b"), ("c",)]


def test_a_test_set_may_have_words_only(tmp_path):
    path = tmp_path / "test.txt"
    path.write_text("a\nb\n\nc\n")
    assert [example.tags for example in read_words(path, "test").examples] == [None, None]
    with pytest.raises(InputError, match="lines have up to 1 columns"):
        read_words(path, "train")
