import itertools

import jax
import numpy as np
import pytest
from inference_models import MAX_LENGTH, random_model

from deberta_jax.errors import InputError
from deberta_jax.inference.question_answering import answer, span_ranking_pipeline
from deberta_jax.inference.stream import complete
from deberta_jax.inference.windows import window_stride

QUESTION = "It?"
CONTEXTS = ["The quick brown fox jumps over the lazy dog. A man eats; a woman sings!", "A fox.", "€ €"]


@pytest.fixture(scope="module")
def windows(tokenizer):
    """For each context, the windows with their offsets and logits of start and end."""
    batch = tokenizer(
        [QUESTION] * len(CONTEXTS),
        CONTEXTS,
        max_length=MAX_LENGTH,
        truncation="second",
        stride=window_stride(MAX_LENGTH),
    )
    program = jax.jit(lambda model, ids, mask: model(ids, mask))
    logits = program(random_model("question_answering"), batch.input_ids, batch.attention_mask)
    results = [[] for _ in CONTEXTS]
    for source, *window in zip(batch.sources, batch.sequence_ids, batch.offsets, *map(np.asarray, logits), strict=True):
        results[source].append(window)
    return results


def spans_of(windows, max_answer_tokens):
    """Score, start and end of every span of every window of a context, and the lowest score of [CLS]."""
    spans, no_answer = [], []
    for sides, offsets, start, end in windows:
        inside = np.flatnonzero((sides == 1) & (offsets[:, 0] < offsets[:, 1])).tolist()
        no_answer.append(start[0] + end[0])
        spans.append(
            [
                (float(start[i] + end[j]), offsets[i, 0], offsets[j, 1])
                for i, j in itertools.product(inside, inside)
                if i <= j < i + max_answer_tokens
            ]
        )
    return spans, min(no_answer)


@pytest.mark.parametrize("max_answer_tokens", [1, 4])
def test_an_answer_is_the_best_span_of_all_windows(max_answer_tokens, tokenizer, windows):
    model = random_model("question_answering")

    def answer_with(threshold):
        options = {"max_answer_tokens": max_answer_tokens, "no_answer_threshold": threshold}
        return answer(model, tokenizer, [QUESTION] * len(CONTEXTS), CONTEXTS, **options)

    assert [len(context_windows) > 1 for context_windows in windows] == [True, False, False]
    for index, (context, result) in enumerate(zip(CONTEXTS, answer_with(None), strict=True)):
        spans, no_answer = spans_of(windows[index], max_answer_tokens)
        best = max(range(len(spans)), key=lambda window: max(spans[window]))
        score, start, end = max(spans[best])
        assert (result.text, result.start, result.end) == (context[start:end], start, end)
        total = np.logaddexp.reduce([score for score, *_ in spans[best]])
        np.testing.assert_allclose(result.probability, np.exp(score - total), rtol=1e-4)
        difference = no_answer - score
        np.testing.assert_allclose(result.no_answer, difference, atol=1e-4)
        for threshold in (difference - 0.1, difference + 0.1):
            result = answer_with(float(threshold))[index]
            assert result.text == ("" if difference > threshold else context[start:end])
            expected = no_answer if difference > threshold else score
            np.testing.assert_allclose(result.probability, np.exp(expected - np.logaddexp(total, no_answer)), rtol=1e-4)


def test_a_ranking_has_the_best_spans_of_all_windows_by_text(tokenizer, windows):
    pipeline = span_ranking_pipeline(random_model("question_answering"), tokenizer, max_answer_tokens=4)
    rankings = complete(pipeline, [QUESTION] * len(CONTEXTS), CONTEXTS)
    for context, context_windows, ranking in zip(CONTEXTS, windows, rankings, strict=True):
        spans, no_answer = spans_of(context_windows, 4)
        scores = {}
        for score, start, end in itertools.chain(*spans):
            scores[context[start:end]] = max(score, scores.get(context[start:end], score))
        ranked = sorted(scores, key=scores.get, reverse=True)[:20]
        assert [text for text, _ in ranking.spans] == ranked
        np.testing.assert_allclose(ranking.no_answer, no_answer - scores[ranked[0]], atol=1e-4)
        expected = jax.nn.softmax(np.asarray([no_answer, *(scores[text] for text in ranked)]))[1:]
        np.testing.assert_allclose([probability for _, probability in ranking.spans], expected, rtol=1e-4)


def test_an_empty_context_has_no_answer(tokenizer):
    for threshold in (0.0, None):
        model = random_model("question_answering")
        [result] = answer(model, tokenizer, [QUESTION], [""], max_answer_tokens=4, no_answer_threshold=threshold)
        assert (result.text, result.start, result.end) == ("", 0, 0)
        assert np.isfinite(result.no_answer)


def test_a_question_without_room_for_its_context_is_rejected_with_its_index(tokenizer):
    model, long = random_model("question_answering"), CONTEXTS[0]
    with pytest.raises(InputError, match=r"text 1: .*max_length 16.* leave"):
        answer(model, tokenizer, [QUESTION, long], [long, long], max_answer_tokens=4)
    with pytest.raises(InputError, match="max_answer_tokens is 0; it must be at least 1"):
        answer(model, tokenizer, [QUESTION], [long], max_answer_tokens=0)
