"""What a pretraining run compiles, from its options alone: the model, the rows, the method and the abstract step."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from deberta_jax.config import DebertaConfig
from deberta_jax.data.batches import batch_shapes
from deberta_jax.data.masking import MaskingVocabulary
from deberta_jax.model.shardings import shardings
from deberta_jax.pretraining.clm import CAUSAL_LM
from deberta_jax.pretraining.config import PretrainConfig
from deberta_jax.pretraining.corpus import find_tokenizer
from deberta_jax.pretraining.curriculum import make_stages, parse_lengths
from deberta_jax.pretraining.initial import initial_config
from deberta_jax.pretraining.mlm import MASKED_LM
from deberta_jax.pretraining.mt import MIXED_LM
from deberta_jax.pretraining.objective_spec import ModelOptions, ObjectiveSpec, Rows
from deberta_jax.pretraining.rtd import REPLACED_TOKEN_DETECTION
from deberta_jax.sharding import batch_parts, batch_sharding
from deberta_jax.training.sizes import Sizes, sizes
from deberta_jax.training.state import TrainState, abstract_state
from deberta_jax.training.step import Step

OBJECTIVES: dict[str, ObjectiveSpec] = {
    "mlm": MASKED_LM,
    "rtd": REPLACED_TOKEN_DETECTION,
    "clm": CAUSAL_LM,
    "mt": MIXED_LM,
}
# Rows of any vocabulary have the same shapes.
ANY_VOCABULARY = MaskingVocabulary(0, 2, (), np.ones(2, bool))
# Sizes and programs do not depend on the number of steps, but the schedule needs enough for its warm-up.
_ENOUGH_STEPS = 10**6


class AbstractStep(NamedTuple):
    """The step of a run, and the shapes and shardings of its arguments."""

    step: Step
    state: TrainState
    batch: dict[str, jax.ShapeDtypeStruct]


def model_to_train(config: PretrainConfig) -> DebertaConfig:
    """The config of the model that a run trains. Reads the tokenizer and the files to initialize from, but no text."""
    shards = " ".join(config.data.shards)
    tokenizer = find_tokenizer(config.tokenizer, config.init_from, config.generator, shards)
    files = OBJECTIVES[config.objective].find_files(config.init_from, config.generator)
    if tokenizer is None:
        # [MASK] follows the pieces of a trained tokenizer.
        return config.model_config(config.vocabulary + 1)
    return initial_config(files, config.model_config(tokenizer.vocab_size), tokenizer, config.model)


def longest_stage(config: PretrainConfig) -> PretrainConfig:
    """A run with the longest sequences of its stages only, whose step needs the most memory."""
    steps = max(config.training.steps, _ENOUGH_STEPS)
    stages = make_stages(parse_lengths(config.data.length), steps, config.training.batch_size)
    return config.at_stage(max(stages, key=lambda stage: stage.length))


def model_options(config: PretrainConfig, model: DebertaConfig) -> ModelOptions:
    """The arguments of the model's constructor."""
    options = jnp.dtype(config.dtype), config.remat, config.precision, config.attention
    return ModelOptions(model, *options, enhanced_mask_decoder=config.absolute_positions == "decoder")


def batch_rows(config: PretrainConfig, vocabulary: MaskingVocabulary, mesh: Mesh) -> Rows:
    """How sequences become rows of batches; raises InputError for a batch that is too small for its kinds of rows."""
    unit = batch_parts(mesh) * config.training.accumulate
    return OBJECTIVES[config.objective].rows(config, unit, vocabulary)


def abstract_batch(config: PretrainConfig, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of a batch."""
    rows = batch_rows(config, ANY_VOCABULARY, mesh).training
    shapes = batch_shapes(rows, config.data.lengths[0], config.training.batch_size)
    return {name: jax.ShapeDtypeStruct(*shape, sharding=batch_sharding(mesh)) for name, shape in shapes.items()}


def abstract_step(config: PretrainConfig, model: DebertaConfig, mesh: Mesh) -> AbstractStep:
    """The step that `pretrain` runs on a mesh, whose devices need not exist. Allocates nothing."""
    training = dataclasses.replace(config.training, steps=max(config.training.steps, _ENOUGH_STEPS))
    method = OBJECTIVES[config.objective].method(model_options(config, model), training, config.rtd)
    state = abstract_state(method.build, method.optimizer, training.seed, mesh)
    return AbstractStep(method.make_step(shardings(state, mesh)), state, abstract_batch(config, mesh))


def measure(config: PretrainConfig, options: ModelOptions, mesh: Mesh) -> Sizes:
    """The sizes of a run, computed from shapes and shardings without allocating."""
    batch: dict[str, Any] = abstract_batch(config, mesh)
    training = dataclasses.replace(config.training, steps=max(config.training.steps, _ENOUGH_STEPS))
    objective = OBJECTIVES[config.objective]
    # A program with kernels does not say over how many tiles they loop: FLOPs are those of the same work in XLA.
    method = objective.method(options._replace(attention="xla"), training, config.rtd)
    abstract = abstract_state(method.build, method.optimizer, training.seed, mesh)
    return sizes(method.evaluate, abstract, batch)
