"""The training step as compiled for a TPU."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.pair import initial_pair
from deberta_jax.model.shardings import shardings
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.config import generator_config
from deberta_jax.pretraining.objectives import masked_lm
from deberta_jax.pretraining.replaced_tokens import RtdConfig, replaced_token_detection
from deberta_jax.sharding import batch_sharding, make_mesh
from deberta_jax.training.method import one_objective
from deberta_jax.training.run import TrainingConfig
from deberta_jax.training.state import abstract_state

ROWS, LENGTH, SLOTS = 16, 512, 80


def methods(config, remat):
    """Ways to train on shapes alone: masked language modelling, and both steps of replaced-token detection."""
    training = TrainingConfig(steps=100)
    options = {"dtype": jnp.bfloat16, "remat": remat}

    def pair(key):
        return initial_pair(generator_config(config), config, **options, key=key)

    return {
        "mlm": one_objective(training, lambda key: MaskedLM(config, **options, key=key), masked_lm),
        **{step: replaced_token_detection(training, RtdConfig(step=step), pair) for step in ("decoupled", "joint")},
    }


@pytest.mark.tpu_compile
@pytest.mark.parametrize(("way", "remat"), [("mlm", "none"), ("mlm", "full"), ("decoupled", "none"), ("joint", "full")])
def test_no_scores_and_no_logits_of_all_tokens_are_in_a_tpus_memory(tpu_devices, way, remat):
    config = dataclasses.replace(PRESETS["v2-xlarge"], num_hidden_layers=3, hidden_size=256, num_attention_heads=4)
    config = dataclasses.replace(config, intermediate_size=1280, vocab_size=12_800)
    mesh = make_mesh(data=1, fsdp=2, tensor=2, devices=tpu_devices("v5e:2x2"))
    method = methods(config, remat)[way]
    state = abstract_state(method.build, method.optimizer, 0, mesh)
    widths = {"input_ids": LENGTH, "segment_ids": LENGTH, "position_ids": LENGTH, "masked_positions": SLOTS}
    widths |= {"labels": SLOTS}
    rows = batch_sharding(mesh)
    batch = {name: jax.ShapeDtypeStruct((ROWS, width), jnp.int32, sharding=rows) for name, width in widths.items()}
    batch["label_weights"] = jax.ShapeDtypeStruct((ROWS, SLOTS), jnp.float32, sharding=rows)
    text = method.make_step(shardings(state, mesh)).lower(state, batch).compile().as_text()
    # Three layer passes and two of the decoder, forward and backward, share kernels by scan; some of each remain.
    assert text.count("disentangled_attention_backward") and text.count("tpu_custom_call")
    shapes = {tuple(map(int, found.split(","))) for found in re.findall(r"(?:f32|bf16)\[([0-9,]+)\]", text)}
    assert not [shape for shape in shapes if shape[-2:] == (LENGTH, LENGTH)]
    assert not [shape for shape in shapes if shape[-1] in (12_800, 6_400) and LENGTH in shape]
