"""The results of the pipelines of transformers, for models that both libraries load."""

import pytest
from inference_models import random_model

from deberta_jax.hub.pretrained import save_pretrained
from deberta_jax.inference.classification import classify, zero_shot

pytestmark = pytest.mark.reference
# Shorter than the positions of the model: beyond them transformers uses other buckets of distances.
TEXTS = ["A man eats.", "The fox and the dog", "Where do words come from?"]


@pytest.fixture
def pipeline(tmp_path, tokenizer):
    """A function that returns a model and the pipeline of transformers with the same model."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    def start(task, head, labels, **options):
        model = random_model(head, labels=labels, max_position_embeddings=32)
        save_pretrained(tmp_path, model, tokenizer)
        return model, transformers.pipeline(task, str(tmp_path), device="cpu", **options)

    return start


def test_classification_agrees_with_transformers(pipeline, tokenizer):
    model, reference = pipeline("text-classification", "sequence_classification", ("no", "maybe", "yes"), top_k=None)
    for result, expected in zip(classify(model, tokenizer, TEXTS), reference(TEXTS), strict=True):
        for score in expected:
            assert result.scores[score["label"]] == pytest.approx(score["score"], abs=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_agrees_with_transformers(multi_label, pipeline, tokenizer):
    labels = ("contradiction", "neutral", "entailment")
    model, reference = pipeline("zero-shot-classification", "sequence_classification", labels)
    options = {"candidate_labels": ["man", "fox", "sea"], "hypothesis_template": "a {}"}
    results = zero_shot(model, tokenizer, TEXTS, ["man", "fox", "sea"], template="a {}", multi_label=multi_label)
    for result, expected in zip(results, reference(TEXTS, multi_label=multi_label, **options), strict=True):
        assert [result.scores[label] for label in expected["labels"]] == pytest.approx(expected["scores"], abs=1e-5)
