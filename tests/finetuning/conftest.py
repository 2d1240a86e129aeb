"""A tokenizer over a small vocabulary, and text of its words."""

import sys
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "hub")]

from made_tokenizers import TEXT, write_unigram


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return write_unigram(tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture(scope="session")
def words():
    return TEXT.split()
