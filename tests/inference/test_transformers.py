"""The same answers as the pipelines of transformers, on models that both load."""

import pytest

from deberta_jax.hub.pretrained import save_pretrained
from deberta_jax.inference.classification import classify, zero_shot

pytestmark = pytest.mark.reference
# Shorter than the positions of the models, beyond which transformers has other buckets.
TEXTS = ["A man eats.", "The fox and the dog", "Where do words come from?"]


@pytest.fixture
def pipeline(tmp_path, made, tokenizer):
    """A model of ours, and a pipeline of transformers with it."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    def start(task, head, labels, **options):
        model = made(head, labels=labels)
        save_pretrained(tmp_path, model, tokenizer)
        return model, transformers.pipeline(task, str(tmp_path), device="cpu", **options)

    return start


def test_classes_are_those_of_the_pipeline(pipeline, tokenizer):
    model, theirs = pipeline("text-classification", "sequence_classification", ("no", "maybe", "yes"), top_k=None)
    for result, wanted in zip(classify(model, tokenizer, TEXTS), theirs(TEXTS), strict=True):
        for one in wanted:
            assert result.scores[one["label"]] == pytest.approx(one["score"], abs=1e-5)


@pytest.mark.parametrize("several", [False, True])
def test_labels_by_inference_are_those_of_the_pipeline(several, pipeline, tokenizer):
    labels = ("contradiction", "neutral", "entailment")
    model, theirs = pipeline("zero-shot-classification", "sequence_classification", labels)
    options = {"candidate_labels": ["man", "fox", "sea"], "hypothesis_template": "a {}"}
    results = zero_shot(model, tokenizer, TEXTS, ["man", "fox", "sea"], template="a {}", several=several)
    for result, wanted in zip(results, theirs(TEXTS, multi_label=several, **options), strict=True):
        assert [result.scores[label] for label in wanted["labels"]] == pytest.approx(wanted["scores"], abs=1e-5)
