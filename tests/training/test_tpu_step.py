"""The training step as compiled for a TPU."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from deberta_jax.config import PRESETS
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.shardings import shardings
from deberta_jax.sharding import batch_sharding, make_mesh
from deberta_jax.training.objectives import masked_lm
from deberta_jax.training.optimizer import OptimizerConfig, learning_rate, make_optimizer
from deberta_jax.training.state import abstract_state
from deberta_jax.training.step import make_step

ROWS, LENGTH, SLOTS = 16, 512, 80


@pytest.mark.tpu_compile
@pytest.mark.parametrize("remat", ["none", "full"])
def test_no_scores_and_no_logits_of_all_tokens_are_in_a_tpus_memory(tpu_devices, remat):
    config = dataclasses.replace(PRESETS["v2-xlarge"], num_hidden_layers=3, hidden_size=256, num_attention_heads=4)
    config = dataclasses.replace(config, intermediate_size=1280, vocab_size=12_800)
    mesh = make_mesh(data=1, fsdp=2, tensor=2, devices=tpu_devices("v5e:2x2"))
    settings = OptimizerConfig()
    optimizer = make_optimizer(settings, 100)
    state = abstract_state(lambda key: MaskedLM(config, dtype=jnp.bfloat16, remat=remat, key=key), optimizer, 0, mesh)
    widths = {"input_ids": LENGTH, "segment_ids": LENGTH, "position_ids": LENGTH, "masked_positions": SLOTS}
    widths |= {"labels": SLOTS}
    rows = batch_sharding(mesh)
    batch = {name: jax.ShapeDtypeStruct((ROWS, width), jnp.int32, sharding=rows) for name, width in widths.items()}
    batch["label_weights"] = jax.ShapeDtypeStruct((ROWS, SLOTS), jnp.float32, sharding=rows)
    step = make_step(masked_lm, optimizer, learning_rate(settings, 100), shardings(state, mesh))
    text = step.lower(state, batch).compile().as_text()
    # Three layer passes and two of the decoder, forward and backward, share kernels by scan; some of each remain.
    assert text.count("disentangled_attention_backward") and text.count("tpu_custom_call")
    shapes = {tuple(map(int, found.split(","))) for found in re.findall(r"(?:f32|bf16)\[([0-9,]+)\]", text)}
    assert not [shape for shape in shapes if shape[-2:] == (LENGTH, LENGTH)]
    assert not [shape for shape in shapes if shape[-1] in (12_800, 6_400) and LENGTH in shape]
