import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.errors import InputError
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.fill_mask import fill, fill_mask

TEXT = "The [MASK] fox [MASK]."


def with_bias(model, raised):
    """The model with a head that wants some tokens above all."""

    def value(path, leaf):
        its = [getattr(key, "name", getattr(key, "key", None)) for key in path]
        return leaf.at[jnp.asarray(raised)].add(1000) if "head" in its and leaf.shape == (370,) else leaf

    return jax.tree.map_with_path(value, model)


def test_masks_are_filled_as_the_model_says_at_each(made, tokenizer):
    model = made("masked_lm")
    [found] = fill_mask(model, tokenizer, [TEXT], top=3)
    batch = tokenizer(TEXT)
    positions = np.flatnonzero(batch.input_ids[0] == tokenizer.mask_id)[None]
    logits = jax.jit(lambda model, *x: model(*x, masked_positions=positions))(model, batch.input_ids)
    wanted = np.array(jax.nn.softmax(logits[0, :, : tokenizer.vocab_size]))
    assert len(found) == 2
    for its, row in zip(found, wanted, strict=True):
        row[list(tokenizer.special_ids)] = 0
        assert [one.id for one in its] == np.argsort(-row)[:3].tolist()
        np.testing.assert_allclose([one.probability for one in its], np.sort(row)[::-1][:3], rtol=1e-4)


def test_tokens_are_written_as_a_reader_sees_them(made, tokenizer):
    wanted = {"▁the": "the", "s": "s", "▁": "▁", "<0xE2>": "<0xE2>"}
    ids = {index: tokenizer.token(index) for index in range(tokenizer.vocab_size)}
    raised = [index for index, token in ids.items() if token in wanted]
    assert len(raised) == 4
    [[found]] = fill_mask(with_bias(made("masked_lm"), raised), tokenizer, ["A [MASK]"], top=4)
    assert {ids[one.id]: one.token for one in found} == wanted


def test_special_tokens_and_rows_beyond_the_vocabulary_are_not_offered(made, tokenizer):
    raised = [*tokenizer.special_ids, *range(tokenizer.vocab_size, 370)]
    [[found]] = fill_mask(with_bias(made("masked_lm"), raised), tokenizer, ["A [MASK]"], top=4)
    assert not {one.id for one in found} & set(raised)


def test_the_enhanced_mask_decoder_is_used_where_the_model_has_it(made, tokenizer):
    model = made("masked_lm")
    [[one]] = fill_mask(model, tokenizer, ["A [MASK]"], top=4)
    moved = jax.tree.map_with_path(lambda path, x: x * 2 if "decoder" in str(path) else x, model)
    [[other]] = fill_mask(moved, tokenizer, ["A [MASK]"], top=4)
    assert one[0].probability != other[0].probability


def test_a_text_without_a_mask_or_with_one_cut_off_is_refused_by_its_number(made, tokenizer):
    model = made("masked_lm")
    with pytest.raises(InputError, match=r"text 1: has no \[MASK\]; write it"):
        fill_mask(model, tokenizer, ["A [MASK]", "A fox"])
    with pytest.raises(InputError, match=r"text 0: 1 of its \[MASK\] stand beyond the 32 tokens that are read"):
        fill_mask(model, tokenizer, ["[MASK] " + "fox " * 40 + "[MASK]", "A [MASK]"])
    with pytest.raises(InputError, match="top is 0"):
        fill_mask(model, tokenizer, ["A [MASK]"], top=0)


def test_logits_of_all_masks_are_never_held_together(made, tokenizer):
    rows, masks = np.zeros((4, 16), np.int32), np.zeros((4, 4), np.int32)
    known = np.ones(370, bool)
    program = jax.make_jaxpr(lambda model: fill(model, rows, rows, rows, masks, known=known, offered=known, top=3))
    assert "f32[4,370]" in str(program(made("masked_lm")))
    assert "f32[4,4,370]" not in str(program(made("masked_lm"))).replace("f32[4,1,370]", "")


def test_numbers_of_masks_are_bucketed_too(made, tokenizer):
    model = made("masked_lm")
    before = fill._cache_size()
    texts = ["[MASK]" * number for number in range(1, 14)]
    fill_mask(model, tokenizer, texts, top=6, batching=Batching(batch_tokens=16))
    assert fill._cache_size() - before == 3
