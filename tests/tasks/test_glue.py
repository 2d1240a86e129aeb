"""GLUE's tab-separated files, including malformed rows."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deberta_jax.errors import InputError
from deberta_jax.tasks.catalogue import TASKS


def test_unclosed_double_quotes_are_ordinary_characters(toy):
    examples, _ = toy("sts-b")["train"]
    assert len(examples) == 12
    assert all(example.pair == 'A "man eats.' for example in examples)
    assert examples[1].label == pytest.approx(4.1)


def test_a_byte_order_mark_and_crlf_line_ends_are_removed(toy):
    examples, _ = toy("mrpc")["train"]
    assert examples[0].label in ("0", "1")
    assert not any("\r" in example.pair for example in examples)


def test_only_the_test_set_of_cola_has_a_header(toy):
    splits = toy("cola")
    assert splits["test"].examples[0].label is None
    assert splits["train"].examples[0].text == "A woman sings!"


def test_a_truncated_row_is_skipped_and_reported_with_its_line(toy):
    (report,) = toy("qqp")["train"].reports
    assert report.skipped == {"4 fields instead of 6": 1}
    assert report.errors == [f"{report.file} line 42: 4 fields instead of 6"]
    assert str(report) == f"{report.file}: 41 rows, 40 used, 1 skipped (4 fields instead of 6: 1)"


def test_pairs_without_a_gold_label_are_skipped_but_not_malformed(toy):
    (report,) = toy("mnli")["dev"].reports
    assert report.skipped == {"no gold label": 1}
    assert report.malformed == 0
    assert not report.errors


def test_the_order_of_columns_does_not_matter(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("label\tindex\tsentence2\tsentence1\nentailment\t7\tIt eats.\tA man eats.\n")
    (example,) = TASKS["rte"].read(path, "train").examples
    assert (example.id, example.text, example.pair, example.label) == ("7", "A man eats.", "It eats.", "entailment")


def test_the_sentence_of_qnli_comes_before_the_question(toy):
    # The toy files have the hypothesis in the column "sentence".
    assert toy("qnli")["train"].examples[0].text == "A man eats."


@settings(max_examples=40, deadline=None)
@given(
    bad=st.lists(
        st.sampled_from(["x", "a\tb\tc\td\te", "\t\t\t", "0\tA man.\t\tentailment", "0\ta\tb\tperhaps"]), max_size=4
    )
)
def test_rows_read_are_rows_used_and_skipped_for_any_malformed_rows(tmp_path_factory, bad):
    lines = [f"{k}\tA man eats {k}.\tHe eats.\tentailment" for k in range(100)]
    for position, line in enumerate(bad):
        lines.insert(7 * position, line)
    path = tmp_path_factory.mktemp("rows") / "train.tsv"
    path.write_text("\n".join(["index\tsentence1\tsentence2\tlabel", *lines]) + "\n")
    examples, (report,) = TASKS["rte"].read(path, "train")
    blank = bad.count("\t\t\t")
    assert len(examples) == report.used == 100
    assert report.read == 100 + len(bad) - blank == report.used + sum(report.skipped.values())


def test_a_file_in_another_format_is_refused_with_its_first_error(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("index\tsentence1\tsentence2\tlabel\n" + "only text\n" * 30)
    with pytest.raises(InputError, match=r"train.tsv: none of its 30 rows can be used .*line 2: 1 fields instead of 4"):
        TASKS["rte"].read(path, "train")
    path.write_text("a\tb\n1\t2\n")
    with pytest.raises(InputError, match="no column 'sentence1' or 'sentence2'; the columns are a, b"):
        TASKS["rte"].read(path, "train")
    path.write_text("index\tsentence1\tsentence2\n0\ta\tb\n")
    with pytest.raises(InputError, match="no column 'label'; the columns are index, sentence1, sentence2"):
        TASKS["rte"].read(path, "train")
