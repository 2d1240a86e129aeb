"""Ranking documents: scores, their order, long documents, and the activation that a folder names."""

import inspect
import json

import numpy as np
import pytest
from inference_models import random_model
from scipy.special import expit, softmax

from deberta_jax.errors import InputError
from deberta_jax.hub.pretrained import from_pretrained, save_pretrained
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.classification import class_logits, classify
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.inference.ranking import encode_windows, rank, rank_pipeline
from deberta_jax.inference.scoring import score
from deberta_jax.inference.stream import stream
from deberta_jax.model.surgery import with_config
from deberta_jax.tokenizers.tokenizer import Tokenizer

QUERY = "A fox"
DOCUMENTS = ["The dog eats.", "Over the sea", "A man eats.", "sea", "fox fox"]
LONG = " ".join(["sea fox dog man"] * 10)
IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
SETTINGS = {
    "none": {"sentence_transformers": {"activation_fn": IDENTITY, "version": "4.1.0"}},
    "old none": {"sbert_ce_default_activation_function": IDENTITY},
    "sigmoid": {"sentence_transformers": {"activation_fn": SIGMOID}},
    "absent": {"sentence_transformers": {"version": "4.1.0"}, "sbert_ce_default_activation_function": None},
}


def reranker(**extra):
    """A model with one label, whose config has these further keys."""
    return with_config(random_model("sequence_classification", labels=("LABEL_0",)), extra=extra)


@pytest.fixture(scope="module")
def logits(tokenizer):
    return score(reranker(), tokenizer, [QUERY] * len(DOCUMENTS), DOCUMENTS)


def test_documents_are_sorted_by_score_and_the_score_is_the_sigmoid_of_the_logit(tokenizer, logits):
    ranked = rank(reranker(), tokenizer, QUERY, DOCUMENTS)
    assert [item.index for item in ranked] == np.argsort(-logits).tolist()
    assert [item.document for item in ranked] == [DOCUMENTS[item.index] for item in ranked]
    np.testing.assert_allclose([item.score for item in ranked], np.sort(expit(logits))[::-1], rtol=1e-5)
    assert rank(reranker(), tokenizer, QUERY, DOCUMENTS, top=2) == ranked[:2]
    assert rank(reranker(), tokenizer, QUERY, DOCUMENTS, top=None) == ranked
    assert rank(reranker(), tokenizer, QUERY, []) == []


def test_ties_are_sorted_by_index_and_ten_documents_are_returned_by_default(tokenizer):
    ranked = rank(reranker(), tokenizer, QUERY, ["sea"] * 12)
    assert [item.index for item in ranked] == list(range(10))


@pytest.mark.parametrize("name", SETTINGS)
def test_the_activation_that_the_folder_names_survives_saving(tokenizer, tmp_path, logits, name):
    save_pretrained(tmp_path, reranker(**SETTINGS[name]), tokenizer)
    model, _ = from_pretrained(tmp_path, "sequence_classification")
    expected = logits if "none" in name else expit(logits)
    scores = {item.index: item.score for item in rank(model, tokenizer, QUERY, DOCUMENTS)}
    np.testing.assert_allclose([scores[index] for index in range(len(DOCUMENTS))], expected, rtol=1e-4)
    config = json.loads((tmp_path / "config.json").read_text())
    assert {key: config[key] for key in SETTINGS[name]} == SETTINGS[name]


def test_the_file_of_sentence_transformers_6_names_the_activation(tokenizer, tmp_path, logits):
    save_pretrained(tmp_path / "a", reranker(), tokenizer)
    settings = {"model_type": "CrossEncoder", "activation_fn": IDENTITY}
    (tmp_path / "a" / "config_sentence_transformers.json").write_text(json.dumps(settings))
    model, _ = from_pretrained(tmp_path / "a", "sequence_classification")
    save_pretrained(tmp_path / "b", model, tokenizer)
    for folder in "ab":
        model, _ = from_pretrained(tmp_path / folder, "sequence_classification")
        scores = [item.score for item in rank(model, tokenizer, QUERY, DOCUMENTS)]
        np.testing.assert_allclose(scores, np.sort(logits)[::-1], rtol=1e-4)


def test_the_function_of_the_call_replaces_that_of_the_folder(tokenizer, logits):
    model = reranker(sentence_transformers={"activation_fn": "custom.Scale"})
    with pytest.raises(InputError, match="names the activation 'custom.Scale', which is not one of Sigmoid, Identity"):
        rank(model, tokenizer, QUERY, DOCUMENTS)
    ranked = rank(model, tokenizer, QUERY, DOCUMENTS, function="none")
    np.testing.assert_allclose([item.score for item in ranked], np.sort(logits)[::-1], rtol=1e-5)
    for settings in ({"activation_fn": "torch.nn.modules.activation.Softmax"}, {"activation_fn": 3}):
        with pytest.raises(InputError, match="softmax of a single label is always 1|names the activation '3'"):
            rank(reranker(sentence_transformers=settings), tokenizer, QUERY, DOCUMENTS)


def test_a_model_with_several_labels_ranks_by_the_probability_of_one(tokenizer):
    model = random_model("sequence_classification", labels=("no", "yes"))
    with pytest.raises(InputError, match="labels are no, yes: name the one of relevant documents with relevant="):
        rank(model, tokenizer, QUERY, DOCUMENTS)
    with pytest.raises(InputError, match="relevant is 'maybe', but the model's labels are no, yes"):
        rank(model, tokenizer, QUERY, DOCUMENTS, relevant="maybe")
    expected = classify(model, tokenizer, [QUERY] * len(DOCUMENTS), DOCUMENTS)
    for item in rank(model, tokenizer, QUERY, DOCUMENTS, relevant="yes"):
        assert item.score == pytest.approx(expected[item.index].scores["yes"])
    [logit] = rank(model, tokenizer, QUERY, DOCUMENTS[:1], relevant="yes", function="none")
    [values] = classify(model, tokenizer, [QUERY], DOCUMENTS[:1], function="none")
    assert logit.score == pytest.approx(values.values["yes"])
    assert softmax(list(values.values.values()))[1] == pytest.approx(expected[0].scores["yes"], rel=1e-4)


def test_a_long_document_is_truncated_or_has_the_score_of_its_best_window(tokenizer, logits, caplog):
    documents = [LONG, *DOCUMENTS, LONG + " eats"]
    truncated = rank(reranker(), tokenizer, QUERY, documents, top=None, function="none")
    assert "2 of 7 texts were truncated to 16 tokens" in caplog.text
    caplog.clear()
    windowed = rank(reranker(), tokenizer, QUERY, documents, top=None, function="none", windows=True)
    assert not caplog.text
    scores = [{item.index: item.score for item in ranked} for ranked in (truncated, windowed)]
    for index, logit in enumerate(logits.tolist(), 1):
        assert scores[0][index] == pytest.approx(logit, rel=1e-4) == scores[1][index]
    rows = encode_windows(tokenizer, [(QUERY, documents)], 16)
    assert np.bincount(rows.parts)[0] > 2
    inputs = (x[rows.parts == 0] for x in (rows.batch.input_ids, rows.batch.attention_mask, rows.batch.token_type_ids))
    window_logits = class_logits(reranker(), ModelInputs(*inputs))
    assert scores[1][0] == pytest.approx(window_logits.max().item(), rel=1e-4)
    assert scores[0][0] == pytest.approx(window_logits[0, 0].item(), rel=1e-4)


def test_truncated_documents_of_a_query_are_counted(tokenizer, caplog):
    list(stream(rank_pipeline(reranker(), tokenizer), [(QUERY, [LONG, *DOCUMENTS, LONG]), (3, ["a"])]))
    assert "2 of 7 texts were truncated to 16 tokens" in caplog.text


def test_a_query_that_is_too_long_for_windows_is_named(tokenizer):
    message = r"^the query is too long: \d+ tokens leave no room for windows of documents in rows of 16 tokens; shorten"
    with pytest.raises(InputError, match=message):
        rank(reranker(), tokenizer, LONG, ["sea", *DOCUMENTS], windows=True)
    [error] = stream(rank_pipeline(reranker(), tokenizer, windows=True), [(LONG, DOCUMENTS)])
    assert isinstance(error, InputError) and str(error).startswith("the query is too long")


@pytest.mark.parametrize(
    ("stated", "limit"), [(8, 8), (8.0, 8), (512, 16), (10**30, 16), (None, 16), (2, 16), ("8", 16)]
)
def test_the_tokenizer_limits_the_length_of_pairs(stated, limit, tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": stated}))
    stating = Tokenizer(tmp_path)
    assert rank_pipeline(reranker(), stating).max_length == limit
    assert rank_pipeline(reranker(), stating, batching=Batching(max_length=12)).max_length == 12
    scores = [
        rank(reranker(), each, QUERY, [LONG], batching=Batching(max_length=size))
        for each, size in ((stating, None), (tokenizer, limit))
    ]
    assert scores[0] == scores[1]


def test_thousands_of_documents_are_ranked_in_chunks_and_buckets(tokenizer, logits):
    documents = DOCUMENTS * 300
    ranked = rank(reranker(), tokenizer, QUERY, documents, top=None, batching=Batching(chunk=512))
    assert sorted(item.index for item in ranked) == list(range(len(documents)))
    np.testing.assert_allclose([item.score for item in ranked], np.sort(expit(np.tile(logits, 300)))[::-1], rtol=1e-4)


def test_a_stream_of_queries_gives_a_ranking_for_each(tokenizer):
    examples = [(QUERY, DOCUMENTS), ("sea", DOCUMENTS[:2]), ("sea", []), ("sea", "fox"), ("sea", ["a", 3]), (3, ["a"])]
    results = list(stream(rank_pipeline(reranker(), tokenizer, top=3), examples))
    assert results[0] == rank(reranker(), tokenizer, QUERY, DOCUMENTS, top=3)
    assert [len(result) for result in results[:3]] == [3, 2, 0]
    assert [str(result) for result in results[3:]] == [
        "expected a query and a list of documents",
        "document 1: expected a string, not int: 3",
        "expected a string, not int: 3",
    ]


def test_wrong_arguments_of_rank_are_named(tokenizer):
    # Without the check of types that the tests add.
    plain = inspect.unwrap(rank)
    for arguments, message in (
        ((["A fox"], DOCUMENTS), "the query must be a string, not list: call rank for each query"),
        ((QUERY, "sea"), "expected a list of documents, not a single text: 'sea'; put it in a list"),
        ((QUERY, ["sea", None]), "document 1: expected a string, not NoneType: None"),
        ((QUERY, ["sea", "\ud83d"]), "document 1: text has a lone surrogate U\\+D83D"),
    ):
        with pytest.raises(InputError, match=f"^{message}"):
            plain(reranker(), tokenizer, *arguments)
    with pytest.raises(InputError, match="top is 0; it must be at least 1"):
        rank(reranker(), tokenizer, QUERY, DOCUMENTS, top=0)
