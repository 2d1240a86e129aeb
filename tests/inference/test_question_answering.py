import itertools

import jax
import numpy as np
import pytest

from deberta_jax.errors import InputError
from deberta_jax.inference.activations import activations
from deberta_jax.inference.entity_ranking import score_entities
from deberta_jax.inference.question_answering import answer

QUESTION = "What is it?"
LONG = "The quick brown fox jumps over the lazy dog. A man eats; a woman sings! " * 2


@pytest.fixture(scope="session")
def program():
    return jax.jit(lambda model, ids, mask: model(ids, mask))


def spans_of(model, tokenizer, context, longest, program):
    """Score, start and end of every span of every window, and the scores of their [CLS]."""
    batch = tokenizer([QUESTION], [context], max_length=32, truncation="second", stride=8)
    logits = program(model, batch.input_ids, batch.attention_mask)
    spans, none = [], []
    for sides, offsets, start, end in zip(batch.sequence_ids, batch.offsets, *map(np.asarray, logits), strict=True):
        inside = np.flatnonzero((sides == 1) & (offsets[:, 0] < offsets[:, 1])).tolist()
        none.append(start[0] + end[0])
        spans.append(
            [
                (float(start[i] + end[j]), offsets[i, 0], offsets[j, 1])
                for i, j in itertools.product(inside, inside)
                if i <= j < i + longest
            ]
        )
    return spans, min(none)


@pytest.mark.parametrize("longest", [1, 4])
@pytest.mark.parametrize("context", [LONG, "A fox.", "€ € €"])
def test_an_answer_is_the_best_of_all_spans_of_all_windows(context, longest, made, tokenizer, program):
    model = made("question_answering")
    spans, none = spans_of(model, tokenizer, context, longest, program)
    assert (len(spans) > 1) == (context == LONG)
    best = max(range(len(spans)), key=lambda place: max(spans[place]))
    score, start, end = max(spans[best])
    [found] = answer(model, tokenizer, [QUESTION], [context], longest=longest, no_answer_threshold=None)
    assert (found.text, found.start, found.end) == (context[start:end], start, end)
    total = np.logaddexp.reduce([score for score, *_ in spans[best]])
    np.testing.assert_allclose(found.probability, np.exp(score - total), rtol=1e-4)
    np.testing.assert_allclose(found.no_answer, none - score, atol=1e-4)
    for threshold in (none - score - 0.1, none - score + 0.1):
        [found] = answer(model, tokenizer, [QUESTION], [context], longest=longest, no_answer_threshold=float(threshold))
        assert found.text == ("" if none - score > threshold else context[start:end])
        wanted = none if none - score > threshold else score
        np.testing.assert_allclose(found.probability, np.exp(wanted - np.logaddexp(total, none)), rtol=1e-4)


def test_an_empty_context_has_no_answer(made, tokenizer):
    for threshold in (0.0, None):
        [found] = answer(made("question_answering"), tokenizer, [QUESTION], [""], no_answer_threshold=threshold)
        assert (found.text, found.start, found.end) == ("", 0, 0)
        assert np.isfinite(found.no_answer)


def test_a_question_that_leaves_no_room_is_refused_by_its_number(made, tokenizer):
    with pytest.raises(InputError, match=r"text 1: of max_length 32 the special tokens and the other text leave"):
        answer(made("question_answering"), tokenizer, [QUESTION, LONG], [LONG, LONG])
    with pytest.raises(InputError, match="longest is 0"):
        answer(made("question_answering"), tokenizer, [QUESTION], [LONG], longest=0)


def test_entities_are_scored_as_the_head_does_and_ranked(made, tokenizer):
    model, passage = made("entity_scoring"), "A fox and a dog eat a fox."
    spans = [(2, 5), (12, 15), (22, 25)]
    assert [passage[start:end] for start, end in spans] == ["fox", "dog", "fox"]
    [found] = score_entities(model, tokenizer, [passage], ["An @placeholder eats."], [spans])
    batch = tokenizer([passage], ["An [MASK] eats."])
    positions = np.zeros((3, 4), np.int32)
    for row, (start, end) in zip(positions, spans, strict=True):
        its = np.flatnonzero(
            (batch.sequence_ids[0] == 0) & (batch.offsets[0, :, 0] < end) & (batch.offsets[0, :, 1] > start)
        )
        row[: len(its)] = its
    logits = jax.jit(lambda model, ids: model(ids, entity_positions=positions[None]))(model, batch.input_ids)[0]
    chances = np.asarray(jax.nn.sigmoid(logits))
    wanted = {"fox": float(np.sqrt(chances[0] * chances[2])), "dog": float(chances[1])}
    assert {one.text: one.spans for one in found} == {"fox": [spans[0], spans[2]], "dog": [spans[1]]}
    assert [one.text for one in found] == sorted(wanted, key=wanted.get, reverse=True)
    np.testing.assert_allclose([one.probability for one in found], sorted(wanted.values(), reverse=True), rtol=1e-4)


def test_entities_that_do_not_fit_are_refused_by_their_number(made, tokenizer):
    model = made("entity_scoring")
    with pytest.raises(InputError, match="text 0: the query must have one @placeholder"):
        score_entities(model, tokenizer, ["A fox"], ["Who?"], [[(2, 5)]])
    with pytest.raises(InputError, match="text 0: entity from 2 to 9 is no stretch of the passage of 5 characters"):
        score_entities(model, tokenizer, ["A fox"], ["@placeholder"], [[(2, 9)]])


def test_a_trace_holds_tokens_states_and_attentions_of_one_text(made, tokenizer):
    model, text = made("masked_lm"), "The quick brown fox"
    found = activations(model, tokenizer, text)
    batch = tokenizer(text)
    output = jax.jit(lambda model, ids: model(ids, output_hidden_states=True, output_attentions=True))(
        model.deberta, batch.input_ids
    )
    T = batch.input_ids.shape[1]
    assert found.tokens == ["[CLS]", *(tokenizer.token(index) for index in tokenizer.encode(text)), "[SEP]"]
    assert [text[start:end] for start, end in found.offsets[1:-1]] == [
        text[start:end] for start, end in tokenizer.encode_with_offsets(text)[1]
    ]
    assert found.hidden_states.shape == (3, T, 16)
    assert found.attentions.shape == (2, 2, T, T)
    np.testing.assert_allclose(found.hidden_states, output.hidden_states[:, 0], atol=2e-5)
    np.testing.assert_allclose(found.attentions, output.attentions[:, 0], atol=2e-5)
    np.testing.assert_allclose(found.attentions.sum(-1), 1, rtol=1e-5)
    with pytest.raises(InputError, match="at most 32 are wanted"):
        activations(model, tokenizer, LONG)
