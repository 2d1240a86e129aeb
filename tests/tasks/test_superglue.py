"""SuperGLUE's files with one JSON object per line, and how their rows are presented to a model."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deberta_jax.errors import InputError
from deberta_jax.tasks.catalogue import TASKS


def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_lines_that_are_not_json_or_not_utf8_are_reported(tmp_path):
    path = tmp_path / "train.jsonl"
    row = json.dumps({"premise": "A man eats.", "hypothesis": "He eats.", "label": "neutral", "idx": 0}).encode()
    path.write_bytes(b"\n".join([row] * 60 + [b"{", b"\xff\xfe", b"[1]"]) + b"\n")
    examples, (report,) = TASKS["cb"].read(path, "train")
    assert len(examples) == 60
    assert report.errors == [
        f"{path} line 61: not valid JSON",
        f"{path} line 62: not UTF-8",
        f"{path} line 63: not a JSON object",
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"premise": None}, "no text in 'premise'"),
        ({"label": "perhaps"}, "unknown label 'perhaps'"),
        ({"label": None}, "no label"),
        ({"idx": ...}, "no field 'idx'"),
    ],
)
def test_the_reason_for_a_skipped_row_is_reported(tmp_path, change, reason):
    row = {"premise": "A man eats.", "hypothesis": "He eats.", "label": "neutral", "idx": 0} | change
    path = write_rows(tmp_path / "train.jsonl", {key: value for key, value in row.items() if value is not ...})
    with pytest.raises(InputError, match=f"line 1: {reason}"):
        TASKS["cb"].read(path, "train")


def test_a_possible_cause_comes_before_the_premise_and_an_effect_after_it(toy):
    cause, effect = toy("copa")["train"].examples[:2]
    assert [second for _, second in cause.pairs] == ["A man eats."] * 2
    assert [first for first, _ in effect.pairs] == ["A man eats."] * 2


@settings(max_examples=60, deadline=None)
@given(
    before=st.text(st.characters(exclude_characters="*", codec="utf-8"), max_size=20),
    word=st.sampled_from(["eats", "Köln", "日本"]),
)
def test_removing_the_marks_of_a_word_gives_the_sentence(tmp_path_factory, before, word):
    sentence = f"{before}{word} after"
    row = {"word": word, "idx": 0, "label": True}
    row |= {
        f"{name}{n}": value
        for n in "12"
        for name, value in (("sentence", sentence), ("start", len(before)), ("end", len(before) + len(word)))
    }
    path = write_rows(tmp_path_factory.mktemp("wic") / "train.jsonl", row)
    (example,) = TASKS["wic"].read(path, "train").examples
    assert f"*{word}*" in example.text
    assert example.text.replace("*", "") == example.pair.replace("*", "") == sentence


def test_a_pronoun_with_a_wrong_index_is_marked_at_the_nearest_match(toy):
    first, second = toy("wsc")["train"].examples[:2]
    # The index points at "he's", which is another word than "he".
    assert first.text == "The man eats. #A woman# sings, and he's sure. Then *he* flows."
    assert second.text == "#The man# eats. A woman sings, and he's sure. Then *he* flows."


def test_the_answers_to_a_question_are_a_group(toy):
    examples, _ = toy("multirc")["train"]
    assert len(examples) == 4 * 2 * 3
    assert len({example.group for example in examples}) == 8


def test_the_end_of_an_entity_is_inclusive_in_the_file(toy):
    example = toy("record")["train"].examples[0]
    assert [example.passage[start:end] for start, end in example.entities] == ["A man", "Köln", "A woman"]
