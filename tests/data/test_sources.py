"""Every file type gives its documents, whole or split by bytes and rows."""

import gzip
import json

import pyarrow
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from deberta_jax.data import readers
from deberta_jax.data.sources import documents, find_files, split_files
from deberta_jax.errors import InputError

TEXTS = ["The first.\nIt has two lines.", "Der zweite: größer.", "第三。"]


def as_jsonl(texts):
    return "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts).encode()


def as_text(texts):
    return "\n\n".join(texts).encode()


def write_parquet(path, texts):
    parquet.write_table(pyarrow.table({"id": range(len(texts)), "text": texts}), path)


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".jsonl", ".jsonl.zst", ".parquet"])
def test_every_file_type_gives_the_same_documents(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        write_parquet(path, TEXTS)
    else:
        content = as_jsonl(TEXTS) if "jsonl" in suffix else as_text(TEXTS)
        compress = gzip.compress if suffix.endswith("gz") else zstandard.compress if suffix.endswith("zst") else bytes
        path.write_bytes(compress(content))
    assert list(documents([str(path)])) == TEXTS


def test_several_zstandard_frames_are_one_text(tmp_path):
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(b"one\n\ntw") + zstandard.compress(b"o" * 100_000))
    assert list(documents([str(tmp_path / "a.txt.zst")])) == ["one", "tw" + "o" * 100_000]


def test_overlapping_patterns_give_each_file_once_in_order_of_name(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert list(documents([str(tmp_path / "*.txt"), str(tmp_path / "a.txt")])) == ["a", "b", "c"]


def test_blank_lines_line_ends_and_byte_order_marks_are_not_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf\r\n \r\none\r\n\t\r\n\r\ntwo")
    assert list(documents([str(tmp_path / "a.txt")])) == ["one", "two"]


def test_text_without_blank_lines_is_split_into_documents_of_limited_size(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "PARAGRAPH_BYTES", 10)
    text = "é" * 33 + "\n" + "more\n" * 5
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    texts = list(documents([str(tmp_path / "a.txt")]))
    assert max(map(len, texts)) <= 20
    assert "".join(texts).replace("\n", "") == text.replace("\n", "")


@settings(deadline=None, max_examples=60)
@given(
    files=st.lists(st.lists(st.text("ab é\n第", max_size=30), min_size=1, max_size=8), min_size=1, max_size=3),
    number=st.integers(1, 7),
    suffix=st.sampled_from([".txt", ".jsonl"]),
)
def test_the_parts_together_contain_all_documents_in_order(tmp_path_factory, files, number, suffix):
    folder = tmp_path_factory.mktemp("parts")
    for index, texts in enumerate(files):
        content = as_jsonl(["x", *texts]) if suffix == ".jsonl" else as_text(["x", *texts])
        (folder / f"{index}{suffix}").write_bytes(content)
    parts = split_files([str(folder / "*")], number)
    assert 1 <= len(parts) <= number
    assert [text for part in parts for text in part.documents()] == list(documents([str(folder / "*")]))


def test_a_large_file_is_split_into_parts_of_equal_size(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"Document {i}.\n\n" for i in range(1000)))
    sizes = [sum(map(len, part.documents())) for part in split_files([str(path)], 4)]
    assert len(sizes) == 4
    assert max(sizes) < 1.02 * min(sizes)


def test_a_file_without_blank_lines_is_split_between_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "PARAGRAPH_BYTES", 100)
    path = tmp_path / "a.txt"
    lines = [f"This is line {i}." for i in range(1000)]
    path.write_text("\n".join(lines))
    parts = [list(part.documents()) for part in split_files([str(path)], 3)]
    assert len(parts) == 3
    assert "\n".join("\n".join(part) for part in parts).split("\n") == lines


def test_a_pattern_without_matches_is_rejected(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(InputError, match=r"\*\.text: no such file"):
        split_files([str(tmp_path / "a.txt"), str(tmp_path / "*.text")], 2)
    with pytest.raises(InputError, match="no text files given"):
        find_files([])


def test_a_file_that_disappears_is_reported(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a")
    (part,) = split_files([str(path)], 1)
    path.unlink()
    with pytest.raises(InputError, match=r"a.txt: cannot be read \(No such file or directory\)"):
        list(part.documents())


def test_a_parquet_file_without_the_column_is_rejected(tmp_path):
    parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r'no column "text" \(columns: body\)'):
        list(documents([str(tmp_path / "a.parquet")]))


def test_a_line_number_counts_from_the_start_of_the_file_in_a_later_part(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_jsonl(["a"] * 99) + b"{}\n")
    *_, last = split_files([str(path)], 3)
    with pytest.raises(InputError, match="line 100"):
        list(last.documents())
