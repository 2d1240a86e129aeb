"""The table of formats: how a folder is detected, and what a further format takes."""

import hashlib
import json

import numpy as np
import pytest
from toy_tokenizers import write_byte_pair, write_unigram

import deberta_jax as dj
from deberta_jax.errors import InputError
from deberta_jax.tokenizers.formats import FORMATS, has_tokenizer, read_vocabulary
from deberta_jax.tokenizers.segments import SegmentEncoder
from deberta_jax.tokenizers.special_tokens import NAMES
from deberta_jax.tokenizers.vocabulary import Format, SavedVocabulary

WORDS_TXT = "words.txt"


class WordVocabulary:
    """A toy format: one word in a line, ids in order, and words that white space separates."""

    default_ids = {}  # noqa: RUF012
    mask_strips_space = False
    added = ()
    template = None

    def __init__(self, path, settings):
        self.path = path
        self.words = path.read_text("utf-8").split()
        self.size = len(self.words)
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()

    def id_of(self, token):
        return self.words.index(token) if token in self.words else None

    def token(self, index):
        return self.words[index]

    def encode_many(self, texts):
        unknown = self.id_of("[UNK]")
        return [
            np.asarray([unknown if self.id_of(word) is None else self.id_of(word) for word in text.split()], np.int32)
            for text in texts
        ]

    def encode_with_offsets(self, texts):
        encoded = []
        for text, ids in zip(texts, self.encode_many(texts), strict=True):
            offsets, end = np.zeros((len(ids), 2), np.int32), 0
            for row, word in enumerate(text.split()):
                start = text.index(word, end)
                end = start + len(word)
                offsets[row] = start, end
            encoded.append((ids, offsets))
        return encoded

    def encoder(self, added):
        return SegmentEncoder(self.encode_with_offsets, added)

    def decode(self, ids):
        return " ".join(map(self.token, ids))

    def word_starts(self):
        return np.ones(self.size, bool)

    def saved(self):
        return SavedVocabulary({WORDS_TXT: self.path.read_bytes()}, "WordTokenizer", {}, None)


def test_a_further_format_is_one_entry_of_the_table(monkeypatch, tmp_path):
    monkeypatch.setitem(FORMATS, "words", Format((WORDS_TXT,), WordVocabulary))
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / WORDS_TXT).write_text("\n".join([*NAMES.values(), "the", "dog", "sings"]), "utf-8")
    assert has_tokenizer(folder)
    tokenizer = dj.Tokenizer(folder)
    assert tokenizer.special_ids == (0, 1, 2, 3, 4)
    batch = tokenizer("the dog", "the [MASK]  cat")
    assert batch.input_ids.tolist() == [[1, 5, 6, 2, 5, 4, 3, 2]]
    assert batch.offsets[0, 4:7].tolist() == [[0, 3], [4, 10], [12, 15]]
    assert tokenizer.decode([5, 4, 7]) == "the [MASK] sings"
    # Saving over a tokenizer of another format replaces its files.
    write_byte_pair(tmp_path)
    tokenizer.save(tmp_path)
    assert not (tmp_path / "merges.txt").exists()
    saved = dj.Tokenizer(tmp_path)
    assert saved.sha256 == tokenizer.sha256
    assert saved("the dog").input_ids.tolist() == [[1, 5, 6, 2]]
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "WordTokenizer"


def test_of_several_formats_in_a_folder_the_first_in_the_table_is_read(tmp_path, v3, v1):
    write_byte_pair(tmp_path)
    write_unigram(tmp_path)
    assert dj.Tokenizer(tmp_path).sha256 == v3.sha256
    reversed_table = dict(reversed(FORMATS.items()))
    assert read_vocabulary(tmp_path, {}, reversed_table).sha256 == v1.sha256


def test_a_file_is_identified_by_its_name_or_its_suffix(tmp_path, v3, v1):
    write_byte_pair(tmp_path)
    assert dj.Tokenizer(tmp_path / "vocab.json").sha256 == v1.sha256
    (tmp_path / "vocab.json").rename(tmp_path / "words.json")
    assert dj.Tokenizer(tmp_path / "words.json").sha256 == v1.sha256
    (tmp_path / "any name").write_bytes((v3.path / "spm.model").read_bytes())
    assert dj.Tokenizer(tmp_path / "any name").sha256 == v3.sha256
    assert not has_tokenizer(tmp_path / "words.json")


def test_a_folder_without_a_known_format_lists_the_expected_files(tmp_path, v3_folder):
    with pytest.raises(
        InputError,
        match=r"no tokenizer found; expected one of tokenizer.json, spm.model, vocab.json, bpe_encoder.bin, vocab.txt:",
    ):
        dj.Tokenizer(tmp_path)
    (v3_folder / "spm.model").rename(v3_folder / "merges.txt")
    with pytest.raises(InputError, match="found only merges.txt: copy the original file"):
        dj.Tokenizer(v3_folder)
    assert not has_tokenizer(v3_folder)
