"""Batches: special tokens, truncation, windows, padding, and access to the fields."""

import itertools
import pickle

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies
from toy_tokenizers import TEXT

from deberta_jax.errors import InputError
from deberta_jax.tokenizers.batch import BatchOptions, EncodedText, check_truncation, make_batch
from deberta_jax.tokenizers.template import standard_template

LINES = TEXT.splitlines()
LONG, SHORT = LINES[0], "Every day."


def real(batch, row=0, side=None):
    """Ids of a sequence without padding, or ids of one of its texts."""
    selected = batch.attention_mask[row] == 1 if side is None else batch.sequence_ids[row] == side
    return batch.input_ids[row, selected].tolist()


def test_a_sequence_is_cls_text_sep_padding(tokenizer):
    batch = tokenizer([LONG, SHORT])
    long, short = (tokenizer.encode(text).tolist() for text in (LONG, SHORT))
    assert batch.input_ids.shape == (2, len(long) + 2)
    assert real(batch, 0) == [tokenizer.cls_id, *long, tokenizer.sep_id]
    assert real(batch, 1) == [tokenizer.cls_id, *short, tokenizer.sep_id]
    assert (batch.input_ids[1, len(short) + 2 :] == tokenizer.pad_id).all()
    special = batch.sequence_ids == -1
    assert special.sum(1).tolist() == [2, len(long) - len(short) + 2]
    assert not batch.offsets[special].any()
    assert not batch.word_starts[special].any()
    assert batch.word_starts[:, 1].all()
    assert (batch.offsets[0, 1:-1] == tokenizer.encode_with_offsets(LONG)[1]).all()
    assert not batch.token_type_ids.any()
    assert {array.dtype for array in batch} == {np.dtype(np.int32), np.dtype(bool)}


def test_a_pair_is_cls_a_sep_b_sep_with_types(tokenizer):
    batch = tokenizer(SHORT, LONG)
    first, second = (tokenizer.encode(text).tolist() for text in (SHORT, LONG))
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    assert real(batch) == [cls, *first, sep, *second, sep]
    assert batch.token_type_ids[0].tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert batch.sequence_ids[0].tolist() == [-1, *[0] * len(first), -1, *[1] * len(second), -1]
    assert (batch.offsets[0, batch.sequence_ids[0] == 1] == tokenizer.encode_with_offsets(LONG)[1]).all()


def test_unpacking_a_batch_as_keywords_passes_the_inputs_of_a_model(tokenizer):
    def model(**inputs):
        return inputs

    batch = tokenizer([LONG, SHORT])
    inputs = model(**batch)
    assert list(inputs) == ["input_ids", "attention_mask", "token_type_ids"]
    assert all(inputs[name] is getattr(batch, name) for name in inputs)


def test_fields_are_read_by_name_by_index_by_slice_and_by_unpacking(tokenizer):
    batch = tokenizer([LONG, SHORT])
    input_ids, *others, sources = batch
    assert len(others) == 5
    assert batch[0] is batch["input_ids"] is batch.input_ids is input_ids
    assert batch[-1] is batch["sources"] is sources
    assert batch[:2] == (batch.input_ids, batch.attention_mask)
    assert all(batch[name] is getattr(batch, name) for name in batch._fields)
    with pytest.raises(KeyError, match="'labels' is not a field of Batch"):
        batch["labels"]
    replaced = batch._replace(sources=sources + 1)
    assert replaced["sources"].tolist() == [1, 2]
    assert replaced["offsets"] is batch.offsets
    assert (pickle.loads(pickle.dumps(batch))["word_starts"] == batch.word_starts).all()


def test_a_batch_is_a_pytree_of_its_arrays(tokenizer):
    batch = tokenizer([LONG, SHORT])
    shapes = jax.tree.map(np.shape, batch)
    assert type(shapes) is type(batch)
    assert shapes["offsets"] == (*batch.input_ids.shape, 2)
    result = jax.jit(lambda batch: batch._replace(input_ids=batch["input_ids"] + 1))(batch)
    assert type(result) is type(batch)
    assert (result.input_ids == batch.input_ids + 1).all()
    assert (result["sources"] == batch.sources).all()


def encoded(length, base):
    ids = np.arange(base, base + length, dtype=np.int32)
    return EncodedText(ids, np.stack([ids, ids + 1], 1), np.ones(length, bool))


@settings(max_examples=150, deadline=None)
@given(strategies.integers(0, 12), strategies.integers(0, 12), strategies.integers(3, 20))
def test_the_longer_text_is_truncated_token_by_token_and_the_order_stays(first, second, limit):
    batch = make_batch([encoded(first, 100)], [encoded(second, 200)], BatchOptions(standard_template(1, 2), 0, limit))
    while first + second + 3 > limit:
        first, second = (first - 1, second) if first > second else (first, second - 1)
    assert real(batch) == [1, *range(100, 100 + first), 2, *range(200, 200 + second), 2]


@settings(max_examples=150, deadline=None)
@given(strategies.integers(0, 30), strategies.integers(1, 9), strategies.integers(0, 8), strategies.booleans())
def test_windows_cover_every_token_and_overlap_by_the_stride(size, space, stride, paired):
    stride = min(stride, space - 1)
    seconds = [encoded(3, 500)] if paired else None
    limit = space + (6 if paired else 2)
    batch = make_batch([encoded(size, 100)], seconds, BatchOptions(standard_template(1, 2), 0, limit, "first", stride))
    windows = [real(batch, row, 0) for row in range(len(batch.sources))]
    assert sorted({index for window in windows for index in window}) == list(range(100, 100 + size))
    assert all(len(window) == space for window in windows[:-1])
    assert all(before[len(before) - stride :] == after[:stride] for before, after in itertools.pairwise(windows))
    assert len(windows) == 1 or len(windows[-1]) > stride
    if paired:
        assert all(real(batch, row, 1) == [500, 501, 502] for row in range(len(windows)))


def test_windows_refer_to_their_text(tokenizer):
    batch = tokenizer([SHORT, LONG, SHORT], max_length=20, stride=4)
    assert batch.sources.tolist() == [0, *[1] * (len(batch.sources) - 2), 2]
    row = 2
    position = int(np.flatnonzero(batch.offsets[row, :, 1] > batch.offsets[row, :, 0])[-1])
    start, end = batch.offsets[row, position]
    assert LONG[start:end].strip()
    assert not tokenizer(LONG, max_length=20, stride=4).word_starts[:, 1:].all()


def test_truncation_can_be_limited_to_one_text(tokenizer):
    first, second = len(tokenizer.encode(LONG)), len(tokenizer.encode(SHORT))
    batch = tokenizer(LONG, SHORT, max_length=second + 8, truncation="first")
    assert (len(real(batch, 0, 0)), len(real(batch, 0, 1))) == (5, second)
    batch = tokenizer(SHORT, LONG, max_length=second + 8, truncation="second")
    assert (len(real(batch, 0, 0)), len(real(batch, 0, 1))) == (second, 5)
    assert first > 5


def test_sequences_are_padded_to_a_multiple_or_to_a_bucket(tokenizer):
    assert tokenizer(SHORT, pad_to_multiple_of=32).input_ids.shape == (1, 32)
    assert tokenizer([SHORT], buckets=(64, 16, 32)).input_ids.shape[1] in (16, 32)
    assert tokenizer([LONG * 9, SHORT], buckets=(16, 32)).input_ids.shape == (2, 32)
    assert tokenizer([], buckets=(16,)).input_ids.shape == (0, 16)
    assert tokenizer([]).offsets.shape == (0, 0, 2)
    assert tokenizer("").input_ids.tolist() == [[tokenizer.cls_id, tokenizer.sep_id]]


def test_a_stream_of_texts_compiles_at_most_one_program_for_each_bucket(v3):
    shapes = []

    @jax.jit
    def count(batch):
        shapes.append(batch.input_ids.shape)
        return batch.attention_mask.sum()

    for size in range(1, len(LONG), 7):
        batch = v3([LONG[:size]], buckets=(16, 32, 64))
        assert count(batch) == batch.attention_mask.sum()
    assert sorted(shapes) == sorted({*shapes})
    assert len(shapes) <= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"max_length": 9, "truncation": None},
            r"text 1: \d+ tokens including special tokens, more than the limit of 9",
        ),
        ({"max_length": 2}, "max_length is 2; it must be at least 3"),
        ({"max_length": 9, "stride": 7}, "leave 7 tokens for the text to truncate, which must exceed the stride of 7"),
        ({"max_length": 9, "stride": -1}, "stride is -1; it must be at least 0"),
        ({"buckets": (2, 9)}, "buckets is 2; it must be at least 3"),
        ({"max_length": 9, "truncation": "second"}, "requires pairs"),
        ({"max_length": 90, "buckets": (8, 16)}, "longer than the longest bucket, 16"),
        ({"buckets": (8, 16), "pad_to_multiple_of": 8}, "use one of them"),
        ({"stride": 2}, "set max_length or buckets"),
        ({"pairs": ["a"]}, "2 texts and 1 pairs"),
        ({"pairs": [LONG, LONG], "max_length": 9, "truncation": "first"}, "and the other text leave"),
        ({"pairs": [LONG, LONG], "max_length": 9, "stride": 2}, "set truncation to 'first' or 'second'"),
    ],
)
def test_conflicting_options_are_rejected(tokenizer, options, message):
    with pytest.raises(InputError, match=message):
        tokenizer([SHORT[:1], LONG], **options)


@pytest.mark.parametrize("value", [True, "left", 1])
def test_an_unknown_truncation_is_refused(value):
    with pytest.raises(InputError, match=rf"truncation is {value!r}; use longest_first, first, second or None"):
        check_truncation(value)
