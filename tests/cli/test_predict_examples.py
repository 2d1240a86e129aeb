"""The lines that `deberta-jax predict` reads."""

import json
import os

import pytest
from json_lines import printed_lines, read_lines

from deberta_jax.cli import predict, predict_examples, predict_output, predict_sources
from deberta_jax.cli.main import main

VALID = b'{"text": "a [MASK]"}'
INVALID = {
    b"": "expected a JSON object, but the line is empty",
    b"   ": "expected a JSON object, but the line is empty",
    b"text": "invalid JSON: Expecting value at character 1",
    b'{"text": "a [MASK]"': "invalid JSON: Expecting ',' delimiter at character 20",
    b'{"text": "a \0 [MASK]"}': "invalid JSON: Invalid control character at at character 13",
    b"[" * 100_000: "this JSON cannot be parsed: ",
    b'{"text": "[MASK]", "n": ' + b"9" * 5000 + b"}": "this JSON cannot be parsed: ",
    b'{"text": "[MASK]", "n": NaN}': "contains NaN or an infinite number",
    b'{"text": "[MASK]", "n": 1e999}': "contains NaN or an infinite number",
    b'["a [MASK]"]': "expected a JSON object, not a list",
    b'"a [MASK]"': "expected a JSON object, not a string",
    b"null": "expected a JSON object, not null",
    b"{}": 'no field "text" (fields: none)',
    b'{"id": 1, "sentence": "[MASK]"}': 'no field "text" (fields: "id", "sentence")',
    b'{"text": null}': '"text" must be a string, not null',
    b'{"text": ["a [MASK]"]}': '"text" must be a string, not a list',
    b'{"text": 7}': '"text" must be a string, not a number',
    b'{"text": " \\n"}': '"text" is empty',
    b'{"text": "no mask"}': "no [MASK] in the text",
    b'{"text": "[MASK]", "pair": 3}': '"pair" must be a string, not a number',
    b'{"text": "[MASK]", "prediction": 3}': 'the field "prediction" is reserved for results',
    b'{"text": "caf\xe9 [MASK]"}': "not UTF-8 at byte 14",
    b'{"text": "\\ud83d [MASK]"}': "contains the lone surrogate U+D83D",
    b'{"text": "[MASK]", "\\udc00": 1}': "contains the lone surrogate U+DC00",
    b'{"text": "' + b"fox " * 100 + b'[MASK]"}': "1 of 1 [MASK] are beyond the maximum of 16 tokens",
}


def test_an_invalid_line_is_reported_in_its_place_and_the_others_are_processed(masked_lm, tmp_path, capfd):
    lines = [line for invalid in INVALID for line in (invalid, VALID)]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    output = tmp_path / "out.jsonl"
    assert main(["predict", masked_lm, "--input", str(tmp_path / "in.jsonl"), "--output", str(output)]) == 2
    rows = read_lines(output)
    assert len(rows) == len(lines)
    messages = capfd.readouterr().err.splitlines()
    for number, (row, message) in enumerate(zip(rows[::2], INVALID.values(), strict=True)):
        assert row.keys() - {"id"} == {"line", "error"}
        assert row["line"] == 2 * number + 1
        assert row["error"].startswith(message)
        reported = any(line.endswith(f"in.jsonl, line {row['line']}: {row['error']}") for line in messages)
        assert reported == (number < predict.MAX_REPORTED)
    hidden = len(INVALID) - predict.MAX_REPORTED
    assert hidden > 0
    assert any(line.endswith(f"in.jsonl: {hidden} more invalid lines are not listed") for line in messages)
    assert all(row["text"] == "a [MASK]" and len(row["prediction"]) == 1 for row in rows[1::2])
    assert messages[-1].startswith(f"deberta-jax predict: {len(INVALID)} of {len(lines)} lines are invalid; {output}")


def test_a_line_that_is_too_long_is_not_read_into_memory(masked_lm, tmp_path, monkeypatch, capfd):
    for module in (predict_examples, predict_sources):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 64)
    (tmp_path / "in.txt").write_bytes(b"a [MASK]\n" + b"x" * 1000 + b"\nb [MASK]\n" + b"y" * 65)
    assert main(["predict", masked_lm, "--input", str(tmp_path / "in.txt")]) == 2
    rows = printed_lines(capfd)
    assert [row.get("text") for row in rows] == ["a [MASK]", None, "b [MASK]", None]
    assert {row["error"] for row in rows[1::2]} == {"longer than 0 MiB"}


def test_invalid_lines_do_not_accumulate_in_memory(masked_lm, tmp_path, monkeypatch):
    read, read_before_write = [], []
    decode_line, write = predict_sources.decode_line, predict_output._write_synced
    monkeypatch.setattr(predict, "CHUNK", 2)
    monkeypatch.setattr(predict, "LINES_PER_WRITE", 1)

    def recorded_decode(line, plain_text):
        read.append(line)
        return decode_line(line, plain_text=plain_text)

    def recorded_write(file, lines, path):
        read_before_write.append(len(read))
        write(file, lines, path)

    monkeypatch.setattr(predict_sources, "decode_line", recorded_decode)
    monkeypatch.setattr(predict_output, "_write_synced", recorded_write)
    (tmp_path / "in.jsonl").write_bytes(b"{}\n" * 50 + VALID + b"\n" + b"{}\n" * 49)
    output = tmp_path / "out.jsonl"
    assert main(["predict", masked_lm, "--input", str(tmp_path / "in.jsonl"), "--output", str(output)]) == 2
    assert read_before_write[0] == 8
    assert [number for number, row in enumerate(read_lines(output), 1) if row.get("line") != number] == [51]


def test_each_line_of_a_text_file_is_a_text_with_any_line_end_and_any_character(masked_lm, tmp_path, capfd):
    text = "\ufeffa [MASK]\r\n\r\nb\u2028 [MASK] \0 {\nc [MASK]"
    (tmp_path / "in.txt").write_text(text, encoding="utf-8", newline="")
    assert main(["predict", masked_lm, "--input", str(tmp_path / "in.txt")]) == 2
    first, second, third, fourth = map(json.loads, capfd.readouterr().out.removesuffix("\n").split("\n"))
    assert [row["text"] for row in (first, third, fourth)] == ["a [MASK]", "b\u2028 [MASK] \0 {", "c [MASK]"]
    assert second == {"line": 2, "error": '"text" is empty'}


@pytest.fixture
def standard_input():
    """A function that makes bytes the standard input of this process, until the end of the test."""
    original = os.dup(0)

    def replace(content):
        read, write = os.pipe()
        os.write(write, content)
        os.close(write)
        os.dup2(read, 0)
        os.close(read)

    yield replace
    os.dup2(original, 0)
    os.close(original)


def test_standard_input_is_read_and_standard_output_is_written(masked_lm, standard_input, capfd):
    standard_input(VALID + b"\n" + VALID)
    assert main(["predict", masked_lm, "--input", "-", "--output", "-"]) == 0
    assert [row["text"] for row in printed_lines(capfd)] == ["a [MASK]"] * 2
