import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import IDS, MASK, bare, call

from deberta_jax.model.inputs import as_ids, as_pair_mask, as_token_mask, split_key
from deberta_jax.tokenizers.batch import Batch


def test_a_mask_of_tokens_has_two_axes():
    with pytest.raises(ValueError, match=r"attention_mask has shape \(2, 1, 12, 12\), expected \[B, T\].*pair_mask"):
        bare("v3")(IDS, jnp.ones((2, 1, 12, 12), bool))
    assert as_token_mask(np.asarray([[1, 0]])).tolist() == [[True, False]]
    assert as_token_mask(None, jnp.asarray([[1, 2, 0]])).tolist() == [[True, True, False]]
    assert as_token_mask(None) is None


def test_ids_are_integers():
    with pytest.raises(ValueError, match="input_ids has dtype float64, expected integers"):
        as_ids("input_ids", np.asarray([[1.0, 2.0]]), 3)
    assert as_ids("input_ids", np.asarray([[1, 2]]), 3).tolist() == [[1, 2]]
    assert as_ids("input_ids", np.zeros((0, 2), int), 3).shape == (0, 2)


def test_a_mask_of_pairs_has_four_axes():
    with pytest.raises(
        ValueError, match=r"pair_mask has shape \(2, 12\), expected \[B, 1 or N, T, S\].*attention_mask"
    ):
        bare("v3")(IDS, pair_mask=MASK)
    assert as_pair_mask(np.ones((1, 1, 2, 2), np.int64)).dtype == jnp.bool_
    assert as_pair_mask(None) is None


def test_a_square_batch_uses_the_mask_as_a_mask_of_tokens():
    # With B = T a mask of pairs would broadcast silently.
    ids, mask = IDS[:, :2], jnp.asarray([[1, 0], [1, 1]])
    alone = call(bare("v3"), ids[:1, :1]).last_hidden_state
    np.testing.assert_allclose(call(bare("v3"), ids, mask).last_hidden_state[:1, :1], alone, atol=1e-5)


def test_a_model_takes_the_batch_of_a_tokenizer():
    ids, mask = np.asarray(IDS, np.int32), np.asarray(MASK, np.int32)
    offsets, nothing = np.zeros((2, 12, 2), np.int32), np.zeros((2, 12), np.int32)
    batch = Batch(ids, mask, nothing, offsets, nothing, nothing.astype(bool), np.zeros(2, np.int32))
    states = bare("v3")(**batch).last_hidden_state
    np.testing.assert_allclose(states, call(bare("v3"), IDS, MASK).last_hidden_state, atol=1e-5)


UNKNOWN_ARGUMENT = """
import jax
import deberta_jax as dj
config = dj.DebertaConfig(vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
dj.Deberta(config, key=jax.random.key(0))([[1, 2]], input_mask=[[1, 1]])
"""


def test_an_unknown_argument_is_an_error_without_the_whole_model():
    run = subprocess.run([sys.executable, "-c", UNKNOWN_ARGUMENT], capture_output=True, text=True)
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("TypeError") and "input_mask" in last
    assert len(run.stderr) < 3000


def test_without_a_key_no_key_is_split():
    assert split_key(None, 3) == (None, None, None)
    assert len(split_key(jax.random.key(0), 3)) == 3
