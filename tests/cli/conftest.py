"""Model folders for `predict`."""

import pytest
from inference_models import random_model
from toy_tokenizers import write_unigram

from deberta_jax.hub.heads import HEADS
from deberta_jax.hub.pretrained import save_pretrained


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory) -> dict[str | None, str]:
    """A model folder per head, None for the bare encoder."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = write_unigram(root)
    for head in HEADS:
        save_pretrained(root / str(head), random_model(head), tokenizer)
    return {head: str(root / str(head)) for head in HEADS}


@pytest.fixture(scope="session")
def reranker(tmp_path_factory) -> str:
    """A model folder with one label."""
    root = tmp_path_factory.mktemp("reranker")
    tokenizer = write_unigram(root)
    save_pretrained(root / "model", random_model("sequence_classification", labels=("LABEL_0",)), tokenizer)
    return str(root / "model")


@pytest.fixture
def masked_lm(model_folders) -> str:
    return model_folders["masked_lm"]
