"""The results of the pipelines of transformers, for models that both libraries load."""

import pytest
from inference_models import random_model

from deberta_jax.hub.pretrained import from_pretrained, save_pretrained
from deberta_jax.inference.classification import classify, zero_shot
from deberta_jax.inference.ranking import rank
from deberta_jax.inference.scoring import score
from deberta_jax.model.surgery import with_config

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
        for item in expected:
            assert result.scores[item["label"]] == pytest.approx(item["score"], abs=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_agrees_with_transformers(multi_label, pipeline, tokenizer):
    labels = ("contradiction", "neutral", "entailment")
    model, reference = pipeline("zero-shot-classification", "sequence_classification", labels)
    options = {"candidate_labels": ["man", "fox", "sea"], "hypothesis_template": "a {}"}
    results = zero_shot(model, tokenizer, TEXTS, ["man", "fox", "sea"], template="a {}", multi_label=multi_label)
    for result, expected in zip(results, reference(TEXTS, multi_label=multi_label, **options), strict=True):
        assert [result.scores[label] for label in expected["labels"]] == pytest.approx(expected["scores"], abs=1e-5)


DOCUMENTS = ["The fox and the dog", "sea", "A man eats. The dog eats. The fox is over the sea.", "", "Where is it?"]


@pytest.mark.parametrize(
    "activation", ["torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid", None]
)
def test_rank_agrees_with_the_forward_pass_of_transformers(activation, tmp_path, tokenizer):
    import torch
    import transformers
    from transformers import AutoModelForSequenceClassification

    transformers.logging.disable_progress_bar()
    model = random_model("sequence_classification", labels=("LABEL_0",), max_position_embeddings=32)
    extra = {"sentence_transformers": {"activation_fn": activation}} if activation else {}
    save_pretrained(tmp_path, with_config(model, extra=extra), tokenizer)
    reference = AutoModelForSequenceClassification.from_pretrained(str(tmp_path)).eval()
    expected = []
    for document in DOCUMENTS:
        batch = tokenizer(["Over the sea"], [document], max_length=32)
        with torch.no_grad():
            logits = reference(*map(torch.asarray, batch[:3])).logits[0]
        expected.append((logits if activation and "Identity" in activation else torch.sigmoid(logits)).item())
    loaded, _ = from_pretrained(tmp_path, "sequence_classification")
    ranked = rank(loaded, tokenizer, "Over the sea", DOCUMENTS)
    assert [item.index for item in ranked] == sorted(range(len(DOCUMENTS)), key=lambda index: -expected[index])
    assert [item.score for item in ranked] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)


def test_score_agrees_with_transformers(pipeline, tokenizer):
    model, reference = pipeline("text-classification", "sequence_classification", ("LABEL_0",))
    for function in ("none", "sigmoid"):
        expected = [result["score"] for result in reference(TEXTS, function_to_apply=function)]
        assert score(model, tokenizer, TEXTS, function=function).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("entailment", [0, 1, 2])
def test_unnamed_zero_shot_labels_agree_with_transformers(entailment, pipeline, tokenizer):
    labels = ("LABEL_0", "LABEL_1", "LABEL_2")
    model, reference = pipeline("zero-shot-classification", "sequence_classification", labels)
    reference.model.config.label2id = {**reference.model.config.label2id, "entailment": entailment}
    options = {"candidate_labels": ["man", "fox"], "hypothesis_template": "a {}", "multi_label": True}
    results = zero_shot(
        model, tokenizer, TEXTS, ["man", "fox"], template="a {}", multi_label=True, entailment=labels[entailment]
    )
    for result, expected in zip(results, reference(TEXTS, **options), strict=True):
        assert [result.scores[label] for label in expected["labels"]] == pytest.approx(expected["scores"], abs=1e-5)
