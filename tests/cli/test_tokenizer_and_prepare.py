import os
import re

import pytest

from deberta_jax.cli.prepare import PrepareConfig
from deberta_jax.cli.prepare import run as prepare
from deberta_jax.cli.tokenizer import TokenizerConfig
from deberta_jax.cli.tokenizer import run as train_tokenizer
from deberta_jax.data.prepare import read_manifest
from deberta_jax.errors import InputError
from deberta_jax.tokenizers.tokenizer import Tokenizer


@pytest.fixture
def text(tmp_path):
    words = re.findall(r"\w+", "the quick brown fox jumps over a lazy dog while seven wizards brew coffee for nobody")
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(" ".join(words[i % 15 :] + words[: i % 15]) for i in range(200)), encoding="utf-8")
    return path


def test_text_becomes_a_tokenizer_and_shards(text, tmp_path, capsys):
    train_tokenizer(TokenizerConfig((str(text),), 300, tmp_path / "spm.model"))
    tokenizer = Tokenizer(tmp_path / "spm.model")
    assert (tokenizer.vocab_size, tokenizer.special_ids) == (301, (0, 1, 2, 3, 300))
    prepare(PrepareConfig((str(text),), tmp_path / "spm.model", tmp_path / "shards", length=64))
    manifest = read_manifest(tmp_path / "shards", tokenizer.sha256)
    assert (manifest.documents, manifest.length) == (200, 64)
    said = capsys.readouterr().out
    assert "301 tokens" in said
    assert "tokens/s" in said


def test_a_tokenizer_is_not_written_over(text, tmp_path):
    (tmp_path / "spm.model").write_text("precious")
    with pytest.raises(InputError, match=r"spm.model exists: delete it"):
        train_tokenizer(TokenizerConfig((str(text),), 300, tmp_path / "spm.model"))
    assert (tmp_path / "spm.model").read_text() == "precious"


def test_without_text_both_ask_for_it(tmp_path):
    for run, config in ((train_tokenizer, TokenizerConfig()), (prepare, PrepareConfig())):
        with pytest.raises(InputError, match="--files"):
            run(config)


def test_a_vocabulary_too_large_for_the_text_is_refused_with_the_largest(text, tmp_path):
    with pytest.raises(InputError, match="could not be trained: Vocabulary size too high"):
        train_tokenizer(TokenizerConfig((str(text),), 5000, tmp_path / "spm.model"))
    assert not list(tmp_path.glob("*training*"))


def test_text_that_cannot_be_read_is_named_by_the_tokenizers_training_too(text, tmp_path):
    text.write_bytes(text.read_bytes() + b"\n\ncaf\xe9 au lait\n")
    with pytest.raises(InputError, match=r"^\S*text.txt, byte \d+: not UTF-8"):
        train_tokenizer(TokenizerConfig((str(text),), 300, tmp_path / "spm.model"))


def test_a_shard_that_was_cut_short_is_made_again(text, tmp_path):
    train_tokenizer(TokenizerConfig((str(text),), 300, tmp_path / "spm.model"))
    config = PrepareConfig((str(text),), tmp_path / "spm.model", tmp_path / "shards", length=64, shards=2)
    prepare(config)
    shard = tmp_path / "shards" / read_manifest(tmp_path / "shards").shards[0].name
    whole = shard.stat().st_size
    os.truncate(shard, whole // 2)
    prepare(config)
    assert shard.stat().st_size == whole


def test_a_mask_in_the_text_is_the_mask_and_words_decode(text, tmp_path):
    train_tokenizer(TokenizerConfig((str(text),), 300, tmp_path / "spm.model"))
    tokenizer = Tokenizer(tmp_path)
    ids = tokenizer.encode("the [MASK] fox")
    assert list(ids).count(tokenizer.mask_id) == 1
    assert tokenizer.decode(ids) == "the [MASK] fox"
    starts = tokenizer.word_starts()
    assert starts[tokenizer.mask_id]
    assert not starts[tokenizer.vocabulary.id_of("<0x41>")]
    tokenizer.save(tmp_path / "saved")
    assert Tokenizer(tmp_path / "saved").sha256 == tokenizer.sha256
