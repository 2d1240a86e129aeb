"""The training steps as compiled for a TPU."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.data.batches import batch_shapes
from deberta_jax.data.masking import MaskingVocabulary
from deberta_jax.model.shardings import shardings
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.config import PretrainConfig, RtdConfig
from deberta_jax.pretraining.objective_spec import ModelOptions
from deberta_jax.pretraining.run import OBJECTIVES
from deberta_jax.sharding import batch_sharding, make_mesh
from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.state import abstract_state

ROWS, LENGTH = 16, 512
CONFIG = dataclasses.replace(
    PRESETS["v2-xlarge"],
    num_hidden_layers=3,
    hidden_size=256,
    num_attention_heads=4,
    intermediate_size=1280,
    vocab_size=12_800,
)


@pytest.mark.tpu_compile
@pytest.mark.parametrize(
    ("objective", "rtd", "remat"),
    [
        ("mlm", RtdConfig(), "none"),
        ("mlm", RtdConfig(), "full"),
        ("rtd", RtdConfig(step="decoupled"), "none"),
        ("rtd", RtdConfig(step="joint"), "full"),
        ("mt", RtdConfig(), "full"),
    ],
)
def test_a_tpu_holds_neither_attention_scores_nor_logits_of_all_tokens(tpu_devices, objective, rtd, remat):
    mesh = make_mesh(data=1, fsdp=2, tensor=2, devices=tpu_devices("v5e:2x2"))
    options = ModelOptions(CONFIG, jnp.dtype("bfloat16"), remat)
    method = OBJECTIVES[objective].method(options, TrainingConfig(steps=100), rtd)
    state = abstract_state(method.build, method.optimizer, 0, mesh)
    config = PretrainConfig("v2-xlarge", objective=objective, training=TrainingConfig(batch_size=ROWS), rtd=rtd)
    vocabulary = MaskingVocabulary(0, 2, (), np.ones(2, bool))
    shapes = batch_shapes(OBJECTIVES[objective].rows(config, 2, vocabulary).training, LENGTH, ROWS)
    batch = {name: jax.ShapeDtypeStruct(*x, sharding=batch_sharding(mesh)) for name, x in shapes.items()}
    text = method.make_step(shardings(state, mesh)).lower(state, batch).compile().as_text()
    # Three layer passes and two of the decoder, forward and backward, share kernels by scan; some of each remain.
    assert text.count("disentangled_attention_backward") and text.count("tpu_custom_call")
    arrays = {tuple(map(int, dims.split(","))) for dims in re.findall(r"(?:f32|bf16)\[([0-9,]+)\]", text)}
    assert not [shape for shape in arrays if shape[-2:] == (LENGTH, LENGTH)]
    assert not [shape for shape in arrays if shape[-1] in (12_800, 6_400) and LENGTH in shape]
