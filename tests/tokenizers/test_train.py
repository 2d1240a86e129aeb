"""Training of a vocabulary: ids, errors, and the files that are left."""

import numpy as np
import pytest
import sentencepiece
from toy_tokenizers import TEXT

from deberta_jax.errors import InputError
from deberta_jax.tokenizers.train import sample_lines, train_tokenizer


def test_a_trained_vocabulary_has_the_ids_of_v3(tmp_path):
    tokenizer = train_tokenizer([TEXT] * 10, tmp_path / "new" / "spm.model", 330)
    assert (tokenizer.vocab_size, tokenizer.special_ids) == (331, (0, 1, 2, 3, 330))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["spm.model"]
    ids = tokenizer.encode("the [MASK] fox")
    assert list(ids).count(tokenizer.mask_id) == 1
    assert tokenizer.decode(ids) == "the [MASK] fox"
    starts = tokenizer.word_starts()
    assert starts[tokenizer.mask_id]
    assert not starts[tokenizer.vocabulary.id_of("<0x41>")]
    again = train_tokenizer([TEXT] * 10, tmp_path / "again.model", 330)
    assert again.sha256 == tokenizer.sha256


def test_a_large_corpus_is_sampled_in_the_same_way_in_every_call():
    lines = [str(number) for number in range(1000)]
    sample = sample_lines(iter(lines), 100)
    assert sample == sample_lines(iter(lines), 100)
    assert len(set(sample)) == 100
    assert set(sample) <= set(lines)
    assert 350 < np.mean([int(line) for line in sample]) < 650
    assert sample_lines(iter(lines), 1000) == lines


def test_a_failed_training_leaves_no_file_and_no_new_folder(tmp_path):
    with pytest.raises(
        InputError, match="cannot train a vocabulary of 5000 pieces: Vocabulary size too high"
    ) as raised:
        train_tokenizer([TEXT], tmp_path / "new" / "deep" / "spm.model", 5000)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_path_that_cannot_be_written_is_rejected_before_training(monkeypatch):
    monkeypatch.setattr(sentencepiece.SentencePieceTrainer, "train", lambda **options: pytest.fail("trained"))
    for path in ("/proc/nope", "/proc/nope/spm.model"):
        with pytest.raises(InputError, match="cannot be written|cannot create this folder") as raised:
            train_tokenizer([TEXT], path, 300)
        assert "\n" not in str(raised.value)
