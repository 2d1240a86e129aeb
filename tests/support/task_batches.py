"""A model and a batch of random tokens for each kind of task."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from toy_training import CONFIG, B, C, T, random_tokens

from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.hub.heads import HEADS

RNG = np.random.default_rng(0)
TOKENS = {
    "input_ids": random_tokens(RNG, B, T),
    "attention_mask": (np.arange(T) < RNG.integers(6, T + 1, (B, 1))).astype(np.int32),
    "token_type_ids": np.zeros((B, T), np.int32),
    # The last row is padding.
    "weights": np.asarray([1, 1, 1, 1, 1, 1, 1, 0], np.float32),
}
CHOICES = {name: np.stack([TOKENS[name]] * 3, 1) for name in ("attention_mask", "token_type_ids")}
BATCHES = {
    "single_label": {"labels": RNG.integers(0, C, B).astype(np.int32)},
    "regression": {"labels": RNG.normal(size=B).astype(np.float32)},
    "multi_label": {"labels": RNG.integers(0, 2, (B, C)).astype(np.float32)},
    "ordinal": {"labels": np.arange(B, dtype=np.int32) % C},
    "token": {
        "labels": RNG.integers(0, C, (B, T)).astype(np.int32),
        "weights": TOKENS["attention_mask"].astype(np.float32),
    },
    "extractive_qa": {"labels": RNG.integers(0, 6, (B, 2)).astype(np.int32)},
    "multiple_choice": CHOICES
    | {"input_ids": random_tokens(RNG, B, 3, T), "labels": RNG.integers(0, 3, B).astype(np.int32)},
    "entity_ranking": {
        "entity_positions": RNG.integers(1, 6, (B, 4, 2)).astype(np.int32),
        "labels": RNG.integers(0, 2, (B, 4)).astype(np.float32),
        "weights": np.ones((B, 4), np.float32),
    },
    "seq2seq": {
        "positions": np.tile(np.arange(2, 6, dtype=np.int32), (B, 1)),
        "labels": random_tokens(RNG, B, 4),
        "weights": (np.arange(4) < RNG.integers(1, 5, (B, 1))).astype(np.float32),
        "source_lengths": np.full(B, 3, np.int32),
    },
}


def build_for(kind, config=CONFIG, **options):
    """The constructor of a model with the head of a kind of task."""
    labels = ("score",) if kind == "regression" else config.labels
    # Dropout of the head only, which each pass has: without that of the encoder a step compiles faster.
    config = dataclasses.replace(config, labels=labels, cls_dropout=0.1)
    return lambda key: HEADS[KINDS[kind].head].model(config, key=key, **options)


def batch_for(kind):
    """A batch of a kind of task."""
    return jax.tree.map(jnp.asarray, TOKENS | BATCHES[kind])
