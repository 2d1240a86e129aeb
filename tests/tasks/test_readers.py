"""Official files as they are, unkind ones too: every row is accounted for, and what is wrong is named."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_tasks import CONTEXT, MADE

from deberta_jax.errors import InputError
from deberta_jax.tasks import conll, glue, multiple_choice, nli, squad, superglue
from deberta_jax.tasks.catalogue import TASKS, load, splits_in
from deberta_jax.tasks.examples import ReadReport


@pytest.fixture
def made(tmp_path):
    def make(name):
        MADE[name](tmp_path)
        task = TASKS[name]
        return {split: load(task, paths, split) for split, paths in splits_in(task, tmp_path).items()}

    return make


@pytest.mark.parametrize("name", TASKS)
def test_every_row_is_used_or_accounted_for(made, name):
    for split, (examples, accounts) in made(name).items():
        assert examples
        used = sum(account.used for account in accounts)
        assert used == (sum(len(example.words) for example in examples) if name == "ner" else len(examples))
        for account in accounts:
            assert account.read == account.used + sum(account.skipped.values())
        if not split.startswith("test") and TASKS[name].data.labels:
            assert {example.label for example in examples} <= set(TASKS[name].data.labels)


def test_double_quotes_that_close_nowhere_are_signs_like_others(made):
    examples, _ = made("sts-b")["train"]
    assert len(examples) == 12
    assert all(example.pair == 'A "man eats.' for example in examples)
    assert examples[1].label == pytest.approx(4.1)


def test_a_byte_order_mark_and_the_line_ends_of_another_system_leave_no_trace(made):
    examples, _ = made("mrpc")["train"]
    assert examples[0].label in ("0", "1")
    assert not any("\r" in example.pair for example in examples)


def test_cola_has_a_header_in_its_test_set_alone(made):
    its = made("cola")
    assert [len(its[split].examples) for split in ("train", "dev", "test")] == [12, 6, 5]
    assert its["test"].examples[0].label is None
    assert its["train"].examples[0].text == "A woman sings!"


def test_a_row_that_is_cut_off_is_skipped_and_named(made):
    (account,) = made("qqp")["train"].accounts
    assert account.skipped == {"4 fields in place of 6": 1}
    assert account.named == [f"{account.file}, line 42: 4 fields in place of 6"]
    assert str(account).endswith("41 rows, 40 used, 1 skipped (1 4 fields in place of 6)")


def test_pairs_without_a_gold_label_are_left_out_and_are_not_malformed(made):
    (account,) = made("mnli")["dev"].accounts
    assert account.skipped == {"no gold label": 1}
    assert account.malformed == 0


def test_the_order_of_columns_does_not_matter(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("label\tindex\tsentence2\tsentence1\nentailment\t7\tIt eats.\tA man eats.\n")
    (example,) = glue.TASKS["rte"].read(path, "train").examples
    assert (example.id, example.text, example.pair, example.label) == ("7", "A man eats.", "It eats.", "entailment")


def test_qnli_gives_the_sentence_first_as_the_original_does(made):
    assert made("qnli")["train"].examples[0].text == "A man eats."


@settings(max_examples=40, deadline=None)
@given(
    bad=st.lists(
        st.sampled_from(["x", "a\tb\tc\td\te", "\t\t\t", "0\tA man.\t\tentailment", "0\ta\tb\tperhaps"]), max_size=4
    )
)
def test_whatever_rows_a_file_has_they_add_up(tmp_path_factory, bad):
    lines = [f"{k}\tA man eats {k}.\tHe eats.\tentailment" for k in range(100)]
    for place, line in enumerate(bad):
        lines.insert(7 * place, line)
    path = tmp_path_factory.mktemp("rows") / "train.tsv"
    path.write_text("\n".join(["index\tsentence1\tsentence2\tlabel", *lines]) + "\n")
    examples, (account,) = glue.TASKS["rte"].read(path, "train")
    blank = bad.count("\t\t\t")
    assert len(examples) == account.used == 100
    assert account.read == 100 + len(bad) - blank == account.used + sum(account.skipped.values())


def test_another_file_under_the_name_is_refused_with_its_first_bad_line(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("index\tsentence1\tsentence2\tlabel\n" + "only text\n" * 30)
    with pytest.raises(InputError, match=r"train.tsv: no example in 30 rows; .*line 2: 1 fields in place of 4"):
        glue.TASKS["rte"].read(path, "train")
    path.write_text("a\tb\n1\t2\n")
    with pytest.raises(InputError, match="no column sentence1 or sentence2; there are a, b"):
        glue.TASKS["rte"].read(path, "train")


def test_lines_that_are_no_json_or_no_utf8_are_named(tmp_path):
    path = tmp_path / "train.jsonl"
    row = json.dumps({"premise": "A man eats.", "hypothesis": "He eats.", "label": "neutral", "idx": 0}).encode()
    path.write_bytes(b"\n".join([row] * 60 + [b"{", b"\xff\xfe", b"[1]"]) + b"\n")
    examples, (account,) = superglue.TASKS["cb"].read(path, "train")
    assert len(examples) == 60
    assert account.skipped == {"not JSON": 1, "not UTF-8": 1, "no JSON object": 1}
    assert [name.partition(", ")[2] for name in account.named] == [
        "line 61: not JSON",
        "line 62: not UTF-8",
        "line 63: no JSON object",
    ]


def test_of_a_cause_each_choice_comes_first(made):
    cause, effect = made("copa")["train"].examples[:2]
    assert [second for _, second in cause.pairs] == ["A man eats."] * 2
    assert [first for first, _ in effect.pairs] == ["A man eats."] * 2


@settings(max_examples=60, deadline=None)
@given(
    before=st.text(st.characters(exclude_characters="*", codec="utf-8"), max_size=20),
    word=st.sampled_from(["eats", "Köln", "日本"]),
)
def test_marks_of_a_word_can_be_taken_away(tmp_path_factory, before, word):
    sentence = f"{before}{word} after"
    row = {"word": word, "idx": 0, "label": True}
    row |= {
        f"{name}{n}": value
        for n in "12"
        for name, value in (("sentence", sentence), ("start", len(before)), ("end", len(before) + len(word)))
    }
    path = tmp_path_factory.mktemp("wic") / "train.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (example,) = superglue.TASKS["wic"].read(path, "train").examples
    assert f"*{word}*" in example.text
    assert example.text.replace("*", "") == example.pair.replace("*", "") == sentence


def test_a_pronoun_is_found_where_its_number_is_wrong(made):
    example = made("wsc")["train"].examples[1]
    assert example.text == "#The man# eats. A woman sings, and *he's* sure. Then he flows." or "*he*" in example.text


def test_answers_of_a_question_are_a_group(made):
    examples, _ = made("multirc")["train"]
    assert len(examples) == 4 * 2 * 3
    assert len({example.group for example in examples}) == 8


def test_the_ends_of_entities_are_inclusive_in_the_file(made):
    example = made("record")["train"].examples[0]
    assert [example.passage[start:end] for start, end in example.entities] == ["A man", "Köln", "A woman"]


def test_a_choice_fills_the_gap_of_its_question(made):
    first, second = made("race")["train"].examples[:2]
    assert first.pairs[1] == (CONTEXT, "Who eats? A woman")
    assert second.pairs[1] == (CONTEXT, "A woman sings there.")
    assert (first.label, second.label) == (0, 1)


def test_fields_with_commas_quotes_and_line_ends_are_one(made):
    example = made("swag")["train"].examples[0]
    assert example.pairs[1][1] == "A man sings\nevery day."
    assert example.pairs[2][1] == 'A man says "shells".'


def test_a_file_of_other_columns_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"no column ending0, .*; there are a, b"):
        multiple_choice.TASKS["swag"].read(tmp_path / "train.csv", "train")


def test_rounds_and_languages_are_groups(made, tmp_path):
    MADE["xnli"](tmp_path)
    examples = nli.TASKS["xnli"].read(tmp_path / "xnli.dev.tsv", "dev").examples
    assert {example.group for example in examples} == {"en", "de", "zh"}
    (tmp_path / "a").mkdir()
    MADE["anli"](tmp_path / "a")
    examples = load(TASKS["anli"], splits_in(TASKS["anli"], tmp_path / "a")["dev"], "dev").examples
    assert {example.group for example in examples} == {"R1", "R2", "R3"}


def _squad_file(path, answers, context=CONTEXT, name="q"):
    question = {"id": name, "question": "Who eats?", "answers": answers}
    values = {"version": "1.1", "data": [{"paragraphs": [{"context": context, "qas": [question] * 1}]}]}
    path.write_text(json.dumps(values))


def test_an_answer_whose_offset_is_wrong_is_found_again_nearest(tmp_path):
    path = tmp_path / "train-v1.1.json"
    _squad_file(path, [{"text": "man", "answer_start": 24}], "A man eats. Then a man sings. A man.")
    examples, (account,) = squad.TASKS["squad"].read(path, "train")
    assert examples[0].answers == (("man", 19),)
    assert account.mended == {"offset of an answer": 1}
    assert str(account).endswith("1 rows, 1 used, 1 mended (offset of an answer)")


def test_an_answer_that_stands_nowhere_is_named_by_its_question(tmp_path):
    path = tmp_path / "train-v1.1.json"
    _squad_file(path, [{"text": "elephant", "answer_start": 3}], name="q77")
    with pytest.raises(InputError, match="question q77: answer that is not in the context"):
        squad.TASKS["squad"].read(path, "train")
    path.write_text('{"data": [')
    with pytest.raises(InputError, match=r"train-v1.1.json, line 1: not JSON"):
        squad.TASKS["squad"].read(path, "train")
    path.write_text('{"rows": []}')
    with pytest.raises(InputError, match='no "data" with articles'):
        squad.TASKS["squad"].read(path, "train")


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("IOB1", ["I-PER", "I-PER", "B-PER", "O", "I-LOC", "I-ORG"]),
        ("IOB2", ["B-PER", "I-PER", "B-PER", "O", "B-LOC", "B-ORG"]),
        ("BIOES", ["B-PER", "E-PER", "S-PER", "O", "S-LOC", "S-ORG"]),
        ("BIOES", ["B-PER", "L-PER", "U-PER", "O", "U-LOC", "U-ORG"]),
    ],
)
def test_the_scheme_of_tags_is_seen_and_made_iob2(scheme, tags):
    assert conll.scheme_of([tags]) == scheme
    assert conll.to_iob2(tags, scheme) == ["B-PER", "I-PER", "B-PER", "O", "B-LOC", "B-ORG"]


@pytest.mark.parametrize("columns", [2, 3, 4, 5])
def test_columns_are_two_to_five_and_documents_may_be_empty(tmp_path, columns):
    path = tmp_path / "train.txt"
    more = " x" * (columns - 2)
    lines = ["-DOCSTART- O", "", "-DOCSTART- O", "", f"Köln{more} B-LOC", f"sings{more} O", "", "", f"A{more} O"]
    path.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    examples, (account,) = conll.read_words(path, "train")
    assert [example.words for example in examples] == [("Köln", "sings", "A")]
    assert examples[0].sentences == (2, 1)
    assert (account.read, account.used) == (3, 3)


def test_bad_tags_and_columns_are_named_with_their_lines(tmp_path):
    path = tmp_path / "train.txt"
    good = "".join(f"word{k} X O\n" for k in range(60))
    path.write_text(good + "man X B_PER\nalone\n")
    _, (account,) = conll.read_words(path, "train")
    assert [name.partition(", ")[2] for name in account.named] == [
        "line 61: tag 'B_PER'",
        "line 62: 1 columns in place of 3",
    ]
    path.write_text("a b c d e f O\n")
    with pytest.raises(InputError, match="lines of 7 columns; 2 to 5 are wanted"):
        conll.read_words(path, "train")


def test_without_marks_of_documents_each_sentence_is_one(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("a O\nb O\n\nc B-X\n")
    assert [len(example.words) for example in conll.read_words(path, "train").examples] == [2, 1]


def test_a_folder_above_the_task_s_own_will_do_and_an_empty_one_is_refused(tmp_path):
    (tmp_path / "SST-2").mkdir()
    MADE["sst-2"](tmp_path / "SST-2")
    assert splits_in(TASKS["sst-2"], tmp_path)["train"] == [tmp_path / "SST-2/train.tsv"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no file of sst-2 \(train: train.tsv; dev: dev.tsv"):
        splits_in(TASKS["sst-2"], tmp_path / "empty")


def test_so_many_skipped_rows_are_named_and_no_more():
    account = ReadReport("f")
    for number in range(20):
        account.skip("bad", number)
        account.use()
    assert len(account.named) == 5
    with pytest.raises(InputError, match="20 of 40 rows cannot be read; f, line 0: bad; is it the right file"):
        account.check()


SIZES = {
    "cola": ("glue/CoLA", {"train": 8551, "dev": 1043, "test": 1063}),
    "rte": ("glue/RTE", {"train": 2490, "dev": 277}),
    "sst-2": ("glue/SST-2", {"train": 67349, "dev": 872, "test": 1821}),
    "sts-b": ("glue/STS-B", {"train": 5749, "dev": 1500, "test": 1379}),
    "cb": ("superglue/CB", {"train": 250, "dev": 56, "test": 250}),
    "copa": ("superglue/COPA", {"train": 400, "dev": 100, "test": 500}),
    "squad": ("squad", {"train": 11877, "dev": 10570}),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", SIZES)
def test_real_files_are_used_to_the_last_row(shared, name):
    where, sizes = SIZES[name]
    task = TASKS[name]
    found = {split: load(task, paths, split) for split, paths in splits_in(task, shared / "data" / where).items()}
    assert {split: len(examples.examples) for split, examples in found.items()} == sizes
    assert not any(account.skipped for examples in found.values() for account in examples.accounts)
