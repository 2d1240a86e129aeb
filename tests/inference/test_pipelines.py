"""The table of pipelines, and the heads that public functions need."""

import numpy as np
import pytest
from inference_models import CONFIG, random_model

from deberta_jax.errors import InputError
from deberta_jax.hub.heads import HEADS
from deberta_jax.inference.classification import classify, zero_shot
from deberta_jax.inference.entities import tag_entities
from deberta_jax.inference.entity_ranking import score_entities
from deberta_jax.inference.fill_mask import fill_mask
from deberta_jax.inference.multiple_choice import choose
from deberta_jax.inference.names import PipelineName
from deberta_jax.inference.pipelines import PIPELINES, pipeline, predict
from deberta_jax.inference.question_answering import answer, span_ranking_pipeline
from deberta_jax.inference.ranking import rank
from deberta_jax.inference.replaced_tokens import detect_replaced
from deberta_jax.inference.scoring import score

CALLS = {
    "fill_mask": ("masked_lm", lambda *model: fill_mask(*model, ["A [MASK]"])),
    "classify": ("sequence_classification", lambda *model: classify(*model, ["A fox"])),
    "zero_shot": ("sequence_classification", lambda *model: zero_shot(*model, ["A fox"], ["animal"])),
    "score": ("sequence_classification", lambda *model: score(*model, ["A fox"])),
    "rank": ("sequence_classification", lambda *model: rank(*model, "What?", ["A fox"])),
    "tag_entities": ("token_classification", lambda *model: tag_entities(*model, ["A fox"])),
    "answer": ("question_answering", lambda *model: answer(*model, ["What?"], ["A fox"])),
    "span_ranking_pipeline": ("question_answering", lambda *model: span_ranking_pipeline(*model)),
    "choose": ("multiple_choice", lambda *model: choose(*model, ["A fox"], [["a", "b"]])),
    "detect_replaced": ("replaced_token_detection", lambda *model: detect_replaced(*model, ["A fox"])),
    "score_entities": ("entity_scoring", lambda *model: score_entities(*model, ["A"], ["@placeholder"], [[(0, 1)]])),
}


@pytest.mark.parametrize("function", CALLS)
def test_a_model_with_the_wrong_head_is_rejected_with_the_head_to_load(function, tokenizer):
    head, call = CALLS[function]
    hint = f'load it with from_pretrained(..., head="{head}")'
    with pytest.raises(InputError) as error:
        call(random_model(None), tokenizer)
    assert str(error.value) == f'{function} needs a model with the head "{head}", this one has none: {hint}'
    other = "question_answering" if head == "masked_lm" else "masked_lm"
    with pytest.raises(InputError) as error:
        call(random_model(other), tokenizer)
    assert str(error.value) == f'{function} needs a model with the head "{head}", this one has "{other}": {hint}'


def test_the_table_has_each_name_and_each_head():
    assert set(PIPELINES) == set(PipelineName.__args__)
    assert {spec.head for spec in PIPELINES.values()} == set(HEADS)


def test_a_model_that_is_not_in_the_table_is_rejected(tokenizer):
    with pytest.raises(InputError, match="no pipeline for a dict: use one of ReplacedTokenDetection, "):
        pipeline({}, tokenizer)


@pytest.mark.parametrize("head", HEADS)
def test_no_texts_give_no_results(head, tokenizer):
    results = predict(random_model(head), tokenizer, [])
    assert len(results) == 0
    if head is None:
        assert results.shape == (0, CONFIG["hidden_size"])


def test_predict_calls_the_function_of_the_head(tokenizer):
    passage, entities = "A fox eats", [(2, 5)]
    model = random_model("entity_scoring")
    expected = score_entities(model, tokenizer, [passage], ["A @placeholder"], [entities])
    assert predict(model, tokenizer, [passage], [("A @placeholder", entities)]) == expected
    model = random_model("sequence_classification")
    assert predict(model, tokenizer, ["A fox"], ["A dog"]) == classify(model, tokenizer, ["A fox"], ["A dog"])
    encoder = random_model(None)
    assert np.array_equal(predict(encoder, tokenizer, ["A fox"]), predict(encoder, tokenizer, ["A fox", "A"])[:1])
