"""A small masked language model with the interface of the real one, and batches and meshes for it."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deberta_jax.sharding import constrain, make_mesh

VOCABULARY, WIDTH, HIDDEN, LAYERS = 48, 16, 32, 3


class StubLM(nnx.Module):
    """Embedding, a scan over stacked feed-forward layers with a mean over the sequence, tied head."""

    def __init__(self, *, key, dropout=0.0):
        keys = jax.random.split(key, 3)
        normal = jax.random.normal
        self.embedding = nnx.Param(normal(keys[0], (VOCABULARY, WIDTH)) * 0.3, axes=("vocab", "embed"))
        self.up = nnx.Param(normal(keys[1], (LAYERS, WIDTH, HIDDEN)) * 0.2, axes=("embed", "mlp"))
        self.down = nnx.Param(normal(keys[2], (LAYERS, HIDDEN, WIDTH)) * 0.2, axes=("mlp", "embed"))
        self.scale = nnx.Param(jnp.ones((LAYERS, WIDTH)), axes=(None,))
        self.bias = nnx.Param(jnp.zeros(VOCABULARY), axes=("vocab",))
        self.dropout = dropout

    def __call__(self, input_ids, attention_mask=None, *, masked_positions, segment_ids, position_ids, key=None):
        embedding = constrain(self.embedding.get_value(), "vocab", None)
        x = constrain(jnp.take(embedding, input_ids, axis=0), "batch", None, None)
        if key is not None and self.dropout:
            x = x * jax.random.bernoulli(key, 1 - self.dropout, x.shape)

        def layer(x, parameters):
            up, down, scale = parameters
            mixed = (x + jnp.mean(x, axis=1, keepdims=True)) * scale
            hidden = jax.nn.relu(constrain(jnp.einsum("btd,df->btf", mixed, up), "batch", None, "mlp"))
            return constrain(x + jnp.einsum("btf,fd->btd", hidden, down), "batch", None, None), None

        layers = (self.up.get_value(), self.down.get_value(), self.scale.get_value())
        x, _ = jax.lax.scan(layer, x, layers)
        x = jnp.take_along_axis(x, masked_positions[..., None], axis=1)
        return jnp.einsum("bmd,vd->bmv", x, embedding) + self.bias.get_value()


def build(key):
    return StubLM(key=key)


def mesh_of(*shape):
    """A mesh of this shape over the first devices."""
    return make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])


def make_batch(number, rows=24, length=10, masked=3):
    """Batch `number`: each row repeats one token, so that its neighbours determine a masked token."""
    rng = np.random.default_rng(number)
    ids = np.broadcast_to(rng.integers(1, VOCABULARY, (rows, 1)), (rows, length)).astype(np.int32)
    positions = np.sort(rng.permuted(np.tile(np.arange(length), (rows, 1)), axis=1)[:, :masked], axis=1).astype(
        np.int32
    )
    masked_ids = ids.copy()
    np.put_along_axis(masked_ids, positions, 0, axis=1)
    return {
        "input_ids": masked_ids,
        "segment_ids": np.ones_like(ids),
        "position_ids": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "masked_positions": positions,
        "labels": np.take_along_axis(ids, positions, axis=1),
        # The rows have different weights, so that a mean of means would differ from the mean.
        "label_weights": (rng.random((rows, masked)) < np.linspace(0.2, 1, rows)[:, None]).astype(np.float32),
    }
