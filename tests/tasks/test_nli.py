"""ANLI and XNLI."""


def test_the_rounds_of_anli_are_groups(toy):
    assert {example.group for example in toy("anli")["dev"].examples} == {"R1", "R2", "R3"}


def test_the_languages_of_xnli_are_groups_except_in_training(toy):
    assert {example.group for example in toy("xnli")["dev"].examples} == {"en", "de", "zh"}
    assert {example.group for example in toy("xnli")["train"].examples} == {""}


def test_labels_may_be_letters_or_in_another_spelling(toy):
    assert [example.label for example in toy("anli")["dev"].examples[:3]] == ["entailment", "neutral", "contradiction"]
    assert toy("xnli")["train"].examples[0].label == "contradiction"
