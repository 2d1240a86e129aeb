"""DeBERTa v1, v2 and v3 in JAX and Flax."""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deberta_jax.config import DebertaConfig
    from deberta_jax.data.masking import Masking, MaskingVocabulary, mask_tokens
    from deberta_jax.data.packing import pack
    from deberta_jax.errors import InputError
    from deberta_jax.finetuning.adapter import save_adapter
    from deberta_jax.finetuning.config import LoraConfig
    from deberta_jax.finetuning.lora import LoraModel, lora_objective, merge_lora
    from deberta_jax.finetuning.objectives import classification_objective, plain_objective
    from deberta_jax.hub.pretrained import from_pretrained, save_pretrained
    from deberta_jax.inference.activations import activations
    from deberta_jax.inference.buckets import Batching
    from deberta_jax.inference.classification import classify, zero_shot
    from deberta_jax.inference.embeddings import embed
    from deberta_jax.inference.entities import tag_entities
    from deberta_jax.inference.entity_ranking import score_entities
    from deberta_jax.inference.fill_mask import fill_mask
    from deberta_jax.inference.generation import Generated, generate
    from deberta_jax.inference.multiple_choice import choose
    from deberta_jax.inference.perplexity import Perplexity, perplexity
    from deberta_jax.inference.pipelines import pipeline, predict
    from deberta_jax.inference.question_answering import answer
    from deberta_jax.inference.ranking import rank
    from deberta_jax.inference.replaced_tokens import detect_replaced
    from deberta_jax.inference.scoring import score
    from deberta_jax.inference.stream import stream
    from deberta_jax.model.deberta import Deberta
    from deberta_jax.model.entity_scoring import EntityScoring
    from deberta_jax.model.heads import (
        QuestionAnswering,
        SequenceClassification,
        TokenClassification,
    )
    from deberta_jax.model.masked_lm import MaskedLM
    from deberta_jax.model.multiple_choice import MultipleChoice
    from deberta_jax.model.outputs import HeadOutput
    from deberta_jax.model.pair import ReplacedTokenPair, initial_pair
    from deberta_jax.model.replaced_token_detection import ReplacedTokenDetection
    from deberta_jax.model.sentence import SentenceEncoder
    from deberta_jax.model.shardings import shardings
    from deberta_jax.model.surgery import first_layers, label, layer, parameters, resized, with_config
    from deberta_jax.ops.attention import attention_implementation, attention_with_probabilities, disentangled_attention
    from deberta_jax.ops.masks import make_attention_mask
    from deberta_jax.ops.positions import log_bucket, relative_index
    from deberta_jax.ops.scores import attention_probabilities, c2c_scores, c2p_scores, p2c_scores
    from deberta_jax.presets import PRESETS
    from deberta_jax.pretraining.objectives import causal_lm_objective, masked_lm_objective
    from deberta_jax.pretraining.replaced_token_losses import discriminator_objective, replace_tokens
    from deberta_jax.sharding import make_mesh
    from deberta_jax.tokenizers.batch import Batch
    from deberta_jax.tokenizers.tokenizer import Tokenizer
    from deberta_jax.training.objective import Sums
    from deberta_jax.training.optimizer import scale_by_layer
    from deberta_jax.training.state import TrainState, initial_state
    from deberta_jax.training.step import make_step

    __version__: str

# The module of each public name; it is imported when the name is first used.
_MODULES = {
    "Batch": "tokenizers.batch",
    "Batching": "inference.buckets",
    "Deberta": "model.deberta",
    "DebertaConfig": "config",
    "EntityScoring": "model.entity_scoring",
    "Generated": "inference.generation",
    "HeadOutput": "model.outputs",
    "InputError": "errors",
    "LoraConfig": "finetuning.config",
    "LoraModel": "finetuning.lora",
    "MaskedLM": "model.masked_lm",
    "Masking": "data.masking",
    "MaskingVocabulary": "data.masking",
    "MultipleChoice": "model.multiple_choice",
    "PRESETS": "presets",
    "Perplexity": "inference.perplexity",
    "QuestionAnswering": "model.heads",
    "ReplacedTokenDetection": "model.replaced_token_detection",
    "ReplacedTokenPair": "model.pair",
    "SentenceEncoder": "model.sentence",
    "SequenceClassification": "model.heads",
    "Sums": "training.objective",
    "TokenClassification": "model.heads",
    "Tokenizer": "tokenizers.tokenizer",
    "TrainState": "training.state",
    "activations": "inference.activations",
    "answer": "inference.question_answering",
    "attention_implementation": "ops.attention",
    "attention_probabilities": "ops.scores",
    "attention_with_probabilities": "ops.attention",
    "c2c_scores": "ops.scores",
    "c2p_scores": "ops.scores",
    "causal_lm_objective": "pretraining.objectives",
    "choose": "inference.multiple_choice",
    "classification_objective": "finetuning.objectives",
    "classify": "inference.classification",
    "detect_replaced": "inference.replaced_tokens",
    "discriminator_objective": "pretraining.replaced_token_losses",
    "disentangled_attention": "ops.attention",
    "embed": "inference.embeddings",
    "fill_mask": "inference.fill_mask",
    "first_layers": "model.surgery",
    "generate": "inference.generation",
    "from_pretrained": "hub.pretrained",
    "initial_pair": "model.pair",
    "initial_state": "training.state",
    "label": "model.surgery",
    "layer": "model.surgery",
    "log_bucket": "ops.positions",
    "lora_objective": "finetuning.lora",
    "make_attention_mask": "ops.masks",
    "make_mesh": "sharding",
    "make_step": "training.step",
    "mask_tokens": "data.masking",
    "masked_lm_objective": "pretraining.objectives",
    "merge_lora": "finetuning.lora",
    "p2c_scores": "ops.scores",
    "pack": "data.packing",
    "parameters": "model.surgery",
    "perplexity": "inference.perplexity",
    "pipeline": "inference.pipelines",
    "plain_objective": "finetuning.objectives",
    "predict": "inference.pipelines",
    "rank": "inference.ranking",
    "relative_index": "ops.positions",
    "replace_tokens": "pretraining.replaced_token_losses",
    "resized": "model.surgery",
    "save_adapter": "finetuning.adapter",
    "save_pretrained": "hub.pretrained",
    "scale_by_layer": "training.optimizer",
    "score": "inference.scoring",
    "score_entities": "inference.entity_ranking",
    "shardings": "model.shardings",
    "stream": "inference.stream",
    "tag_entities": "inference.entities",
    "with_config": "model.surgery",
    "zero_shot": "inference.classification",
}
__all__ = [
    "PRESETS",
    "Batch",
    "Batching",
    "Deberta",
    "DebertaConfig",
    "EntityScoring",
    "Generated",
    "HeadOutput",
    "InputError",
    "LoraConfig",
    "LoraModel",
    "MaskedLM",
    "Masking",
    "MaskingVocabulary",
    "MultipleChoice",
    "Perplexity",
    "QuestionAnswering",
    "ReplacedTokenDetection",
    "ReplacedTokenPair",
    "SentenceEncoder",
    "SequenceClassification",
    "Sums",
    "TokenClassification",
    "Tokenizer",
    "TrainState",
    "__version__",
    "activations",
    "answer",
    "attention_implementation",
    "attention_probabilities",
    "attention_with_probabilities",
    "c2c_scores",
    "c2p_scores",
    "causal_lm_objective",
    "choose",
    "classification_objective",
    "classify",
    "detect_replaced",
    "discriminator_objective",
    "disentangled_attention",
    "embed",
    "fill_mask",
    "first_layers",
    "from_pretrained",
    "generate",
    "initial_pair",
    "initial_state",
    "label",
    "layer",
    "log_bucket",
    "lora_objective",
    "make_attention_mask",
    "make_mesh",
    "make_step",
    "mask_tokens",
    "masked_lm_objective",
    "merge_lora",
    "p2c_scores",
    "pack",
    "parameters",
    "perplexity",
    "pipeline",
    "plain_objective",
    "predict",
    "rank",
    "relative_index",
    "replace_tokens",
    "resized",
    "save_adapter",
    "save_pretrained",
    "scale_by_layer",
    "score",
    "score_entities",
    "shardings",
    "stream",
    "tag_entities",
    "with_config",
    "zero_shot",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return importlib.metadata.version("deberta-jax")
    if name not in _MODULES:
        raise AttributeError(f"module 'deberta_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"deberta_jax.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
