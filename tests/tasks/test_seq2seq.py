"""Sequence-to-sequence tasks: rows of a table, ROUGE and exact match."""

import builtins
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenizers import DefaultTokenizer
from toy_tables import write_table

from deberta_jax.errors import InputError
from deberta_jax.tasks.catalogue import with_data
from deberta_jax.tasks.columns import Columns
from deberta_jax.tasks.custom import custom_task
from deberta_jax.tasks.custom_rows import SEQ2SEQ
from deberta_jax.tasks.examples import Seq2SeqExample
from deberta_jax.tasks.seq2seq_metrics import UnicodeTokenizer, exact_match, seq2seq_scores

TEXTS = {
    "German": "Über größere Straßen fuhr er.",
    "Russian": "Москва — столица России.",
    "Greek": "Η Αθήνα είναι πρωτεύουσα.",
    "Hindi": "दिल्ली भारत की राजधानी है।",
    "Arabic": "القاهرة عاصمة مصر.",
    "Hebrew": "ירושלים היא עיר.",
    "Korean": "서울은 한국의 수도이다.",
    "Chinese": "北京是中国的首都。",
    "Japanese": "東京は日本の首都です。",
    "Thai": "กรุงเทพเป็นเมืองหลวง",
    "Armenian": "Երևանը մայրաքաղաքն է։",
}


def task_of(**columns):
    return custom_task(Columns(**columns), SEQ2SEQ, seq2seq_scores, "rougeL")


@pytest.fixture
def read_row(tmp_path):
    """A function that returns the example of one row."""

    def read(row, split="train", **columns):
        path = write_table(tmp_path / f"{split}.jsonl", [row])
        return task_of(**columns).read(path, split).examples[0]

    return read


def scores(target, prediction):
    return seq2seq_scores([Seq2SeqExample("0", "s", target)], [prediction])


def test_a_row_has_a_source_and_a_target(read_row):
    example = read_row({"source": " A man eats.\n", "target": "Who eats? "})
    assert example == Seq2SeqExample("1", "A man eats.", "Who eats?")
    assert (example.inputs, example.answer) == (("A man eats.",), "Who eats?")
    assert read_row({"text": "a", "summary": "b", "n": 7}, source="text", target="summary", id="n").id == "7"


@pytest.mark.parametrize(("cell", "text"), [(12, "12"), (12.0, "12"), (2.5, "2.5"), (True, "true"), ("12.0", "12.0")])
def test_a_cell_may_be_a_number(read_row, cell, text):
    assert read_row({"source": cell, "target": cell})[1:] == (text, text)


def test_numbers_of_a_sheet_are_texts(tmp_path):
    path = write_table(tmp_path / "train.xlsx", [{"source": 3, "target": 4.0}, {"source": "three", "target": "IV"}])
    assert [example[1:] for example in task_of().read(path, "train").examples] == [("3", "4"), ("three", "IV")]


@pytest.mark.parametrize("target", [{}, {"target": None}, {"target": " "}])
def test_a_test_set_may_lack_targets(read_row, target):
    assert read_row({"source": "a", **target}, "test").target is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"source": " ", "target": "b"}, "no text in 'source'"),
        ({"source": None, "target": "b"}, "no text in 'source'"),
        ({"source": ["a"], "target": "b"}, "no text in 'source'"),
        ({"source": "a", "target": {"b": 1}}, "no text in 'target'"),
    ],
)
def test_the_reason_for_a_skipped_row_is_reported(read_row, row, reason):
    with pytest.raises(InputError, match=re.escape(f"line 1: {reason}")):
        read_row(row)


def test_a_training_set_needs_a_column_of_targets(read_row):
    with pytest.raises(InputError, match="no column 'target'; the columns are source"):
        read_row({"source": "a"})
    with pytest.raises(InputError, match="no text in 'source'"):
        read_row({"source": "", "target": "b"}, "test")


def test_rouge_is_the_f1_of_words_pairs_and_the_longest_common_subsequence():
    # Target 6 words, prediction 5; shared words: the, cat, on, mat. Pairs 5 and 4; shared: "the cat".
    values = scores("The cat sat on the mat.", "the cat lay on mat")
    assert values == {
        "rouge1": pytest.approx(2 * 4 / (6 + 5)),
        "rouge2": pytest.approx(2 * 1 / (5 + 4)),
        "rougeL": pytest.approx(2 * 4 / (6 + 5)),
        "exact_match": 0.0,
    }
    # The same words in reverse order: a common subsequence of one word.
    values = scores("one two three", "three two one")
    assert values == {"rouge1": 1.0, "rouge2": 0.0, "rougeL": pytest.approx(1 / 3), "exact_match": 0.0}
    # A repeated word counts as often as it is in both.
    assert scores("a a b", "a c")["rouge1"] == pytest.approx(2 * 1 / (3 + 2))


def test_one_word_has_no_pairs_and_an_empty_prediction_scores_0():
    assert scores("Köln", "Köln") == {"rouge1": 1.0, "rouge2": 0.0, "rougeL": 1.0, "exact_match": 1.0}
    assert set(scores("A man eats.", "").values()) == {0.0}


def test_scores_are_means_over_the_examples_with_a_target():
    examples = [Seq2SeqExample(str(k), "s", target) for k, target in enumerate(("a b", None, "c d", "e f"))]
    values = seq2seq_scores(examples, ["a b", "x", "c e", "x"])
    assert values == {"rouge1": 0.5, "rouge2": pytest.approx(1 / 3), "rougeL": 0.5, "exact_match": pytest.approx(1 / 3)}
    with pytest.raises(InputError, match="no example has a target"):
        seq2seq_scores(examples[1:2], ["x"])


@pytest.mark.parametrize("language", TEXTS)
def test_equal_texts_in_any_script_score_1_and_other_texts_less(language):
    text = TEXTS[language]
    assert set(scores(text, text).values()) == {1.0}
    # The first half shares words with the whole, and no words with a text in another script.
    half = text[: len(text) // 2]
    assert 0 < scores(text, half)["rougeL"] < 1
    other = TEXTS["Armenian" if language != "Armenian" else "Greek"]
    assert scores(text, other)["rouge1"] == 0


def test_words_keep_letters_marks_and_digits_in_every_script():
    words = UnicodeTokenizer().tokenize
    assert words("Über größere Straßen, 12 km/h!") == ["über", "größere", "straßen", "12", "km", "h"]
    assert words("दिल्ली भारत") == ["दिल्ली", "भारत"]
    assert words("서울은 한국의") == ["서울은", "한국의"]
    # Where spaces do not separate words, each character is a word; others beside them are not split.
    assert words("東京はTokyo 2020です。") == ["東", "京", "は", "tokyo", "2020", "で", "す"]


def test_equal_characters_may_be_encoded_differently():
    composed, decomposed = "Café ガ", "Cafe\u0301 カ\u3099"
    assert set(scores(composed, decomposed).values()) == {1.0}
    assert scores("ﬁne １２", "fine 12")["exact_match"] == 1


@given(st.text(st.characters(codec="ascii")))
def test_words_of_ascii_text_are_those_of_rouge_score(text):
    assert UnicodeTokenizer().tokenize(text) == DefaultTokenizer().tokenize(text)


@given(st.text(max_size=20), st.text(max_size=20))
def test_scores_are_symmetric_and_between_0_and_1(target, prediction):
    values = scores(target, prediction)
    assert all(0 <= value <= 1 for value in values.values())
    assert scores(prediction, target) == pytest.approx(values)


def test_exact_match_ignores_white_space_only():
    assert exact_match(" A  man\neats. ", "A man eats.") == 1
    for other in ("a man eats.", "A man eats", "The man eats.", "A man eats.."):
        assert exact_match(other, "A man eats.") == 0


def test_rouge_score_is_required_before_anything_is_trained(monkeypatch):
    task, examples = task_of(), [Seq2SeqExample("0", "a", "b")]
    assert with_data(task, examples) is task

    def without(name, *rest):
        if name.startswith("rouge_score"):
            raise ImportError(name)
        return imported(name, *rest)

    imported = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=re.escape("pip install 'deberta-jax[rouge]'")):
        with_data(task, examples)
