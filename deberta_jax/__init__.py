"""DeBERTa v1, v2 and v3 in JAX and Flax."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deberta_jax.config import PRESETS, DebertaConfig
    from deberta_jax.errors import InputError
    from deberta_jax.hub.batch import Batch
    from deberta_jax.hub.pretrained import from_pretrained, save_pretrained
    from deberta_jax.hub.tokenizer import Tokenizer
    from deberta_jax.inference.answers import answer
    from deberta_jax.inference.buckets import Batching
    from deberta_jax.inference.candidates import score_entities
    from deberta_jax.inference.choices import choose
    from deberta_jax.inference.embeddings import embed
    from deberta_jax.inference.entities import tag
    from deberta_jax.inference.labels import classify, zero_shot
    from deberta_jax.inference.masks import fill_mask
    from deberta_jax.inference.predict import predict, predicting
    from deberta_jax.inference.replaced import detect
    from deberta_jax.inference.stream import stream
    from deberta_jax.inference.trace import trace
    from deberta_jax.model.deberta import Deberta
    from deberta_jax.model.heads import (
        EntityScoring,
        MultipleChoice,
        QuestionAnswering,
        ReplacedTokenDetection,
        SequenceClassification,
        TokenClassification,
    )
    from deberta_jax.model.masked_lm import MaskedLM
    from deberta_jax.model.pair import ReplacedTokenPair
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
    "Batch": "hub.batch",
    "Batching": "inference.buckets",
    "Deberta": "model.deberta",
    "DebertaConfig": "config",
    "EntityScoring": "model.heads",
    "InputError": "errors",
    "MaskedLM": "model.masked_lm",
    "MultipleChoice": "model.heads",
    "PRESETS": "config",
    "QuestionAnswering": "model.heads",
    "ReplacedTokenDetection": "model.heads",
    "ReplacedTokenPair": "model.pair",
    "SequenceClassification": "model.heads",
    "TokenClassification": "model.heads",
    "Tokenizer": "hub.tokenizer",
    "answer": "inference.answers",
    "attention_probabilities": "ops.attention",
    "c2c_scores": "ops.attention",
    "c2p_scores": "ops.attention",
    "choose": "inference.choices",
    "classify": "inference.labels",
    "detect": "inference.replaced",
    "disentangled_attention": "ops.attention",
    "embed": "inference.embeddings",
    "fill_mask": "inference.masks",
    "from_pretrained": "hub.pretrained",
    "log_bucket": "ops.positions",
    "make_mesh": "sharding",
    "p2c_scores": "ops.attention",
    "predict": "inference.predict",
    "predicting": "inference.predict",
    "relative_rows": "ops.positions",
    "save_pretrained": "hub.pretrained",
    "score_entities": "inference.candidates",
    "shardings": "model.shardings",
    "stream": "inference.stream",
    "tag": "inference.entities",
    "trace": "inference.trace",
    "visible": "ops.attention",
    "zero_shot": "inference.labels",
}
__all__ = [
    "PRESETS",
    "Batch",
    "Batching",
    "Deberta",
    "DebertaConfig",
    "EntityScoring",
    "InputError",
    "MaskedLM",
    "MultipleChoice",
    "QuestionAnswering",
    "ReplacedTokenDetection",
    "ReplacedTokenPair",
    "SequenceClassification",
    "TokenClassification",
    "Tokenizer",
    "answer",
    "attention_probabilities",
    "c2c_scores",
    "c2p_scores",
    "choose",
    "classify",
    "detect",
    "disentangled_attention",
    "embed",
    "fill_mask",
    "from_pretrained",
    "log_bucket",
    "make_mesh",
    "p2c_scores",
    "predict",
    "predicting",
    "relative_rows",
    "save_pretrained",
    "score_entities",
    "shardings",
    "stream",
    "tag",
    "trace",
    "visible",
    "zero_shot",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'deberta_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"deberta_jax.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
