"""Every kind of file gives its documents, cut or whole; what cannot be read is named to the byte or line."""

import gzip
import json

import pyarrow
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from deberta_jax.data import sources
from deberta_jax.data.sources import documents, parts
from deberta_jax.errors import InputError

TEXTS = ["The first.\nIt has two lines.", "Der zweite: größer.", "第三。"]


def as_lines(texts):
    return "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts).encode()


def as_text(texts):
    return "\n\n".join(texts).encode()


def as_parquet(path, texts):
    parquet.write_table(pyarrow.table({"id": range(len(texts)), "text": texts}), path)


@pytest.mark.parametrize("kind", sources.SUFFIXES)
def test_every_kind_of_file_gives_the_same_documents(tmp_path, kind):
    path = tmp_path / f"a{kind}"
    if kind == ".parquet":
        as_parquet(path, TEXTS)
    else:
        content = as_lines(TEXTS) if "jsonl" in kind else as_text(TEXTS)
        compress = gzip.compress if kind.endswith("gz") else zstandard.compress if kind.endswith("zst") else bytes
        path.write_bytes(compress(content))
    assert list(documents([str(path)])) == TEXTS


def test_several_zstandard_frames_are_one_text(tmp_path):
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(b"one\n\ntw") + zstandard.compress(b"o" * 100_000))
    assert list(documents([str(tmp_path / "a.txt.zst")])) == ["one", "tw" + "o" * 100_000]


def test_patterns_give_each_file_once_in_order_of_name(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert list(documents([str(tmp_path / "*.txt"), str(tmp_path / "a.txt")])) == ["a", "b", "c"]


def test_blank_lines_line_ends_and_byte_order_marks_are_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf\r\n \r\none\r\n\t\r\n\r\ntwo")
    assert list(documents([str(tmp_path / "a.txt")])) == ["one", "two"]


def test_a_text_without_blank_lines_comes_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_LARGEST_DOCUMENT", 10)
    text = "é" * 33 + "\n" + "more\n" * 5
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    found = list(documents([str(tmp_path / "a.txt")]))
    assert max(map(len, found)) <= 20
    assert "".join(found).replace("\n", "") == text.replace("\n", "")


@settings(deadline=None, max_examples=60)
@given(
    files=st.lists(st.lists(st.text("ab é\n第", max_size=30), min_size=1, max_size=8), min_size=1, max_size=3),
    number=st.integers(1, 7),
    kind=st.sampled_from([".txt", ".jsonl"]),
)
def test_parts_together_are_the_documents(tmp_path_factory, files, number, kind):
    folder = tmp_path_factory.mktemp("parts")
    for index, texts in enumerate(files):
        (folder / f"{index}{kind}").write_bytes(as_lines(["x", *texts]) if kind == ".jsonl" else as_text(["x", *texts]))
    found = parts([str(folder / "*")], number)
    assert 1 <= len(found) <= number
    assert [text for part in found for text in part.documents()] == list(documents([str(folder / "*")]))


def test_one_big_file_is_cut_in_equal_parts(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"Document {i}.\n\n" for i in range(1000)))
    sizes = [sum(map(len, part.documents())) for part in parts([str(path)], 4)]
    assert len(sizes) == 4
    assert max(sizes) < 1.02 * min(sizes)


def test_a_file_without_blank_lines_is_cut_at_line_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_LARGEST_DOCUMENT", 100)
    path = tmp_path / "a.txt"
    lines = [f"This is line {i}." for i in range(1000)]
    path.write_text("\n".join(lines))
    found = [list(part.documents()) for part in parts([str(path)], 3)]
    assert len(found) == 3
    assert "\n".join("\n".join(part) for part in found).split("\n") == lines


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "holds no text"),
        ("a.txt", b" \n\n", "holds no text"),
        ("a.txt.gz", gzip.compress(b"", mtime=0), "holds no text"),
        ("a.doc", b"x", "not a kind of file"),
        ("a.txt", b"fine\n\nf\xc3\xbcr caf\xe9 \n", "a.txt, byte 14: not UTF-8"),
        ("a.txt", b"cut \xc3", "a.txt, byte 4: not UTF-8"),
        ("a.txt.gz", gzip.compress(b"abc \xff", mtime=0), "byte 4: not UTF-8"),
        ("a.txt.gz", gzip.compress(b"abc" * 1000, mtime=0)[:-12], "cannot be decompressed"),
        ("a.txt.gz", b"not gzip", "cannot be decompressed"),
        ("a.txt.zst", b"not zstandard", "cannot be decompressed"),
        ("a.txt.zst", zstandard.compress(bytes(range(32, 127)) * 9)[:-20], "cannot be decompressed"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', "a.jsonl, line 3: not JSON"),
        ("a.jsonl", b'{"text": "a"}\n{"body": "b"}\n', 'a.jsonl, line 2: no field "text"'),
        ("a.jsonl", b'["a"]\n', 'a.jsonl, line 1: no field "text"'),
        ("a.jsonl", b'{"text": "a"}\n' + b"[" * 200_000, "a.jsonl, line 2: not JSON"),
        ("a.jsonl", b'{"text": "a", "id": ' + b"7" * 5000 + b"}\n", "a.jsonl, line 1: not JSON"),
        ("a.parquet", b"not parquet", "cannot be read as parquet"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(documents([str(tmp_path / name)]))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pattern_that_matches_nothing_is_refused_at_once(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(InputError, match=r"\*\.text: no such file"):
        parts([str(tmp_path / "a.txt"), str(tmp_path / "*.text")], 2)


def test_a_parquet_file_without_the_column_is_refused(tmp_path):
    parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match='no column "text" among body'):
        list(documents([str(tmp_path / "a.parquet")]))


def test_the_line_of_a_bad_record_is_counted_from_the_file_in_a_later_part_too(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_lines(["a"] * 99) + b"{}\n")
    *_, last = parts([str(path)], 3)
    with pytest.raises(InputError, match="line 100"):
        list(last.documents())
