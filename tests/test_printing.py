"""What is printed cannot control a terminal."""

import io
import json
import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deberta_jax.printing import FirstOfEqualWarnings, PrintableFormatter, print_message, printable, printable_stdout

ESCAPES = "\x1b[31mred\x1b]0;title\x07\x9b2J\r\x7f\u202egnp\u2066\u2028\ud800"


@given(st.text(alphabet=st.characters()))
def test_only_line_feeds_and_tabs_remain_of_the_control_characters(text):
    shown = printable(text)
    assert not {character for character in shown if unicodedata.category(character) in ("Cc", "Cs", "Zl")} - set("\n\t")
    if text.isprintable():
        assert shown == text


@given(st.text())
def test_json_for_a_terminal_has_the_same_value(text):
    line = json.dumps({"text": text}, ensure_ascii=False)
    assert json.loads(printable(line)) == {"text": text}


def test_text_of_every_script_is_printed_as_it_is():
    for text in ("Köln", "日本語　です", "क्‍ष", "שלום\u200f", "👩\u200d🔬", "a\u00a0b", "[red]x[/red] :smile:"):
        assert printable(text) == text


def test_messages_and_logs_are_printable_and_a_message_is_one_line(capsys):
    print_message(f"a\n{ESCAPES}")
    error = capsys.readouterr().err
    assert error.startswith("a\\n\\u001b[31mred") and error[:-1].isprintable()
    record = logging.LogRecord("x", logging.WARNING, "", 1, "%s: bad", (ESCAPES,), None)
    assert PrintableFormatter().format(record).isprintable()


def test_standard_output_is_printable_within_a_command(capsys):
    with printable_stdout():
        print(ESCAPES, flush=True)
    assert capsys.readouterr().out == printable(ESCAPES) + "\n"
    print("\x1b", end="")
    assert capsys.readouterr().out == "\x1b"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_without_some_characters_shows_their_codes(encoding, monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", output)
    with printable_stdout():
        print("a…\x1b")
    output.flush()
    expected = "a…" if encoding == "utf-8" else "a\\u2026"
    assert output.buffer.getvalue().decode(encoding) == expected + "\\u001b\n"


def test_a_warning_is_printed_once_and_other_records_each_time():
    printed = FirstOfEqualWarnings()
    records = [(logging.WARNING, 1), (logging.WARNING, 1), (logging.WARNING, 2), (logging.INFO, 1), (logging.INFO, 1)]
    records = [logging.LogRecord("x", level, "", 1, "%d texts were truncated", (n,), None) for level, n in records]
    assert [printed.filter(record) for record in records] == [True, False, True, True, True]
