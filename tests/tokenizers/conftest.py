"""Tokenizers of both kinds, made once."""

import pytest
from toy_tokenizers import write_byte_pair, write_unigram

import deberta_jax as dj

WRITERS = {"v3": write_unigram, "v1": write_byte_pair}


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory):
    folders = {version: tmp_path_factory.mktemp(version) for version in WRITERS}
    for version, folder in folders.items():
        WRITERS[version](folder)
    return {version: dj.Tokenizer(folder) for version, folder in folders.items()}


@pytest.fixture(params=WRITERS)
def tokenizer(tokenizers, request):
    return tokenizers[request.param]


@pytest.fixture(scope="session")
def v3(tokenizers):
    return tokenizers["v3"]


@pytest.fixture(scope="session")
def v1(tokenizers):
    return tokenizers["v1"]


@pytest.fixture(params=WRITERS)
def folder(tmp_path, request):
    """A tokenizer folder that a test may change."""
    path = tmp_path / request.param
    path.mkdir()
    WRITERS[request.param](path)
    return path


@pytest.fixture
def v3_folder(tmp_path):
    path = tmp_path / "v3"
    path.mkdir()
    write_unigram(path)
    return path
