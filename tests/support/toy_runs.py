"""A small model, and calls of the commands."""

import dataclasses
import json
from unittest import mock

import jax
from small_models import V3

from deberta_jax.cli.main import main

# A training step without disentangled attention and without dropout in the encoder compiles faster.
CONFIG = dataclasses.replace(
    V3,
    vocab_size=368,
    num_hidden_layers=1,
    max_position_embeddings=64,
    relative_attention=False,
    position_biased_input=True,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    cls_dropout=0.1,
)
PROGRAM = "import sys; from deberta_jax.cli.main import main; sys.exit(main())"


def two_devices():
    """Meshes made in this process have two devices: a run on two takes half as long as on all eight."""
    return mock.patch("jax.devices", return_value=jax.devices()[:2])


def call(*words):
    """Run a command in this process; returns its exit code."""
    with jax.numpy_dtype_promotion("standard"):
        return main([str(word) for word in words])


def read_lines(run, split):
    """The lines of `metrics.jsonl` for a split, without what depends on the speed of the machine."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = {"seconds", "tokens_per_second"}
    return [{k: v for k, v in line.items() if k not in timed} for line in lines if line["split"] == split]


def weights(run):
    return (run / "model/model.safetensors").read_bytes()


def read_json(path):
    return json.loads(path.read_text())
