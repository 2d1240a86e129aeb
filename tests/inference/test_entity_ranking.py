import jax
import numpy as np
import pytest
from inference_models import MAX_LENGTH, random_model

from deberta_jax.errors import InputError
from deberta_jax.inference.entity_ranking import score_entities


def test_entities_are_ranked_by_the_probabilities_of_the_head(tokenizer):
    model, passage = random_model("entity_scoring"), "dog, fox, fox"
    spans = [(5, 8), (0, 3), (10, 13)]
    assert [passage[start:end] for start, end in spans] == ["fox", "dog", "fox"]
    batch = tokenizer([passage], ["A [MASK]"])
    # The passage fits into one window.
    assert batch.input_ids.shape[1] <= MAX_LENGTH
    [candidates] = score_entities(model, tokenizer, [passage], ["A @placeholder"], [spans])
    positions = np.zeros((3, 4), np.int32)
    in_passage = batch.sequence_ids[0] == 0
    for row, (start, end) in zip(positions, spans, strict=True):
        tokens = np.flatnonzero(in_passage & (batch.offsets[0, :, 0] < end) & (batch.offsets[0, :, 1] > start))
        row[: len(tokens)] = tokens
    program = jax.jit(lambda model, ids, positions: model(ids, entity_positions=positions))
    probabilities = np.asarray(jax.nn.sigmoid(program(model, batch.input_ids, positions[None])[0]))
    expected = {"fox": float(np.sqrt(probabilities[0] * probabilities[2])), "dog": float(probabilities[1])}
    names = sorted(expected, key=expected.get, reverse=True)
    assert {candidate.text: candidate.spans for candidate in candidates} == {
        "fox": [spans[0], spans[2]],
        "dog": [spans[1]],
    }
    assert [candidate.text for candidate in candidates] == names
    np.testing.assert_allclose(
        [candidate.probability for candidate in candidates], [expected[name] for name in names], rtol=1e-4
    )


def test_invalid_queries_and_entities_are_rejected_with_their_index(tokenizer):
    model = random_model("entity_scoring")
    with pytest.raises(InputError, match="text 0: the query must contain @placeholder exactly once"):
        score_entities(model, tokenizer, ["A fox"], ["Who?"], [[(2, 5)]])
    with pytest.raises(InputError, match="text 0: entity 2:9 is not a span of the passage of 5 characters"):
        score_entities(model, tokenizer, ["A fox"], ["@placeholder"], [[(2, 9)]])
