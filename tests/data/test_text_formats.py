"""Formats of text as people have it: compressed, without an extension, arrow data sets, WikiExtractor, sentences."""

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from toy_text import ToyTokenizer

from deberta_jax.data.prepare import prepare
from deberta_jax.data.selection import Selection
from deberta_jax.data.sources import documents, find_files, split_files
from deberta_jax.data.text_options import TextOptions
from deberta_jax.errors import InputError

TEXTS = ["The first.\nIt has two lines.", "Der zweite: größer & <b>.", "第三。"]
COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}
WIKI = "".join(
    f'<doc id="{number}" url="https://en.wikipedia.org/wiki?curid={number}" title="T">\n'
    f"{text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')}\n\n</doc>\n"
    for number, text in enumerate(TEXTS)
).encode()
JSON = "".join(json.dumps({"text": text, "id": 7}) + "\n" for text in TEXTS).encode()
PLAIN = "\n\n".join(TEXTS).encode()


def write_arrow(path, texts, column="text", kind=pyarrow.ipc.new_stream):
    table = pyarrow.table({"id": range(len(texts)), column: texts})
    with pyarrow.OSFile(str(path), "wb") as file, kind(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def write_data_set(folder, shards, **state):
    """A folder as `Dataset.save_to_disk` of Hugging Face writes it."""
    folder.mkdir(parents=True)
    names = [f"data-{index:05d}-of-{len(shards):05d}.arrow" for index in range(len(shards))]
    for name, texts in zip(names, shards, strict=True):
        write_arrow(folder / name, texts)
    (folder / "dataset_info.json").write_text('{"features": {"text": {"dtype": "string"}}}')
    entries = [{"filename": name} for name in names]
    (folder / "state.json").write_text(json.dumps({"_data_files": entries, "_split": "train", **state}))


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json", JSON), ("a.00001-of-2.json", JSON), ("a.txt", PLAIN), ("wiki.txt", WIKI), ("wiki_00", WIKI)],
)
def test_every_compression_of_every_text_gives_the_same_documents(tmp_path, name, content, compression):
    path = tmp_path / f"{name}{compression}"
    path.write_bytes(COMPRESS[compression](content))
    assert list(documents([str(path)])) == TEXTS


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("content", [JSON, WIKI, PLAIN])
@pytest.mark.parametrize("name", ["text", "part.00017"])
def test_files_without_an_extension_are_read_by_their_content(tmp_path, name, content, compression):
    if "." in name and compression:
        name += compression
    (tmp_path / name).write_bytes(COMPRESS[compression](content))
    assert list(documents([str(tmp_path / name)])) == TEXTS


def test_tables_without_an_extension_are_read_by_their_content(tmp_path):
    parquet.write_table(pyarrow.table({"text": TEXTS}), tmp_path / "a")
    write_arrow(tmp_path / "b", TEXTS)
    write_arrow(tmp_path / "c", TEXTS, kind=pyarrow.ipc.new_file)
    assert list(documents([str(tmp_path)])) == 3 * TEXTS


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".arrow"])
def test_the_field_of_the_text_can_be_named(tmp_path, suffix):
    path, options = tmp_path / f"a{suffix}", TextOptions(text_field="content")
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps({"content": text, "text": 3}) + "\n" for text in TEXTS))
    elif suffix == ".parquet":
        parquet.write_table(pyarrow.table({"content": TEXTS, "url": TEXTS}), path)
    else:
        write_arrow(path, TEXTS, "content")
    assert list(documents([str(path)], options)) == TEXTS
    with pytest.raises(InputError, match=r'"missing".*(: |, )content.*text-field'):
        list(documents([str(path)], TextOptions(text_field="missing")))


def test_a_saved_data_set_is_read_in_the_order_of_its_files(tmp_path):
    write_data_set(tmp_path / "set", [TEXTS[:2], TEXTS[2:]])
    write_arrow(tmp_path / "set" / "cache-1.arrow", ["a transformed copy"])
    assert list(documents([str(tmp_path / "set")])) == TEXTS
    assert len(split_files([str(tmp_path / "set")], 5)) == 2


def test_of_several_splits_one_must_be_named(tmp_path):
    for name in ("train", "validation"):
        write_data_set(tmp_path / "sets" / name, [[name]])
    (tmp_path / "sets" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    with pytest.raises(InputError, match=r"splits train, validation; name the folder of one, such as .*sets/train$"):
        find_files([str(tmp_path / "sets")])
    assert list(documents([str(tmp_path / "sets" / "train")])) == ["train"]
    (tmp_path / "sets" / "dataset_dict.json").write_text('{"splits": ["validation"]}')
    assert list(documents([str(tmp_path / "sets")])) == ["validation"]


def test_a_folder_of_the_cache_is_read_if_it_has_one_split(tmp_path):
    for name in ("wikitext-train.arrow", "cache-5f.arrow"):
        write_arrow(tmp_path / name, [name])
    (tmp_path / "dataset_info.json").write_text('{"splits": {"train": {}}}')
    assert list(documents([str(tmp_path)])) == ["wikitext-train.arrow"]
    (tmp_path / "dataset_info.json").write_text('{"splits": {"train": {}, "test": {}}}')
    with pytest.raises(InputError, match=r"splits test, train in one folder; .* such as '.*/\*-train\*\.arrow'"):
        find_files([str(tmp_path)])


def test_a_folder_gives_all_files_below_it_without_hidden_ones(tmp_path):
    for name in ("AA/wiki_00", "AA/wiki_01", "AB/wiki_00"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(WIKI)
    (tmp_path / "AA" / ".DS_Store").write_bytes(bytes(9))
    (tmp_path / "_SUCCESS").write_text("")
    assert list(documents([str(tmp_path / "A*")])) == 3 * TEXTS
    os.symlink(tmp_path, tmp_path / "AB" / "up")
    assert list(documents([str(tmp_path)])) == 3 * TEXTS


def test_a_document_is_a_paragraph_a_line_or_a_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\n\n  three \r\n")
    (tmp_path / "b.py").write_text("def f():\n\n    return 1\n")
    path, code = str(tmp_path / "a.txt"), str(tmp_path / "b.py")
    assert list(documents([path])) == ["one\ntwo", "three"]
    assert list(documents([path], TextOptions(document="line"))) == ["one", "two", "three"]
    assert list(documents([path, code], TextOptions(document="file"))) == [
        "one\ntwo\n\n  three",
        "def f():\n\n    return 1",
    ]


@settings(deadline=None, max_examples=25)
@given(
    texts=st.lists(st.text("ab é\n第<", max_size=30), min_size=1, max_size=8),
    number=st.integers(1, 7),
    name=st.sampled_from(["a.txt", "wiki_00"]),
    document=st.sampled_from(["line", "file"]),
)
def test_the_parts_together_contain_all_documents_in_order(tmp_path_factory, texts, number, name, document):
    folder, options = tmp_path_factory.mktemp("parts"), TextOptions(document=document)
    for index in range(2):
        articles = "".join(f"<doc id={index}>\n{text.replace('<', '&lt;')}\n</doc>\n" for text in ["x", *texts])
        content = articles if name == "wiki_00" else "\n".join(["x", *texts])
        (folder / f"{index}{name}").write_text(content)
    parts = split_files([str(folder)], number, options)
    expected = list(documents([str(folder)], options))
    assert [text for part in parts for text in part.documents()] == expected
    if name == "wiki_00":
        assert expected == 2 * [text.strip() for text in ["x", *texts] if text.strip()]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("elf", b"\x7fELF\x02\x01\x01\x00", "elf byte 4: not text, and neither parquet nor arrow (the content begins"),
        ("utf16", "text".encode("utf-16"), "utf16 byte 3: not text"),
        ("zip", b"PK\x03\x04", "zip byte 2: not text"),
        ("latin1", b"caf\xe9 au lait", "latin1 byte 3: not UTF-8"),
        ("a.md", b"text", "a.md: unknown file type; expected one of .txt, .jsonl, "),
        ("a.parquet.gz", gzip.compress(b"PAR1", mtime=0), ".parquet files are read without .gz only"),
        ("a.arrow", b"not arrow", "a.arrow: cannot be read as arrow"),
        ("a.json", b'[{"text": "a"}]', "a.json line 1: expected an object"),
        ("a.json", b'{\n  "text": "a"\n}', "a.json line 1: not valid JSON"),
        ("a.jsonl", b'{"body": "b", "url": "u"}\n', 'in the field "text" (fields: body, url); name the field'),
        ("a.txt.bz2", bz2.compress(b"abc" * 1000)[:-12], "a.txt.bz2: cannot be decompressed"),
        ("a.txt.xz", lzma.compress(b"abc" * 1000)[:-12], "a.txt.xz: cannot be decompressed"),
        ("a.jsonl.bz2", b"not bzip2", "a.jsonl.bz2: cannot be decompressed"),
        ("gz", gzip.compress(b"abc" * 1000, mtime=0)[:-12], "gz: cannot be decompressed"),
        ("w", b"<doc id=1>\na\n</doc>\n<doc id=2>\n<doc id=3>\n", "w line 4: <doc> without </doc>"),
        ("w", b"<doc id=1>\na\n</doc>\n<doc id=2>\na\n", "w line 4: <doc> without </doc>"),
        ("w", b"<doc id=1>\na\n</doc>\nb\n", "w line 4: text outside of <doc> and </doc>"),
        ("a.txt", b"", "a.txt: no text in this file"),
        ("a.txt", b" \n\n", "a.txt: no text in this file"),
        ("a.txt.gz", gzip.compress(b"", mtime=0), "a.txt.gz: no text in this file"),
        ("a.doc", b"x", "a.doc: unknown file type; expected one of .txt, "),
        ("a.txt", b"fine\n\nf\xc3\xbcr caf\xe9 \n", "a.txt byte 14: not UTF-8"),
        ("a.txt", b"cut \xc3", "a.txt byte 4: not UTF-8"),
        ("a.txt.gz", gzip.compress(b"abc \xff", mtime=0), "byte 4: not UTF-8"),
        ("a.txt.gz", gzip.compress(b"abc" * 1000, mtime=0)[:-12], "cannot be decompressed"),
        ("a.txt.gz", b"not gzip", "cannot be decompressed"),
        ("a.txt.zst", b"not zstandard", "cannot be decompressed"),
        ("a.txt.zst", zstandard.compress(bytes(range(32, 127)) * 9)[:-20], "cannot be decompressed"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', "a.jsonl line 3: not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "a.jsonl line 2: expected an object with a string in the field"),
        ("a.jsonl", b'["a"]\n', "a.jsonl line 1: expected an object"),
        ("a.jsonl", b'{"text": "a"}\n' + b"[" * 200_000, "a.jsonl line 2: not valid JSON"),
        ("a.jsonl", b'{"text": "a", "id": ' + b"7" * 5000 + b"}\n", "a.jsonl line 1: not valid JSON"),
        ("a.parquet", b"not parquet", "cannot be read as parquet"),
    ],
)
def test_unreadable_content_is_reported_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as raised:
        list(documents([str(tmp_path / name)]))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_unusable_folders_are_reported(tmp_path):
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    (tmp_path / "empty" / ".hidden").write_text("x")
    with pytest.raises(InputError, match="empty: no files in this folder"):
        find_files([str(tmp_path / "empty")])
    write_data_set(tmp_path / "incomplete", [TEXTS])
    (tmp_path / "incomplete" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(InputError, match=r"missing ones \(data-00000-of-00001.arrow\)"):
        find_files([str(tmp_path / "incomplete")])
    write_data_set(tmp_path / "selected", [TEXTS], _indices_files=[{"filename": "indices.arrow"}])
    with pytest.raises(InputError, match=r"save it again after flatten_indices\(\)"):
        find_files([str(tmp_path / "selected")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_field": ""}, "text_field is empty"),
        ({"max_document_bytes": 0}, "max_document_bytes is 0; it must be at least 1"),
    ],
)
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(InputError, match=message):
        TextOptions(**options)


@pytest.mark.parametrize(
    ("name", "content", "options", "position"),
    [
        (
            "a.jsonl",
            b'{"text": "a"}\n' + b'{"text": "%s"}\n' % (b"b" * 90),
            {},
            "line 2, byte 14: a line of more than 80",
        ),
        ("a.txt", b"one\n\ntwo\n" + b"c" * 90, {}, "line 4, byte 9: a line of more than 80"),
        ("a.txt", b"one\n" + b"c" * 90, {"document": "line"}, "line 2, byte 4: a line of more than 80"),
        ("a.txt", b"one\n" * 30, {"document": "file"}, "line 1, byte 0: a file of more than 80"),
        ("w", b"<doc id=1>\na\n</doc>\n<doc id=2>\n" + b"a\n" * 60, {}, "line 4, byte 20: a document of more than 80"),
    ],
)
def test_a_longer_document_is_rejected_with_its_position(tmp_path, name, content, options, position):
    path = tmp_path / name
    path.write_bytes(content)
    for suffix in ("", ".gz"):
        (tmp_path / f"{name}{suffix}").write_bytes(COMPRESS[suffix](content))
        with pytest.raises(InputError) as raised:
            list(documents([str(path) + suffix], TextOptions(max_document_bytes=80, **options)))
        assert str(raised.value).startswith(f"{path}{suffix} {position} bytes; ")
    if b"<doc id=2>" not in content:
        assert list(documents([str(path)], TextOptions(max_document_bytes=1000, **options)))


def test_a_longer_row_is_rejected_with_its_number(tmp_path):
    write_arrow(tmp_path / "a.arrow", ["a", "é" * 50, "b"])
    with pytest.raises(InputError, match=r"a.arrow row 2: a text of more than 80 bytes"):
        list(documents([str(tmp_path)], TextOptions(max_document_bytes=80)))
    assert len(list(documents([str(tmp_path)], TextOptions(max_document_bytes=100)))) == 3


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of the memory from /proc")
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("begin", [b'{"text": "', b""])
def test_a_line_of_100_mb_in_a_small_file_is_rejected_in_flat_memory(tmp_path, suffix, begin):
    path = tmp_path / f"{'a.jsonl' if begin else 'a.txt'}{suffix}"
    with gzip.open(path, "wb", 1) if suffix == ".gz" else zstandard.open(path, "wb") as file:
        for number in range(100):
            file.write(begin * (number == 0) + bytes([97]) * 1_000_000)
    assert path.stat().st_size < 1_000_000
    script = Path(__file__).parents[1] / "support/peak_memory_line.py"
    run = subprocess.run([sys.executable, script, path], check=True, capture_output=True, text=True, timeout=100)
    before, after, message = run.stdout.split(maxsplit=2)
    assert "line 1, byte 0: a line of more than 16,777,216 bytes" in message
    assert int(after) - int(before) < 80_000


def test_other_documents_of_the_same_text_are_not_taken_for_the_same(tmp_path):
    (tmp_path / "a.txt").write_text("A sentence here.\n" * 3 + "Another sentence.\n")

    def prepare_lines(folder, selection=Selection(), **options):  # noqa: B008
        options = TextOptions(**options)
        files = [str(tmp_path / "a.txt")]
        return prepare(files, tmp_path / folder, ToyTokenizer(), length=64, text=options, selection=selection).manifest

    assert prepare_lines("paragraphs").documents == 1
    lines = prepare_lines("lines", document="line")
    assert lines.documents == 4
    with pytest.raises(InputError, match="contains shards of another text, or of text with other documents"):
        prepare_lines("lines")
    assert prepare_lines("lines", document="line", max_document_bytes=100) == lines
    # Duplicates among the lines stay once.
    unique = prepare_lines("unique", Selection(deduplicate="exact"), document="line")
    assert (unique.documents, unique.dropped) == (2, {"exact duplicate": 2})
