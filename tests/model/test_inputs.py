import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import IDS, MASK, V3, bare, call, masked_lm

from deberta_jax.model.entity_scoring import EntityScoring
from deberta_jax.model.inputs import as_ids, as_pair_mask, as_token_mask, split_key
from deberta_jax.model.multiple_choice import MultipleChoice
from deberta_jax.model.replaced_token_detection import ReplacedTokenDetection
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


ONES, PAIRS = jnp.ones((2, 12), int), jnp.ones((2, 1, 12, 12))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": IDS[0]}, r"input_ids has shape \(12,\), expected \[B, T\]"),
        ({"inputs_embeds": PAIRS[0, 0]}, r"inputs_embeds has shape \(12, 12\), expected \[B, T, 16\]"),
        ({"inputs_embeds": PAIRS[0]}, r"inputs_embeds has shape \(1, 12, 12\), expected \[B, T, 16\]"),
        ({"inputs_embeds": jnp.ones((2, 12, 16), int)}, "inputs_embeds has dtype int32, expected floats.*input_ids"),
        *(
            ({"input_ids": IDS, name: ONES[rows, columns]}, rf"{name} has shape {shape}, expected .*\(2, 12\)")
            for name in ("attention_mask", "token_type_ids", "segment_ids", "position_ids")
            for rows, columns, shape in ((slice(2), slice(1), r"\(2, 1\)"), (slice(1), slice(12), r"\(1, 12\)"))
        ),
        ({"input_ids": IDS, "segment_ids": PAIRS[:, 0].astype(int)}, r"segment_ids has shape \(2, 12, 12\), expected"),
        ({"input_ids": IDS, "bias": PAIRS[:, 0]}, r"bias has shape \(2, 12, 12\), expected floats \[B, N, T, S\]"),
        ({"input_ids": IDS, "bias": PAIRS.astype(bool)}, "bias has dtype bool, expected floats.*pair_mask"),
        ({"input_ids": IDS, "bias": PAIRS[..., :3]}, r"bias has shape \(2, 1, 12, 3\), expected \(2, 2, 12, 12\)"),
        ({"input_ids": IDS, "pair_mask": PAIRS[..., :3] > 0}, r"pair_mask has shape \(2, 1, 12, 3\), expected"),
    ],
)
def test_inputs_of_other_shapes_and_dtypes_are_refused(inputs, message, unchecked_shapes):
    with pytest.raises(ValueError, match=message):
        bare("biased" if "token_type_ids" in inputs else "v3")(**inputs)


def test_an_encoder_checks_its_inputs_as_the_model_does(unchecked_shapes):
    encoder, x = bare("v3").encoder, jnp.ones((2, 12, 16))
    with pytest.raises(ValueError, match=r"attention_mask has shape \(2, 1, 12\), expected \[B, T\].*pair_mask"):
        encoder(x, MASK[:, None])
    with pytest.raises(ValueError, match=r"attention_mask has shape \(2, 1\), expected that of the tokens, \(2, 12\)"):
        encoder(x, MASK[:, :1])
    with pytest.raises(ValueError, match=r"pair_mask has shape \(2, 12\)"):
        encoder(x, pair_mask=MASK)
    with pytest.raises(ValueError, match="bias has dtype int32"):
        encoder(x, bias=PAIRS.astype(int))
    with pytest.raises(ValueError, match=r"call encoder\(x, attention_mask, start=k, depth=k \+ 1\)"):
        encoder.layer(1)(x)


@pytest.mark.parametrize(("value", "shape"), [(-1, (2, 1)), (12, (2, 1)), (0, (1, 2))])
def test_positions_of_other_tokens_are_refused(value, shape, unchecked_shapes):
    positions = np.full(shape, value)
    expected = r"shape \(1, 2\), expected \[2, M\]" if value == 0 else f"contains {value}, expected 0 to 11"
    for decoder in (True, False):
        with pytest.raises(ValueError, match=f"masked_positions .*{expected}"):
            masked_lm("v3", enhanced_mask_decoder=decoder)(IDS, masked_positions=positions)
    if value:
        with pytest.raises(ValueError, match="position_ids contains -1, expected 0 to 511"):
            masked_lm("v3")(IDS, position_ids=-ONES)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="position_ids: .* count from 0 in each"):
        ReplacedTokenDetection(V3, key=key).head(jnp.ones((2, 12, 16)), ONES)
    if value:
        with pytest.raises(ValueError, match=f"entity_positions contains {value}, expected 0 to 11"):
            EntityScoring(V3, key=key)(IDS, depth=0, entity_positions=positions[:, None])


def test_choices_have_an_axis_in_every_input(unchecked_shapes):
    model, ids = MultipleChoice(V3, key=jax.random.key(0)), jnp.stack([IDS] * 3, axis=1)
    for inputs, message in (
        ({"input_ids": IDS}, r"input_ids has shape \(2, 12\), expected 3 axes that start with \[B, M\]"),
        ({"input_ids": ids, "attention_mask": MASK}, r"attention_mask has shape \(2, 12\), expected 3 axes"),
        ({"input_ids": ids, "bias": PAIRS}, r"bias has shape \(2, 1, 12, 12\), expected 5 axes"),
        ({}, "expected either input_ids or inputs_embeds"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**inputs)


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
