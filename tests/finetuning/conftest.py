"""A tokenizer over a small vocabulary, and text of its words."""

import jax
import pytest
from toy_runs import CONFIG
from toy_tokenizers import write_unigram

from deberta_jax.hub.pretrained import save_pretrained
from deberta_jax.model.deberta import Deberta


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return write_unigram(tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("pretrained")
    save_pretrained(folder, jax.jit(lambda key: Deberta(CONFIG, key=key))(jax.random.key(0)), tokenizer)
    return folder
