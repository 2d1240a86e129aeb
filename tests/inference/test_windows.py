import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deberta_jax.inference.encode import EncodedRow
from deberta_jax.inference.windows import encode_windows, merge_windows


@given(st.integers(0, 70), st.sampled_from([12, 15, 32]))
@settings(max_examples=50, deadline=None)
def test_each_token_is_taken_from_the_window_with_the_most_context(tokenizer, words, max_length):
    text = " ".join(["fox"] * words)
    batch = encode_windows(tokenizer, [(text,)], max_length).batch
    lengths = batch.attention_mask.sum(1).tolist()
    rows = [
        EncodedRow(ids[:length], offsets[:length], sides[:length], np.full(length, window))
        for window, (ids, offsets, sides, length) in enumerate(
            zip(batch.input_ids, batch.offsets, batch.sequence_ids, lengths, strict=True)
        )
    ]
    tokens = merge_windows(rows, max_length)
    assert (tokens.offsets == tokenizer.encode_with_offsets(text)[1]).all()
    windows = [[tuple(offset) for offset in row.offsets[1:-1].tolist()] for row in rows]

    def context(token, window):
        index, last = windows[window].index(token), window == len(windows) - 1
        left = index if window else 1000
        right = 1000 if last else len(windows[window]) - 1 - index
        return min(left, right)

    for token, window in zip(map(tuple, tokens.offsets.tolist()), tokens.outputs.tolist(), strict=True):
        candidates = [other for other, offsets in enumerate(windows) if token in offsets]
        assert context(token, window) == max(context(token, other) for other in candidates)
