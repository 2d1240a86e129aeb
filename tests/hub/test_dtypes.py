"""Models that compute in half precision: float32 logits, close to those of float32."""

import jax
import numpy as np
import pytest
from toy_folders import V3, toy_model

from deberta_jax.hub.heads import HEADS
from deberta_jax.hub.pretrained import load_pretrained, save_pretrained

IDS = np.random.default_rng(0).integers(1, 67, (2, 12))
INPUTS = {
    "multiple_choice": {"input_ids": np.stack([IDS, IDS[::-1]], 1)},
    "entity_scoring": {"input_ids": IDS, "entity_positions": np.asarray([[[1, 2], [3, 0]]] * 2)},
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("head", [head for head in HEADS if head])
def test_logits_of_half_precision_are_float32(head, dtype, tmp_path):
    options = {"projected": True} if head == "token_classification" else {}
    model = toy_model(V3, head, **options)
    save_pretrained(tmp_path, model)
    inputs = INPUTS.get(head, {"input_ids": IDS})
    expected = model(**inputs)
    for name, parameters in (("compute", "float32"), ("both", dtype)):
        loaded, _ = load_pretrained(tmp_path, head, dtype=dtype, param_dtype=parameters, require_tokenizer=False)
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(loaded)} == {parameters}, name
        logits = loaded(**inputs)
        for leaf, reference in zip(jax.tree.leaves(logits), jax.tree.leaves(expected), strict=True):
            assert leaf.dtype == np.float32
            scale = max(1, float(np.abs(reference).max()))
            np.testing.assert_allclose(leaf, reference, atol=(0.15 if dtype == "bfloat16" else 0.02) * scale)
