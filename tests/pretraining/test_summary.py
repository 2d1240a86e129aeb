"""What a run prints at its end: sentences with a masked word."""

from deberta_jax.pretraining.summary import masked_sentences


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
