"""Token by token with stored keys and values, equal to the model on the whole sequence."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import BIASED, SMALL, V1, V2, V3, ids_of, masked_lm

from deberta_jax.model.decoding import logits_at, read_prompts, read_token

CONFIGS = {
    "v1": V1,
    "v2 with convolution": V2,
    "v3": V3,
    "wide convolution": dataclasses.replace(V2, conv_kernel_size=5),
    "absolute positions at the input": BIASED,
    "separate position projections": dataclasses.replace(V3, share_att_key=False, pos_att_type=("p2c",)),
    "content only": dataclasses.replace(V3, relative_attention=False),
    "shared layers": dataclasses.replace(V3, num_hidden_groups=1),
}
B, P, NEW = 3, 7, 6
# Prompts end at the same position.
MASK = np.arange(P) >= np.asarray([[0], [3], [6]])


@functools.partial(jax.jit, static_argnames=("capacity", "is_bidirectional"))
def prompts(model, ids, mask, capacity, is_bidirectional):
    return read_prompts(model, ids, mask, capacity=capacity, is_bidirectional=is_bidirectional)


@functools.partial(jax.jit, static_argnames="is_bidirectional")
def whole(model, ids, mask, slot, is_bidirectional):
    return logits_at(model, ids, mask, slot, prompt_length=P, is_bidirectional=is_bidirectional)


# A model with absolute positions at the input has no mask decoder; sources are read by two models.
CASES = [
    (name, decoder, is_bidirectional)
    for name in CONFIGS
    for decoder in (True, False)
    for is_bidirectional in (False, True)
    if not (decoder and CONFIGS[name].position_biased_input)
    and (not is_bidirectional or name in ("v2 with convolution", "v3"))
]


@pytest.mark.parametrize(("name", "decoder", "is_bidirectional"), CASES)
def test_stored_keys_and_values_give_the_logits_of_the_whole_sequence(name, decoder, is_bidirectional):
    model = masked_lm(CONFIGS[name], enhanced_mask_decoder=decoder)
    ids = jnp.where(np.pad(MASK, ((0, 0), (0, NEW)), constant_values=True), ids_of(B, P + NEW), 0)
    mask = jnp.pad(jnp.asarray(MASK), ((0, 0), (0, NEW)), constant_values=True)
    cache, logits = prompts(model, ids[:, :P], jnp.asarray(MASK), P + NEW, is_bidirectional)
    step = jax.jit(read_token)
    for slot in range(P - 1, P + NEW):
        if slot >= P:
            cache, logits = step(model, cache, ids[:, slot], jnp.asarray(slot))
        expected = whole(model, ids, mask, jnp.asarray(slot), is_bidirectional)
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert logits.shape == (B, SMALL["vocab_size"])


def test_padding_before_a_prompt_changes_nothing():
    model = masked_lm("v2")
    ids = ids_of(1, 5)
    alone = prompts(model, ids, jnp.ones((1, 5), bool), 8, False)[1]
    padded = jnp.pad(ids, ((0, 0), (4, 0)))
    mask = jnp.asarray([[False] * 4 + [True] * 5])
    np.testing.assert_allclose(prompts(model, padded, mask, 12, False)[1], alone, rtol=1e-5, atol=1e-5)
