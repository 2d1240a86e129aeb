"""What a run prints at its end: the majority-class baseline, and sentences with a masked word."""

import numpy as np

from deberta_jax.pretraining.summary import majority_accuracy, masked_sentences


def test_the_majority_class_is_counted_at_masked_positions_only():
    batch = {"labels": np.array([[5, 5, 7, 0], [7, 7, 5, 0]]), "label_weights": np.array([[1, 1, 1, 0], [1, 0, 0, 0]])}
    assert majority_accuracy([batch]) == 0.5


def test_sentences_have_one_masked_word_that_is_one_token(tokenizer):
    text = "it is a fox of the sea and of shells. Another sentence"
    sentences = masked_sentences([text, "too short", text], tokenizer, 5)
    assert sentences == masked_sentences([text, "too short", text], tokenizer, 5)
    for masked, word in sentences:
        assert masked.count("[MASK]") == 1
        assert masked.replace("[MASK]", word) == text.partition(". ")[0]
        assert len(tokenizer.encode(word)) == 1
    assert len(sentences) == 2
    assert len(masked_sentences([text] * 9, tokenizer, 5)) == 5
