"""Shards that the tests of this folder share."""

import pytest
from toy_text import LENGTH, ToyTokenizer, write_texts

from deberta_jax.data.prepare import prepare


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """About 200 sequences of 64 tokens in 4 shards."""
    folder = tmp_path_factory.mktemp("shards")
    prepare(write_texts(tmp_path_factory.mktemp("texts")), folder, ToyTokenizer(), length=LENGTH, shards=4)
    return folder
