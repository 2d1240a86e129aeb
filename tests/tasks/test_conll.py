"""Files of tagged words in CoNLL's format."""

import pytest

from deberta_jax.errors import InputError
from deberta_jax.tasks.catalogue import load
from deberta_jax.tasks.conll import WordColumns, conll_task, read_words
from deberta_jax.tasks.conll_metrics import chunks
from deberta_jax.tasks.tagging import tagging_of, to_iob2


def write(path, *lines, end="\n"):
    path.write_text("".join(line + end for line in lines), encoding="utf-8")
    return path


def read(path, split="train", **columns):
    """Words and tags of all documents of a file, and the report."""
    examples, (report,) = read_words(path, split, WordColumns(**columns))
    words = [word for example in examples for word in example.words]
    tags = [tag for example in examples for tag in example.tags or ()]
    return words, tags, report


@pytest.mark.parametrize(
    "tags",
    [
        ["I-PER", "I-PER", "B-PER", "O", "I-LOC", "I-ORG"],
        ["B-PER", "I-PER", "B-PER", "O", "B-LOC", "B-ORG"],
        ["B-PER", "E-PER", "S-PER", "O", "S-LOC", "S-ORG"],
        ["B-PER", "L-PER", "U-PER", "O", "U-LOC", "U-ORG"],
    ],
)
def test_tags_of_any_scheme_are_converted_to_iob2(tags):
    assert to_iob2(tags) == ["B-PER", "I-PER", "B-PER", "O", "B-LOC", "B-ORG"]


def test_types_without_prefixes_are_entities_of_neighboring_words():
    assert to_iob2(["PER", "PER", "LOC", "O", "LOC"], "types") == ["B-PER", "I-PER", "B-LOC", "O", "B-LOC"]


def test_bare_prefixes_mark_entities_of_one_unnamed_type():
    tags = to_iob2(["I", "I", "B", "O", "S", "E"])
    assert tags == ["B", "I", "B", "O", "B", "B"]
    assert list(chunks(tags)) == [("", 0, 1), ("", 2, 2), ("", 4, 4), ("", 5, 5)]


@pytest.mark.parametrize(
    ("counts", "tagging"),
    [
        ({"O": 90, "B-PER": 10}, "prefixes"),
        ({"O": 90, "B": 6, "I": 4}, "prefixes"),
        ({"B": 6, "M": 2, "E": 6, "S": 4}, "prefixes"),
        ({"O": 70, "S-PER": 20, "PERSON": 1}, "prefixes"),
        ({"O": 90, "PER": 10}, "types"),
        ({"DET": 9, "NOUN": 8, "B-X": 1}, "plain"),
        ({"NOUN": 9, "O": 2}, "plain"),
    ],
)
def test_a_few_wrong_tags_do_not_change_how_tags_mark_entities(counts, tagging):
    assert tagging_of(counts) == tagging


@pytest.mark.parametrize("columns", [2, 3, 4, 5, 7])
def test_lines_have_any_number_of_columns_and_empty_documents_are_skipped(tmp_path, columns):
    path = tmp_path / "train.txt"
    more = " x" * (columns - 2)
    lines = ["-DOCSTART- O", "", "-DOCSTART- O", "", f"Köln{more} B-LOC", f"sings{more} O", "", "", f"A{more} O"]
    path.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    examples, (report,) = read_words(path, "train")
    assert [example.words for example in examples] == [("Köln", "sings", "A")]
    assert examples[0].sentence_lengths == (2, 1)
    assert (report.read, report.used) == (3, 3)


def test_one_malformed_line_costs_one_line(tmp_path):
    good = [f"word{k} X {'B-PER' if k % 9 == 0 else 'O'}" for k in range(60)]
    path = write(tmp_path / "train.txt", *good, "man X PER", "alone", "a b c d e f O", "good X O")
    words, _, report = read(path)
    assert words == [*(f"word{k}" for k in range(60)), "good"]
    assert report.errors == [
        f"{path} line 61: invalid tag 'PER'",
        f"{path} line 62: 1 columns instead of 3",
        f"{path} line 63: 7 columns instead of 3",
    ]


def test_columns_of_indices_and_comments_are_left_out(tmp_path):
    sentences = [["#\thttp://example.org\t[2010]\t"], ["1\tNora\tB-PER\tO", "2\truns\tO\tO"], []]
    path = write(tmp_path / "train.txt", *(line for sentence in sentences * 5 for line in (*sentence, "")))
    words, tags, report = read(path)
    assert words == ["Nora", "runs"] * 5 and tags == ["B-PER", "O"] * 5
    assert report.notes == ["words are in column 2, tags in column 3"]
    assert not report.skipped


def test_a_word_that_starts_with_a_hash_is_a_word(tmp_path):
    path = write(tmp_path / "train.txt", "# tweet", "#winning O", "in O", "Bonn B-LOC", "# O", "# a longer comment O")
    assert read(path)[0] == ["#winning", "in", "Bonn", "#"]


def test_chunks_of_conll_2003_are_not_the_tags(tmp_path):
    path = write(tmp_path / "train.txt", *["EU NNP B-NP B-ORG", "rejects VBZ B-VP O", "calls NN I-NP O", ""] * 3)
    assert read(path)[1] == ["B-ORG", "O", "O"] * 3
    assert read(path, tags=3)[1][:3] == ["B-NP", "B-VP", "B-NP"]


def test_two_columns_of_tags_are_ambiguous_unless_their_types_are_the_same(tmp_path):
    path = write(tmp_path / "train.txt", *["Bonn B-LOC B-LOC", "Rhein I-LOC O", "is O O", ""] * 3)
    _, tags, report = read(path)
    assert tags[:3] == ["B-LOC", "I-LOC", "O"]
    assert "columns 2 and 3 have tags of the same types; column 2" in report.notes[0]
    path = write(tmp_path / "train.txt", *["Bonn B-LOC B-SUBJ", "is O O", ""] * 3)
    with pytest.raises(InputError, match=r"columns 2 and 3 have tags; select one of them with --columns.tags"):
        read(path)
    assert read(path, tags=3)[1][:2] == ["B-SUBJ", "O"]
    with pytest.raises(InputError, match=r"columns.tags is 4; the lines have 3 columns"):
        read(path, tags=4)


def test_a_tag_may_come_before_its_word(tmp_path):
    path = write(tmp_path / "train.txt", *["O\tshow", "O\tme", "B-ACTOR\tNora", "", "O\tplease", "O\tnow", ""] * 3)
    assert read(path)[0][:3] == ["show", "me", "Nora"]


def test_conll_u_is_read_without_ranges_of_words(tmp_path):
    def line(number, form, tag):
        return "\t".join([number, form, "_", tag, "_", "_", "0", "_", "_", "_"])

    words = [line("1-2", "im", "_"), line("1", "in", "ADP"), line("2", "dem", "DET"), line("3", "Tal", "NOUN")]
    path = write(tmp_path / "train.txt", *["# text = im Tal", *words, ""] * 30)
    forms, tags, report = read(path)
    assert forms[:3] == ["in", "dem", "Tal"] and tags[:3] == ["ADP", "DET", "NOUN"]
    assert report.malformed == 0 and report.skipped == {"several words or none": 30}


@pytest.mark.parametrize("space", [" ", "\u00a0"])
def test_words_may_contain_spaces(tmp_path, space):
    words = [f"4{space}000", "men", space, "in", "Bonn"]
    tags = ["O", "O", "O", "O", "B-LOC"]
    tabbed = write(tmp_path / "tabs.txt", *map("\t".join, zip(words, tags, strict=True)))
    assert read(tabbed)[0] == words
    spaced = write(tmp_path / "train.txt", *[f"word{k} O" for k in range(9)], f"New{space}York B-LOC")
    assert read(spaced)[0][-1] == f"New{space}York"


def test_layout_and_tagging_are_decided_once_for_all_files(tmp_path):
    train = write(tmp_path / "train.txt", *["Nora\tPER\tO", "runs\tO\tO", ""] * 9)
    dev = write(tmp_path / "dev.txt", *["She\tO\tO", "runs\tO\tO", ""] * 2)
    test = write(tmp_path / "test.txt", "Nora", "sings")
    task = conll_task()
    task = task.fit(task, {"train": [train], "dev": [dev], "test": [test]})
    assert load(task, [train], "train").examples[0].tags == ("B-PER", "O")
    assert load(task, [dev], "dev").examples[0].tags == ("O", "O")
    assert load(task, [test], "test").examples[0] == ("0", ("Nora", "sings"), None, (2,))


def test_parts_of_speech_are_scored_by_accuracy(tmp_path):
    path = write(tmp_path / "train.txt", *[f"word{k} {('DET', 'NOUN', 'VERB')[k % 3]}" for k in range(60)])
    task = conll_task()
    examples = load(task, [path], "train").examples
    assert examples[0].tags[:3] == ("DET", "NOUN", "VERB")
    assert task.adapt(task, examples).best_metric == "accuracy"


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings_are_named_or_have_a_mark(tmp_path, encoding):
    path = tmp_path / "train.txt"
    path.write_bytes("Köln B-LOC\nist O\n".encode(encoding))
    if encoding == "latin-1":
        with pytest.raises(InputError, match="line 1: not UTF-8; name the encoding, such as --encoding"):
            read(path)
    assert read(path, encoding="latin-1" if encoding == "latin-1" else None)[0] == ["Köln", "ist"]


def test_without_docstart_lines_each_sentence_is_a_document(tmp_path):
    path = write(tmp_path / "train.txt", "a O", "b O", "", "c B-X")
    assert [example.words for example in read_words(path, "train").examples] == [("a", "b"), ("c",)]


def test_a_test_set_may_have_words_only(tmp_path):
    path = write(tmp_path / "test.txt", "a", "b", "", "c")
    assert [example.tags for example in read_words(path, "test").examples] == [None, None]
    with pytest.raises(InputError, match="lines have 1 columns"):
        read_words(path, "train")
