"""The losses of replaced-token detection and the tokens between them, compared with plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_batches import LENGTH, SLOTS, VOCABULARY, packed_batch

from deberta_jax.pretraining.replaced_token_losses import detection_sums, replace_tokens
from deberta_jax.training.losses import binary_cross_entropy

ROWS = 16


@pytest.fixture
def batch():
    return {name: jnp.asarray(values) for name, values in packed_batch(1, ROWS).items()}


@pytest.fixture
def sampled(batch):
    """The original token in every second slot, another one in the rest."""
    labels = np.asarray(batch["labels"])
    return jnp.asarray(np.where(np.arange(SLOTS) % 2 == 0, labels, (labels + 1) % VOCABULARY).astype(np.int32))


def test_sampled_tokens_replace_the_masked_ones_and_only_changed_tokens_count_as_replaced(batch, sampled):
    inputs = replace_tokens(batch, sampled)
    for row in range(ROWS):
        expected, replaced = np.array(batch["input_ids"][row]), np.zeros(LENGTH, bool)
        for slot in np.flatnonzero(batch["label_weights"][row]):
            expected[batch["masked_positions"][row, slot]] = sampled[row, slot]
            replaced[batch["masked_positions"][row, slot]] = sampled[row, slot] != batch["labels"][row, slot]
        np.testing.assert_array_equal(inputs["input_ids"][row], expected)
        np.testing.assert_array_equal(inputs["replaced"][row], replaced)


def test_the_discriminators_loss_is_the_mean_over_real_tokens_including_special_ones(batch, sampled):
    inputs = replace_tokens(batch, sampled)
    logits = jax.random.normal(jax.random.key(0), (ROWS, LENGTH))
    sums = detection_sums(logits, inputs)
    real = np.asarray(batch["segment_ids"]) > 0
    losses = np.asarray(binary_cross_entropy(logits, inputs["replaced"].astype(logits.dtype)))[real]
    assert sums.weight == sums.tokens == real.sum()
    assert float(sums.loss / sums.weight) == pytest.approx(losses.mean(), rel=1e-6)
    assert float(sums.metrics["replaced"]) == np.asarray(inputs["replaced"])[real].sum()
