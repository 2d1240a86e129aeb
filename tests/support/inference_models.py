"""Models with each head and random parameters, so small that all rows are in one bucket, and examples for them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from toy_tokenizers import TEXT

from deberta_jax.config import DebertaConfig
from deberta_jax.hub.heads import HEADS

# Tests use this row length, and the default batching: then all calls with one model share a compiled program.
MAX_LENGTH = 16
CONFIG = {
    # Larger than the vocabulary of the tokenizer, as in v3.
    "vocab_size": 370,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": MAX_LENGTH,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
}
NLI_LABELS = ("contradiction", "neutral", "entailment")
LABELS = {
    "sequence_classification": NLI_LABELS,
    "token_classification": ("O", "B-PER", "I-PER", "S-LOC"),
}


@functools.cache
def random_model(head, **fields):
    """A model with a head, None for the bare encoder; `fields` of its config are hashable."""
    labels = {"labels": LABELS[head]} if head in LABELS else {}
    config = DebertaConfig(**CONFIG | labels | fields)
    draw = np.random.default_rng(0)

    def value(path, leaf):
        mean = 1.0 if getattr(path[-2], "name", None) == "scale" else 0.0
        return jnp.asarray(draw.normal(mean, 0.4, leaf.shape), leaf.dtype)

    abstract = jax.eval_shape(lambda key: HEADS[head].model(config, key=key), jax.random.key(0))
    return jax.tree.map_with_path(value, abstract)


def random_texts():
    """Texts of many lengths, many of them longer than a row; also empty texts and white space."""
    draw, words = np.random.default_rng(0), TEXT.split()
    lengths = [*draw.integers(1, 8, 10).tolist(), 30, 0, 2]
    return [" ".join(draw.choice(words, size)) for size in lengths] + ["  ", "日本 😀"]


def examples_for(head, texts):
    """Examples of the pipeline of a head."""
    return {
        "masked_lm": [(f"{text[:2]} [MASK] and [MASK]",) for text in texts],
        "question_answering": [("It?", text) for text in texts],
        "multiple_choice": [(text, ["A man eats.", text[:30], "fox"][: 1 + len(text) % 3]) for text in texts],
        "entity_scoring": [(text, "A @placeholder", [(0, 1)] if text.strip() else []) for text in texts],
    }.get(head, [(text,) for text in texts])
