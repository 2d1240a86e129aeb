"""Several masks of a text, filled one after the other."""

import jax
import numpy as np
import pytest
from inference_models import CONFIG, MAX_LENGTH, random_model

from deberta_jax.errors import InputError
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.encode import EncodedRow
from deberta_jax.inference.fill_mask import fill_in_order, fill_mask, fill_mask_pipeline, replace_masks
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.stream import complete

TEXTS = [
    "The [MASK][MASK] fox [MASK].",
    "[MASK]",
    "A man [MASK] [MASK] [MASK] [MASK] dog",
    "A [MASK] eats",
    "[MASK] [MASK] over the lazy",
]
ORDERS = "left_to_right", "most_confident"


@jax.jit
def forward(model, ids, mask):
    return model(ids, mask)


def by_hand(model, tokenizer, text, fill_order):
    """The ids of all masks, in order of position, and their probabilities: one forward pass for each."""
    batch = tokenizer(text)
    T = batch.input_ids.shape[1]
    ids = np.pad(batch.input_ids, ((0, 0), (0, MAX_LENGTH - T)))
    mask = np.pad(batch.attention_mask, ((0, 0), (0, MAX_LENGTH - T)))
    chosen = {}
    while len(remaining := np.flatnonzero(ids[0] == tokenizer.mask_id)):
        p = np.asarray(jax.nn.softmax(forward(model, ids, mask)[0, :, : tokenizer.vocab_size], axis=-1)).copy()
        p[:, list(tokenizer.special_ids)] = 0
        at = remaining[0] if fill_order == "left_to_right" else remaining[p[remaining].max(-1).argmax()]
        ids[0, at] = p[at].argmax()
        chosen[at] = p[at].argmax(), p[at].max()
    return [chosen[at] for at in sorted(chosen)]


@pytest.mark.parametrize("fill_order", ORDERS)
def test_masks_are_filled_as_a_loop_by_hand_does(tokenizer, fill_order):
    model = random_model("masked_lm")
    results = fill_mask(model, tokenizer, TEXTS, fill_order=fill_order, top_k=3)
    independent = fill_mask(model, tokenizer, TEXTS, top_k=3)
    for text, result in zip(TEXTS, results, strict=True):
        expected = by_hand(model, tokenizer, text, fill_order)
        assert [tokens[0].id for tokens in result.masks] == [index for index, _ in expected]
        np.testing.assert_allclose([tokens[0].probability for tokens in result.masks], [p for _, p in expected], 1e-4)
        assert all(len(tokens) == 3 for tokens in result.masks)
        assert result.pair is None and "[MASK]" not in result.text
    # A single mask has no order, and more masks depend on each other.
    assert [results[n].masks[0][0].id for n in (1, 3)] == [independent[n][0][0].id for n in (1, 3)]
    assert [result.masks for result in results] != independent


def test_the_orders_differ(tokenizer):
    left, confident = (fill_mask(random_model("masked_lm"), tokenizer, TEXTS, fill_order=order) for order in ORDERS)
    assert [result.text for result in left] != [result.text for result in confident]


@pytest.mark.parametrize("fill_order", ORDERS)
def test_batches_of_any_size_give_the_same_texts_from_one_program_per_shape(tokenizer, fill_order):
    model = random_model("masked_lm")
    expected = fill_mask(model, tokenizer, TEXTS, fill_order=fill_order)
    programs = fill_in_order._cache_size()
    for texts in (TEXTS[::-1], TEXTS[2:] + TEXTS[:2]):
        again = dict(zip(texts, fill_mask(model, tokenizer, texts, fill_order=fill_order), strict=True))
        assert [again[text].text for text in TEXTS] == [result.text for result in expected]
    # Texts with 1 to 4 masks: the number of steps does not matter.
    assert fill_in_order._cache_size() == programs
    small = fill_mask(model, tokenizer, TEXTS, fill_order=fill_order, batching=Batching(batch_tokens=16))
    assert [result.text for result in small] == [result.text for result in expected]


def rendered(tokenizer, text, tokens, pair=None):
    """The text and its pair with tokens of these names in place of the masks."""
    batch = tokenizer(text) if pair is None else tokenizer([text], [pair])
    row = EncodedRow(batch.input_ids[0], batch.offsets[0], batch.sequence_ids[0], None)
    names = {tokenizer.token(index): index for index in range(tokenizer.vocab_size)}
    ids = row.input_ids.copy()
    ids[ids == tokenizer.mask_id] = [names[token] for token in tokens]
    texts = [text] if pair is None else [text, pair]
    return [replace_masks(tokenizer, each, row, ids, side) for side, each in enumerate(texts)]


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        ("A [MASK] eats", ["▁the"], "A the eats"),
        ("A  fox [MASK].  The end", ["s"], "A  foxs.  The end"),
        ("[MASK] fox", ["▁the"], "the fox"),
        ("fox [MASK] [MASK] dog", ["▁the", "▁of"], "fox the of dog"),
        ("fox[MASK][MASK] dog", ["s", "▁the"], "foxs the dog"),
        ("fox [MASK][MASK][MASK] dog", ["<0xE2>", "<0x82>", "<0xAC>"], "fox€ dog"),
        ("ÀÉ [MASK] ﬁ", ["▁the"], "ÀÉ the ﬁ"),
        ("no mask", [], "no mask"),
    ],
)
def test_the_text_is_unchanged_apart_from_its_masks(tokenizer, text, tokens, expected):
    assert rendered(tokenizer, text, tokens) == [expected]


def test_masks_of_pairs_and_of_other_tokenizers_are_replaced(tokenizer, byte_pair_tokenizer):
    assert rendered(tokenizer, "A [MASK]", ["▁the", "s"], "fox [MASK] dog") == ["A the", "foxs dog"]
    for text, tokens, expected in (
        ("A [MASK] fox", ["Ġthe"], "A the fox"),
        ("A fox[MASK] eats", ["s"], "A foxs eats"),
        ("A fox [MASK] eats", ["s"], "A foxs eats"),
        ("[MASK] fox", ["Ġthe"], "the fox"),
    ):
        assert rendered(byte_pair_tokenizer, text, tokens) == [expected]


def test_pairs_are_filled(tokenizer):
    pipeline = fill_mask_pipeline(random_model("masked_lm"), tokenizer, fill_order="left_to_right")
    [first, second] = complete(pipeline, ["A [MASK]", "A [MASK]"], ["fox [MASK] dog", None])
    assert len(first.masks) == 2 and first.pair.endswith(" dog") and second.pair is None


def test_an_unknown_order_is_refused(tokenizer, unchecked_shapes):
    with pytest.raises(InputError, match="unknown fill_order 'random': use one of independent, left_to_right, most"):
        fill_mask(random_model("masked_lm"), tokenizer, TEXTS, fill_order="random")


def test_logits_of_all_masks_are_never_in_memory_together(tokenizer):
    ids, known = np.zeros((4, MAX_LENGTH), np.int32), np.ones(CONFIG["vocab_size"], bool)
    inputs = ModelInputs(ids, ids, ids, np.zeros((4, 4), np.int32))
    options = {"known": known, "allowed": known, "top_k": 3}
    for fill_order in ORDERS:
        program = jax.make_jaxpr(
            lambda model, order=fill_order: fill_in_order(model, inputs, **options, fill_order=order)
        )
        jaxpr = str(program(random_model("masked_lm")))
        assert "f32[4,370]" in jaxpr
        assert "f32[4,4,370]" not in jaxpr
