"""The tests' own modules can be imported by name, in worker processes too; shards for all tests of a session."""

import pytest
from toy_text import LENGTH, ToyTokenizer, write_texts

from deberta_jax.data.prepare import prepare


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """Some 200 rows of 64 in 4 shards."""
    folder = tmp_path_factory.mktemp("shards")
    prepare(write_texts(tmp_path_factory.mktemp("texts")), folder, ToyTokenizer(), length=LENGTH, shards=4)
    return folder
