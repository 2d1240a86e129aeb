import jax
import jax.numpy as jnp
from small_models import bare

from deberta_jax.model.tree import replace_parts


def test_parts_are_replaced_in_a_copy():
    model = bare("v3")
    other = jax.tree.map(jnp.zeros_like, model.embeddings.word)
    copy = replace_parts(model, {"embeddings.word": other, "encoder.relative_norm": None})
    assert (copy.embeddings.word.embedding[...] == 0).all()
    assert copy.encoder.relative_norm is None
    assert (model.embeddings.word.embedding[...] != 0).any()
    assert model.encoder.relative_norm is not None
    assert copy.encoder.layers.up.kernel.get_value() is model.encoder.layers.up.kernel.get_value()
