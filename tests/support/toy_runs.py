"""A small model to begin with, and a call of the command."""

import jax

from deberta_jax.cli.main import main
from deberta_jax.config import DebertaConfig

CONFIG = DebertaConfig(
    vocab_size=368,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    position_buckets=8,
    max_position_embeddings=64,
    share_att_key=True,
    norm_rel_ebd="layer_norm",
)
LENGTH = "48"


def called(*words):
    with jax.numpy_dtype_promotion("standard"):
        return main([str(word) for word in words])
