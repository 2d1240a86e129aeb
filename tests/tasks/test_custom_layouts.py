"""Custom tables in the layouts that people have: words, spans, choices, questions, labels and missing labels."""

import json

import pytest
from toy_tables import write_table

from deberta_jax.errors import InputError
from deberta_jax.finetuning.custom import find_task
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.tasks.catalogue import find_splits, labels_of, load, separate_unlabelled, with_data
from deberta_jax.tasks.columns import Columns
from deberta_jax.tasks.examples import Examples, TextExample


@pytest.fixture
def read(tmp_path):
    """A function that returns the examples and the report of a table, written in the format of `name`."""

    def read(kind, rows, name="train.jsonl", labels=(), split="train", **columns):
        path = write_table(tmp_path / name, rows)
        task = find_task("generic", Columns(kind=kind, **columns), labels=labels)
        examples, (report,) = load(task.fit(task, {split: [path]}), [path], split)
        return examples, report

    return read


SENTENCES = [("Nora", "B-PER"), ("runs", "O"), (".", "O")], [("In", "O"), ("Bonn", "B-LOC")]


def test_rows_with_one_word_are_sentences_by_the_column_that_begins_them(read):
    rows = []
    for number, sentence in enumerate(SENTENCES * 3):
        for position, (word, tag) in enumerate(sentence):
            rows.append({"Sentence #": "" if position else f"Sentence: {number}", "Word": word, "POS": "x", "Tag": tag})
    examples, report = read("token", rows, "train.csv")
    assert [example.words for example in examples] == [("Nora", "runs", "."), ("In", "Bonn")] * 3
    assert examples[1].tags == ("O", "B-LOC")
    assert report.used == 6
    assert report.notes[0] == "columns by their names: --columns.words Word, --columns.tags Tag"
    assert report.notes[1:] == [
        "rows are words; their sentences are those of column 'Sentence #' (--columns.sentence)",
        "15 rows with one word each are 6 sentences",
    ]


def test_sentences_may_be_numbered_in_each_row_and_a_malformed_row_costs_one_row(read):
    rows = [{"sent_id": number, "words": word, "tags": tag} for number in range(60) for word, tag in SENTENCES[0]]
    rows[4]["tags"] = None
    rows[8]["words"] = ""
    examples, report = read("token", rows, "train.parquet")
    assert [example.words for example in examples[:3]] == [("Nora", "runs", "."), ("Nora", "."), ("Nora", "runs")]
    assert report.skipped == {"no tag in 'tags'": 1, "no word in 'words'": 1}


def test_single_words_without_a_column_of_sentences_are_reported(read):
    rows = [{"words": word, "tags": tag} for word, tag in SENTENCES[0] * 5]
    examples, report = read("token", rows, "train.csv")
    assert len(examples) == 15
    assert report.notes[0].startswith(
        "each row has one word; name the column of their sentences with --columns.sentence"
    )


def test_words_of_white_space_have_a_position_and_a_tag(read):
    row = {"tokens": ["Nora", "\n\n", "Quill", " "], "labels": ["B-PER", "I-PER", "I-PER", "O"]}
    (example,), _ = read("token", [row])
    assert example.words == tuple(row["tokens"])
    assert example.tags == ("B-PER", "I-PER", "I-PER", "O")


def test_tags_may_be_numbers_with_names(read):
    rows = [{"tokens": ["Nora", "Quill", "runs"], "ner_tags": [1, 2, 0]}] * 3
    assert read("token", rows, labels=("O", "B-PER", "I-PER"))[0][0].tags == ("B-PER", "I-PER", "O")
    examples, report = read("token", rows)
    assert examples[0].tags == ("1", "2", "0")
    assert report.notes[-1].startswith("tags are numbers; name them with --labels")
    with pytest.raises(InputError, match="line 1: label '2' has no name in --labels, which names 0 to 1"):
        read("token", rows, labels=("O", "B-PER"))


def test_a_stray_tag_costs_one_row_and_the_splits_agree(tmp_path):
    rows = [{"words": "Nora Quill runs", "tags": "B-PER E-PER O"}] * 40
    train = write_table(tmp_path / "train.csv", [*rows, {"words": "a b", "tags": "PERSON O"}])
    dev = write_table(tmp_path / "dev.csv", rows[:2])
    task = find_task("generic", Columns(kind="token"))
    task = task.fit(task, {"train": [train], "dev": [dev]})
    examples, (report,) = load(task, [train], "train")
    assert report.errors == [f"{train} line 42: invalid tag 'PERSON'"]
    assert {example.tags for example in (*examples, *load(task, [dev], "dev").examples)} == {("B-PER", "I-PER", "O")}


def test_tags_without_prefixes_are_entities_if_most_words_are_outside(read):
    rows = [{"words": "we saw Nora Quill walk", "tags": "O O PER PER O"}]
    (example,), report = read("token", rows)
    assert example.tags == ("O", "O", "B-PER", "I-PER", "O")
    assert report.notes[0].startswith("tags have no B- and I-")
    assert read("token", rows, tagging="plain")[0][0].tags == ("O", "O", "PER", "PER", "O")


TEXT = "Nora Quill's mill in Bonn."
WORDS = ("Nora", "Quill", "'", "s", "mill", "in", "Bonn", ".")
TAGS = ("B-PER", "I-PER", "O", "O", "O", "O", "B-LOC", "O")


@pytest.mark.parametrize(
    "row",
    [
        {"text": TEXT, "label": [[0, 10, "PER"], [21, 25, "LOC"]]},
        {"text": TEXT, "entities": [{"id": 1, "label": "LOC", "start_offset": 21, "end_offset": 25}, [0, 10, "PER"]]},
        {
            "text": TEXT,
            "spans": [{"start": 0, "end": 10, "label": "PER"}, {"start": 21, "end": 25, "label": "LOC"}],
            "answer": "accept",
        },
        {
            "text": TEXT,
            "label": [
                {"start": 0, "end": 10, "text": "Nora Quill", "labels": ["PER"]},
                {"start": 21, "end": 25, "labels": ["LOC"]},
            ],
        },
        {"text": TEXT, "label": "[[0, 10, 'PER'], [21, 25, 'LOC']]"},
        {
            "data": {"text": TEXT},
            "annotations": [
                {"was_cancelled": True, "result": []},
                {
                    "result": [
                        {"type": "labels", "value": {"start": 0, "end": 10, "labels": ["PER"]}},
                        {"type": "choices", "value": {"choices": ["good"]}},
                        {"type": "labels", "value": {"start": 21, "end": 25, "labels": ["LOC"]}},
                    ]
                },
            ],
        },
    ],
)
def test_spans_of_annotation_tools_tag_words(read, row):
    (example,), report = read("token", [row])
    assert (example.words, example.tags) == (WORDS, TAGS)
    assert report.notes[0].startswith("columns by their names: ")


def test_spans_are_counted_if_they_overlap_and_refused_outside_of_the_text(read):
    good = {"text": TEXT, "label": []}
    rows = [
        {"text": TEXT, "label": [[0, 10, "PER"], [0, 4, "FIRST"]]},
        *[good] * 30,
        {"text": TEXT, "label": [[20, 99, "LOC"]]},
    ]
    examples, report = read("token", rows)
    assert examples[0].tags[:3] == ("B-PER", "I-PER", "O")
    assert "1 spans overlap longer ones and are left out: a word has one tag" in report.notes
    assert report.errors == [f"{report.file} line 32: span 20 to 99 is outside of the text"]
    assert len(examples) == 31


def test_prodigy_tokens_are_the_words_and_rejected_texts_are_left_out(read):
    tokens = [{"text": "Nora", "start": 0, "end": 4, "id": 0}, {"text": "Quill's", "start": 5, "end": 12, "id": 1}]
    span = {"start": 0, "end": 4, "label": "PER"}
    rows = [
        {"text": "Nora Quill's", "tokens": tokens, "spans": [span], "answer": "accept"},
        {"text": "no", "spans": [], "answer": "reject"},
    ]
    examples, report = read("token", rows)
    assert [(example.words, example.tags) for example in examples] == [(("Nora", "Quill's"), ("B-PER", "O"))]
    assert report.skipped == {"answer is 'reject'": 1} and not report.malformed


CHOICES = {"text": "which", "A": "red", "B": "green", "C": "blue"}


@pytest.mark.parametrize(
    ("rows", "columns", "indices"),
    [
        ([CHOICES | {"label": label} for label in "ACB"], {"choices": ("A", "B", "C")}, [0, 2, 1]),
        ([CHOICES | {"label": label} for label in ("red", "blue")], {"choices": ("A", "B", "C")}, [0, 2]),
        ([CHOICES | {"label": label} for label in (0, 2)], {"choices": ("A", "B", "C")}, [0, 2]),
        ([CHOICES | {"label": label} for label in (1, 3)], {"choices": ("A", "B", "C")}, [0, 2]),
        ([{"text": "t", "choices": "x|y|z", "label": label} for label in "ac"], {}, [0, 2]),
        ([{"sentence": "t", "option1": "x", "option2": "y", "answer": label} for label in "12"], {}, [0, 1]),
        ([{"text": "t", "choices": "['x', 'y']", "label": 1}], {}, [1]),
        ([{"question": "q", "choices": {"label": ["1", "2"], "text": ["x", "y"]}, "answerKey": "2"}], {}, [1]),
        (
            [
                {
                    "question": "q",
                    "choices": [{"label": "B", "text": "x"}, {"label": "A", "text": "y"}],
                    "answerKey": "A",
                }
            ],
            {},
            [1],
        ),
        (
            [
                {
                    "question": {"stem": "q", "choices": [{"label": "A", "text": "x"}, {"label": "B", "text": "y"}]},
                    "answerKey": "B",
                }
            ],
            {},
            [1],
        ),
        ([{"question": "q", "choices.text": "['x' 'y']", "choices.label": "['C' 'D']", "answerKey": "D"}], {}, [1]),
        ([{"article": "a", "question": "q", "options": ["x", "y"], "answer": "B"}], {}, [1]),
    ],
)
def test_choices_and_their_labels_have_many_layouts(read, rows, columns, indices):
    examples, _ = read("multiple_choice", rows, **columns)
    assert [example.label for example in examples] == indices


def test_swag_has_the_beginning_of_its_endings_in_a_column(read):
    row = {"sent1": "A man sits.", "sent2": "He", **{f"ending{k}": f"eats {k}." for k in range(4)}, "label": 3}
    (example,), _ = read("multiple_choice", [row])
    assert example.pairs[3] == ("A man sits.", "He eats 3.") and example.label == 3


def test_choices_that_are_numbers_are_ambiguous_and_reported(read):
    rows = [{"text": "t", "a": "1", "b": "2", "c": "0", "label": k % 3} for k in range(6)]
    examples, report = read("multiple_choice", rows, "train.csv", choices=("a", "b", "c"))
    assert [example.label for example in examples[:3]] == [2, 0, 1]
    assert report.notes == [
        "labels are read as the texts of choices; if they are not, use --columns.choice-label index"
    ]
    examples, _ = read("multiple_choice", rows, "train.csv", choices=("a", "b", "c"), choice_label="index")
    assert [example.label for example in examples[:3]] == [0, 1, 2]


def test_the_last_choices_may_be_missing_and_a_hidden_label_is_none(read):
    rows = [CHOICES | {"C": "", "label": -1}]
    (example,), _ = read("multiple_choice", rows, "test.csv", split="test", choices=("A", "B", "C"))
    assert len(example.pairs) == 2 and example.label is None


@pytest.mark.parametrize(
    "answers",
    [
        {"answers": {"text": ["in 1793", "1793"], "answer_start": [10, 13]}},
        {"answers": "{'text': array(['in 1793', '1793'], dtype=object), 'answer_start': array([10, 13], dtype=int32)}"},
        {"answers": [{"text": "in 1793", "answer_start": 10}, {"text": "1793", "answer_start": 13}]},
        {"answers.text": ["in 1793", "1793"], "answers.answer_start": [10, 13]},
        {"answers.text": "['in 1793' '1793']", "answers.answer_start": "[10 13]"},
    ],
)
def test_answers_of_squad_are_read_in_each_layout(read, answers):
    (example,), _ = read("extractive_qa", [{"question": "when", "context": "The mill, in 1793.", **answers}])
    assert example.answers == (("in 1793", 10), ("1793", 13))


@pytest.mark.parametrize("answers", [{"text": [], "answer_start": []}, [], "[]", "{'text': [], 'answer_start': []}"])
def test_a_question_without_answers_has_none(read, answers):
    rows = [{"question": "when", "context": "The mill.", "answers": answers}]
    assert read("extractive_qa", rows)[0][0].answers == ()


def test_several_columns_are_labels_or_numbers(read, tmp_path):
    rows = [{"text": "a", "x": 0, "y": "1"}, {"text": "b", "x": "TRUE", "y": 0.25}, {"text": "c", "x": "", "y": 1}]
    examples, report = read("multi_label", rows, "train.csv", label=("x", "y"))
    assert [example.label for example in examples] == [("y",), ("x",), None]
    assert examples[1].extra == {"probabilities": {"x": 1.0, "y": 0.25}}
    assert report.unlabelled == 1
    examples, _ = read("regression", rows[:2], "train.csv", label=("x", "y"))
    assert [example.label for example in examples] == [(0.0, 1.0), (1.0, 0.25)]
    task = find_task("generic", Columns(kind="regression", label=("x", "y")))
    assert labels_of(task, examples) == ("x", "y")
    scores = task.metrics(examples, [(0.0, 2.0), (1.0, 0.25)])
    assert scores["mean_absolute_error"] == 0.25 and scores["mean_absolute_error/y"] == 0.5


def test_labels_may_be_probabilities(read):
    rows = [{"text": "a", "no": 3, "yes": 1}, {"text": "b", "no": 0, "yes": 1}]
    examples, _ = read("single_label", rows, label=("no", "yes"))
    assert [example.label for example in examples] == ["no", "yes"]
    assert examples[0].extra == {"probabilities": {"no": 0.75, "yes": 0.25}}
    examples, _ = read("single_label", [{"text": "a", "label": {"no": 0.2, "yes": 0.8}}])
    assert examples[0].label == "yes"
    with pytest.raises(InputError, match="line 1: the labels have no probabilities"):
        read("single_label", [{"text": "a", "no": -1, "yes": 1}], label=("no", "yes"))


def test_labels_may_be_numbers_with_names(read):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": "neg"}]
    examples, _ = read("single_label", rows, labels=("neg", "pos"))
    assert [example.label for example in examples] == ["pos", "neg"]
    examples, _ = read("multi_label", [{"text": "a", "label": "[2 0]"}], labels=("x", "y", "z"))
    assert examples[0].label == ("x", "z")


@pytest.mark.parametrize("kind", ["single_label", "regression"])
@pytest.mark.parametrize("name", ["train.csv", "train.jsonl"])
def test_rows_without_a_label_are_counted_and_separated(read, kind, name):
    cells = [1, 0, "NaN", "", "N/A", 1] + ([None] if name == "train.jsonl" else [])
    examples, report = read(kind, [{"text": f"text {k}", "label": cell} for k, cell in enumerate(cells)], name)
    missing = len(cells) - 3
    assert (report.read, report.malformed, report.unlabelled) == (len(cells), 0, missing)
    assert str(report).endswith(f"{len(cells)} rows, {len(cells)} used, {missing} without a label")
    splits = separate_unlabelled({"train": Examples(examples, [report]), "test": Examples(examples, [report])})
    assert {split: len(part.examples) for split, part in splits.items()} == {
        "train": 3,
        "test": len(cells),
        "unlabelled": missing,
    }


def test_a_training_set_without_labels_is_refused(read):
    examples, report = read("single_label", [{"text": "a", "label": ""}])
    with pytest.raises(InputError, match=r"train.jsonl: none of 1 rows has a label"):
        separate_unlabelled({"train": Examples(examples, [report])})


def test_a_row_without_a_key_is_reported_with_its_line(read):
    rows = [{"text": f"text {k}", "label": k % 2} for k in range(40)]
    del rows[3]["label"], rows[5]["text"]
    examples, report = read("single_label", rows)
    assert (len(examples), report.unlabelled) == (39, 1)
    assert report.errors == [f"{report.file} line 6: no 'text'"]
    with pytest.raises(InputError, match="no column 'text'; the columns are label"):
        read("single_label", [{"label": 1}, {"label": 0}])


def test_the_share_of_malformed_rows_is_an_option(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text,label\n" + "good,yes\n" * 8 + ",no\n,no\n")
    task = find_task("generic", Columns())
    with pytest.raises(InputError, match="2 of 10 rows are malformed .* allow more with --max-malformed"):
        load(task, [path], "train")
    assert len(load(task, [path], "train", max_malformed=0.2).examples) == 8


def test_labels_that_differ_only_in_case_are_logged_once(caplog):
    task = find_task("generic", Columns())
    labels = labels_of(
        task, [TextExample(str(k), "a", None, label) for k, label in enumerate(["Good", "good", "bad"] * 3)]
    )
    assert labels == ("Good", "bad", "good")
    assert [record.getMessage() for record in caplog.records] == [
        "labels that differ only in case or spaces are different labels: Good/good; if they are one, edit the table"
    ]


def test_columns_of_ner_have_numbers_and_other_tasks_have_none():
    assert find_task("ner", Columns(words="2", tags="4")).name == "ner"
    with pytest.raises(InputError, match="--columns.tags is 'tag'; the columns of ner have numbers from 1"):
        find_task("ner", Columns(tags="tag"))
    with pytest.raises(InputError, match="of the --columns options, ner has words and tags"):
        find_task("ner", Columns(text="2"))
    with pytest.raises(InputError, match="--encoding are for the task generic"):
        find_task("cola", Columns(), encoding="latin-1")
    with pytest.raises(InputError, match="--labels is for the task generic"):
        find_task("cola", Columns(), labels=("a",))


def test_every_kind_with_a_table_reads_compressed_folders(tmp_path):
    import gzip

    for split in ("train", "dev"):
        (tmp_path / f"{split}.csv.gz").write_bytes(gzip.compress(b"text,label\na,0\nb,1\n"))
    task = find_task("generic", Columns())
    assert set(find_splits(task, tmp_path)) == {"train", "dev"}
    assert with_data(task, load(task, [tmp_path / "train.csv.gz"], "train").examples) == task
    assert json.dumps(sorted(name for name, kind in KINDS.items() if kind.table))


def test_a_label_may_be_the_only_one_of_a_list(read):
    rows = [{"text": "a", "label": label} for label in ("['joy']", ["joy"], "[Sports]")] * 14
    examples, report = read("single_label", [*rows, {"text": "a", "label": "['joy', 'pride']"}])
    assert {example.label for example in examples} == {"joy", "[Sports]"}
    assert report.errors[0].endswith("line 43: 2 labels; for any number of labels use --columns.kind multi_label")


def test_a_test_set_has_the_columns_of_a_layout_without_the_answers(read):
    rows = [{"question": "q", "choices": {"label": ["A", "B"], "text": ["x", "y"]}}]
    (example,), _ = read("multiple_choice", rows, split="test")
    assert example.pairs == (("q", "x"), ("q", "y")) and example.label is None


def test_the_first_sheet_is_read_and_others_are_reported(tmp_path):
    import openpyxl

    book = openpyxl.Workbook()
    for row in (("text", "label"), ("a", 1), ("b", 0)):
        book.active.append(row)
    book.create_sheet("more")
    book.save(tmp_path / "train.xlsx")
    task = find_task("generic", Columns())
    assert load(task, [tmp_path / "train.xlsx"], "train").reports[0].notes == [
        "of 2 sheets the first with cells is read, 'Sheet'"
    ]
