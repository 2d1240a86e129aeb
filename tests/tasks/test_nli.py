"""ANLI and XNLI."""

from deberta_jax.tasks.catalogue import TASKS, find_splits, load


def test_the_rounds_of_anli_are_groups(toy):
    assert {example.group for example in toy("anli")["dev"].examples} == {"R1", "R2", "R3"}


def test_the_languages_of_xnli_are_groups_except_in_training(toy):
    assert {example.group for example in toy("xnli")["dev"].examples} == {"en", "de", "zh"}
    assert {example.group for example in toy("xnli")["train"].examples} == {""}


def test_labels_may_be_letters_or_in_another_spelling(toy):
    assert [example.label for example in toy("anli")["dev"].examples[:3]] == ["entailment", "neutral", "contradiction"]
    assert toy("xnli")["train"].examples[0].label == "contradiction"


def test_translated_training_sets_are_read_without_the_english_name(tmp_path):
    for name in ("en", "de", "fr"):
        row = f"premise\thypo\tlabel\n{name} premise\thypothesis\tcontradictory\n"
        (tmp_path / f"multinli.train.{name}.tsv").write_text(row, encoding="utf-8")

    def premises():
        paths = find_splits(TASKS["xnli"], tmp_path)["train"]
        return [example.text for example in load(TASKS["xnli"], paths, "train").examples]

    assert premises() == ["en premise"]
    (tmp_path / "multinli.train.en.tsv").rename(tmp_path / "multinli.train.english.tsv")
    assert premises() == ["de premise", "en premise", "fr premise"]
