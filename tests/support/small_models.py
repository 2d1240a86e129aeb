"""Small models with parameters that all differ from zero and one, and a compiled call of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from deberta_jax.config import DebertaConfig
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.masked_lm import MaskedLM

SMALL = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
V3 = DebertaConfig(**SMALL, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True)
V2 = dataclasses.replace(V3, conv_kernel_size=3, conv_act="gelu")
V1 = DebertaConfig(**SMALL, model_type="deberta", max_position_embeddings=32)
BIASED = dataclasses.replace(V3, position_biased_input=True, type_vocab_size=2, embedding_size=12)
CONFIGS = {"v1": V1, "v2": V2, "v3": V3, "biased": BIASED}


def ids_of(rows: int, length: int, seed: int = 0) -> jax.Array:
    ids = np.random.default_rng(seed).integers(4, SMALL["vocab_size"], (rows, length), dtype=np.int32)
    return jax.device_put(ids)


IDS = ids_of(2, 12)
# Padding on the right, and on both sides.
MASK = jax.device_put(np.asarray([[1] * 7 + [0] * 5, [0] * 2 + [1] * 9 + [0]], np.int32))


@functools.cache
def _random(kind: type, config: DebertaConfig, fields: tuple) -> Deberta | MaskedLM:
    random = np.random.default_rng(1)

    def values(path, leaf):
        around = 1.0 if getattr(path[-2], "name", None) == "scale" else 0.0
        return jnp.asarray(random.normal(around, 0.2, leaf.shape).astype(leaf.dtype), leaf.dtype)

    abstract = jax.eval_shape(lambda key: kind(config, key=key, **dict(fields)), jax.random.key(0))
    return jax.tree.map_with_path(values, abstract)


def bare(config: str | DebertaConfig, **fields) -> Deberta:
    return _random(Deberta, CONFIGS.get(config, config), tuple(fields.items()))


def masked_lm(config: str | DebertaConfig, **fields) -> MaskedLM:
    return _random(MaskedLM, CONFIGS.get(config, config), tuple(fields.items()))


@functools.partial(jax.jit, static_argnames=("depth", "output_hidden_states", "output_attentions"))
def call(model, *arguments, **options):
    return model(*arguments, **options)
