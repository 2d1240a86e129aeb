"""DeBERTa v1, v2 and v3 in JAX and Flax."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deberta_jax.config import PRESETS, DebertaConfig
    from deberta_jax.errors import InputError
    from deberta_jax.hub.pretrained import from_pretrained, save_pretrained
    from deberta_jax.hub.sentencepiece import Tokenizer
    from deberta_jax.model.deberta import Deberta
    from deberta_jax.model.masked_lm import MaskedLM
    from deberta_jax.model.shardings import shardings
    from deberta_jax.ops.attention import (
        attention_probabilities,
        c2c_scores,
        c2p_scores,
        disentangled_attention,
        p2c_scores,
        visible,
    )
    from deberta_jax.ops.positions import log_bucket, relative_rows
    from deberta_jax.sharding import make_mesh

# Where each public name lives; a module is imported when one of its names is first used.
_HOMES = {
    "PRESETS": "config",
    "Deberta": "model.deberta",
    "DebertaConfig": "config",
    "InputError": "errors",
    "MaskedLM": "model.masked_lm",
    "Tokenizer": "hub.sentencepiece",
    "attention_probabilities": "ops.attention",
    "c2c_scores": "ops.attention",
    "c2p_scores": "ops.attention",
    "disentangled_attention": "ops.attention",
    "from_pretrained": "hub.pretrained",
    "log_bucket": "ops.positions",
    "make_mesh": "sharding",
    "p2c_scores": "ops.attention",
    "relative_rows": "ops.positions",
    "save_pretrained": "hub.pretrained",
    "shardings": "model.shardings",
    "visible": "ops.attention",
}
__all__ = [
    "PRESETS",
    "Deberta",
    "DebertaConfig",
    "InputError",
    "MaskedLM",
    "Tokenizer",
    "attention_probabilities",
    "c2c_scores",
    "c2p_scores",
    "disentangled_attention",
    "from_pretrained",
    "log_bucket",
    "make_mesh",
    "p2c_scores",
    "relative_rows",
    "save_pretrained",
    "shardings",
    "visible",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'deberta_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"deberta_jax.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
