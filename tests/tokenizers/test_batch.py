import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies
from toy_tokenizers import TEXT, write_byte_pair, write_unigram

import deberta_jax as dj
from deberta_jax.errors import InputError
from deberta_jax.tokenizers.batch import Encoded, assemble, frame

LINES = TEXT.splitlines()
LONG, SHORT = LINES[0], "Every day."


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folders = [tmp_path_factory.mktemp(version) for version in ("v3", "v1")]
    for write, folder in zip((write_unigram, write_byte_pair), folders, strict=True):
        write(folder)
    return [dj.Tokenizer(folder) for folder in folders]


@pytest.fixture(params=[0, 1], ids=["v3", "v1"])
def tokenizer(tokenizers, request):
    return tokenizers[request.param]


def real(batch, row=0, side=None):
    """Ids of a row without padding, or those of one of its texts."""
    keep = batch.attention_mask[row] == 1 if side is None else batch.sequence_ids[row] == side
    return batch.input_ids[row, keep].tolist()


def test_a_text_stands_between_cls_and_sep_and_padding_follows(tokenizer):
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


def encoded(length, base):
    ids = np.arange(base, base + length, dtype=np.int32)
    return Encoded(ids, np.stack([ids, ids + 1], 1), np.ones(length, bool))


@settings(max_examples=200, deadline=None)
@given(strategies.integers(0, 12), strategies.integers(0, 12), strategies.integers(3, 20))
def test_the_longer_text_is_cut_token_by_token_and_the_order_stays(first, second, most):
    batch = assemble(
        [encoded(first, 100)], [encoded(second, 200)], frame((1, 2, 0), most, "longest_first", None, (), 1)
    )
    while first + second + 3 > most:
        first, second = (first - 1, second) if first > second else (first, second - 1)
    assert real(batch) == [1, *range(100, 100 + first), 2, *range(200, 200 + second), 2]


@settings(max_examples=200, deadline=None)
@given(strategies.integers(0, 30), strategies.integers(1, 9), strategies.integers(0, 8), strategies.booleans())
def test_windows_hold_every_token_and_share_the_stride(size, room, stride, paired):
    stride = min(stride, room - 1)
    others = [encoded(3, 500)] if paired else None
    most = room + (6 if paired else 2)
    batch = assemble([encoded(size, 100)], others, frame((1, 2, 0), most, "first", stride, (), 1))
    windows = [real(batch, row, 0) for row in range(len(batch.sources))]
    assert sorted({index for window in windows for index in window}) == list(range(100, 100 + size))
    assert all(len(window) == room for window in windows[:-1])
    assert all(before[len(before) - stride :] == after[:stride] for before, after in itertools.pairwise(windows))
    assert len(windows) == 1 or len(windows[-1]) > stride
    if paired:
        assert all(real(batch, row, 1) == [500, 501, 502] for row in range(len(windows)))


def test_windows_know_their_text(tokenizer):
    batch = tokenizer([SHORT, LONG, SHORT], max_length=20, stride=4)
    assert batch.sources.tolist() == [0, *[1] * (len(batch.sources) - 2), 2]
    row = 2
    place = int(np.flatnonzero(batch.offsets[row, :, 1] > batch.offsets[row, :, 0])[-1])
    start, end = batch.offsets[row, place]
    assert LONG[start:end].strip()
    assert not tokenizer(LONG, max_length=20, stride=4).word_starts[:, 1:].all()


def test_one_side_alone_is_cut_where_it_is_asked_for(tokenizer):
    first, second = len(tokenizer.encode(LONG)), len(tokenizer.encode(SHORT))
    batch = tokenizer(LONG, SHORT, max_length=second + 8, truncation="first")
    assert (len(real(batch, 0, 0)), len(real(batch, 0, 1))) == (5, second)
    batch = tokenizer(SHORT, LONG, max_length=second + 8, truncation="second")
    assert (len(real(batch, 0, 0)), len(real(batch, 0, 1))) == (second, 5)
    assert first > 5


def test_rows_are_padded_to_a_multiple_or_to_a_bucket(tokenizer):
    assert tokenizer(SHORT, pad_to_multiple_of=32).input_ids.shape == (1, 32)
    assert tokenizer([SHORT], buckets=(64, 16, 32)).input_ids.shape[1] in (16, 32)
    assert tokenizer([LONG * 9, SHORT], buckets=(16, 32)).input_ids.shape == (2, 32)
    assert tokenizer([], buckets=(16,)).input_ids.shape == (0, 16)
    assert tokenizer([]).offsets.shape == (0, 0, 2)
    assert tokenizer("").input_ids.tolist() == [[tokenizer.cls_id, tokenizer.sep_id]]


def test_a_stream_of_texts_compiles_as_many_programs_as_there_are_buckets(tokenizer):
    compiled = []

    @jax.jit
    def count(batch):
        compiled.append(batch.input_ids.shape)
        return batch.attention_mask.sum()

    for size in range(1, len(LONG), 7):
        batch = tokenizer([LONG[:size]], buckets=(16, 32, 64))
        assert count(batch) == batch.attention_mask.sum()
    assert sorted(compiled) == sorted({*compiled})
    assert len(compiled) <= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 9, "truncation": None}, r"text 1: \d+ tokens with the special ones, at most 9"),
        ({"max_length": 2}, "max_length is 2, at least 3"),
        ({"max_length": 9, "stride": 7}, "leave 7 for the text that is cut, not more than the stride of 7"),
        ({"max_length": 9, "stride": -1}, "stride is -1, at least 0"),
        ({"max_length": 9, "truncation": "second"}, "needs pairs"),
        ({"max_length": 90, "buckets": (8, 16)}, "above the longest of the buckets, 16"),
        ({"buckets": (8, 16), "pad_to_multiple_of": 8}, "give one of them"),
        ({"stride": 2}, "give max_length or buckets"),
        ({"pairs": ["a"]}, "2 texts and 1 pairs"),
        ({"pairs": [LONG, LONG], "max_length": 9, "truncation": "first"}, "and the other text leave"),
        ({"pairs": [LONG, LONG], "max_length": 9, "stride": 2}, "give truncation 'first' or 'second'"),
    ],
)
def test_options_that_cannot_be_met_are_refused(tokenizer, options, message):
    with pytest.raises(InputError, match=message):
        tokenizer([SHORT[:1], LONG], **options)
