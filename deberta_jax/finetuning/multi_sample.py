"""Multi-sample dropout: one pass of the encoder, several dropout masks before the classifier (Inoue 2019)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.finetuning.config import Divergence
from deberta_jax.finetuning.kinds.kind import Kind
from deberta_jax.finetuning.objectives import TaskObjective
from deberta_jax.model.encoder import EncoderOutput
from deberta_jax.model.pooler import LayerPooler
from deberta_jax.model.tree import replace_parts
from deberta_jax.training.objective import ArrayBatch, Sums

# The heads with dropout before a linear map of the states.
_HEADS = "sequence_classification", "multiple_choice", "token_classification", "entity_scoring"


class EncodedStates(nnx.Module):
    """An encoder whose result is known: it returns the same states for any tokens."""

    def __init__(self, config: DebertaConfig, precision: str, output: EncoderOutput):
        self.config, self.precision, self.states = config, precision, nnx.Param(output.last_hidden_state)
        self.layers = None if output.hidden_states is None else nnx.Param(output.hidden_states)

    def __call__(self, *inputs: Any, **options: Any) -> EncoderOutput:
        return EncoderOutput(self.states[...], None if self.layers is None else self.layers[...])


def encode_once(model: Any, batch: ArrayBatch, key: PRNGKeyArray) -> Any:
    """The model with an encoder that returns the states of this batch; `key` is that of the encoder's dropout."""
    inputs = {
        name: batch[name].reshape(-1, batch[name].shape[-1])
        for name in ("input_ids", "attention_mask", "token_type_ids")
        if name in batch
    }
    with_layers = isinstance(getattr(model, "pooler", None), LayerPooler)
    output = model.deberta(**inputs, output_hidden_states=with_layers, key=key)
    return replace_parts(model, {"deberta": EncodedStates(model.deberta.config, model.precision, output)})


def multi_sample(kind: Kind, task: TaskObjective, samples: int) -> TaskObjective:
    """The objective of a task with the mean loss over `samples` dropout masks, whose outputs are a list.

    Metrics are those of the mean of the outputs. Without a key, that is in evaluation, there is one output. Raises
    InputError for a kind whose head has no dropout.
    """
    if kind.head not in _HEADS:
        raise InputError(
            f"dropout_samples is {samples}, but models of kind {kind.name} have no dropout before a classifier; "
            "leave it at 1"
        )

    def outputs(model: Any, batch: ArrayBatch, key: PRNGKeyArray | None) -> list[Any]:
        if key is None:
            return [task.outputs(model, batch, None)]
        encoder_key, *keys = jax.random.split(key, samples + 1)
        encoded = encode_once(model, batch, encoder_key)
        return [task.outputs(encoded, batch, k) for k in keys]

    def sums(outputs: list[Any], batch: ArrayBatch) -> Sums:
        if len(outputs) == 1:
            return task.sums(outputs[0], batch)
        losses = jnp.stack([task.sums(each, batch).loss for each in outputs])
        mean = jnp.stack(outputs).mean(0)
        return task.sums(mean, batch)._replace(loss=losses.mean())

    def divergence(name: Divergence, outputs: list[Any], target: list[Any], batch: ArrayBatch) -> Float[Array, ""]:
        pairs = [task.divergence(name, a, b, batch) for a, b in zip(outputs, target, strict=True)]
        return jnp.stack(pairs).mean()

    return TaskObjective(outputs, sums, divergence)
