"""Small models with every head, and a tokenizer over their vocabulary."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_tokenizers import write_byte_pair

from deberta_jax.config import DebertaConfig
from deberta_jax.hub.heads import HEADS
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.tokenizers.train import train_tokenizer

TEXT = """The quick brown fox jumps over the lazy dog, and eats what it finds there, every day of the year.
Fine offices flow from first efforts; it's 1/2 of what they'd said (in 2021) to be enough - or 12% more than that.
A man eats. A woman sings! Déjà vu: über größere Straßen fuhr er nach Köln. Where do all these words come from?
She sells sea shells on the sea shore; the shells she sells are sea shells, she's sure of it, isn't she?
"""
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return train_tokenizer([TEXT] * 10, tmp_path_factory.mktemp("vocabulary") / "spm.model", 360)


@pytest.fixture(scope="session")
def byte_pair_tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("byte_pairs")
    write_byte_pair(folder)
    return Tokenizer(folder)


@functools.cache
def _made(head, **fields):
    # The table is larger than the vocabulary, as v3's is.
    fields = {"labels": ("O", "B-A", "I-A")} | fields
    config = DebertaConfig(
        vocab_size=370, **SIZES, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True, **fields
    )
    random = np.random.default_rng(0)
    abstract = jax.eval_shape(lambda key: HEADS[head].model(config, key=key), jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(random.normal(0, 0.4, x.shape), x.dtype), abstract)


@pytest.fixture(scope="session")
def made():
    """A model with a head, by the head's name; fields of its config are tuples."""
    return _made


@pytest.fixture(scope="session")
def texts():
    """Texts of many lengths, the longest beyond the model's positions; empty ones and blanks too."""
    random, words = np.random.default_rng(0), TEXT.split()
    lengths = [*random.integers(1, 20, 24).tolist(), 60, 0, 3, 90]
    return [" ".join(random.choice(words, size)) for size in lengths] + ["  ", "日本 😀"]
