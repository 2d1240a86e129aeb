"""Runs on tables as people have them: several columns of labels, missing labels, words of white space."""

import json
import random

import jax.numpy as jnp
import numpy as np
import pytest
from separable import filled
from toy_runs import call, read_json

from deberta_jax.finetuning.kinds.token import first_tokens, text_of_words
from deberta_jax.finetuning.objectives import classification_objective
from deberta_jax.tokenizers.tokenizer import Tokenizer

OPTIONS = ("--max-length", "16", "--epochs", "6", "--batch-size", "16", "--optimizer.learning-rate", "2e-2")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def finetune(pretrained, tmp_path):
    """A function that writes train.jsonl and dev.jsonl with rows `row(text, is_first_keyword)` and trains on them."""

    def run(row, *options):
        for split, count in (("train", 96), ("dev", 16)):
            rng = random.Random(count)
            rows = [row(filled(rng, ("shells", "eats")[number % 2]), number % 2 == 0) for number in range(count)]
            write(tmp_path / f"{split}.jsonl", rows)
        folder = tmp_path / "run"
        words = ("finetune", "generic", "--data", tmp_path, "--model", pretrained, "--folder", folder)
        assert call(*words, *OPTIONS, *options) == 0
        return folder

    return run


def test_several_numbers_are_predicted_at_once(finetune):
    columns = ("--columns.kind", "regression", "--columns.label", "cohesion", "syntax")
    folder = finetune(
        lambda text, first: {"text": text, "cohesion": 2.0 * first - 1, "syntax": 1.0 - 2 * first}, *columns
    )
    assert list(read_json(folder / "model/config.json")["id2label"].values()) == ["cohesion", "syntax"]
    metrics = read_json(folder / "metrics.json")["dev"]
    assert metrics["spearman/cohesion"] > 0.8 and metrics["spearman/syntax"] > 0.8
    lines = [json.loads(line) for line in (folder / "predictions/predictions-dev.jsonl").read_text().splitlines()]
    assert all(len(line["prediction"]) == 2 for line in lines)
    assert "Numbers of syntax" in (folder / "report.html").read_text()


def test_probabilities_of_labels_are_learned_and_rows_without_a_label_are_predicted(finetune, capfd):
    count = iter(range(1000))

    def row(text, first):
        missing = next(count) in (3, 5, 7)
        return {"text": text, "yes": None if missing else 0.9 if first else 0.2, "no": 0.1 if first else 0.8}

    folder = finetune(row, "--columns.label", "yes", "no")
    assert "96 rows, 96 used, 3 without a label" in capfd.readouterr().out
    metrics = read_json(folder / "metrics.json")
    assert metrics.keys() == {"dev"} and metrics["dev"]["accuracy"] > 0.9
    lines = (folder / "predictions/predictions-unlabelled.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"id": str(line), "prediction": "no"} for line in (4, 6, 8)]


def test_soft_labels_have_the_cross_entropy_of_their_probabilities():
    logits = jnp.asarray([[1.0, 2.0, 0.5], [0.1, -1.0, 3.0]], np.float32)
    shares = jnp.asarray([[0.2, 0.5, 0.3], [0.0, 0.0, 1.0]], np.float32)
    mask = jnp.ones((2, 4), np.int32)
    batch = {"labels": jnp.asarray([1, 2], np.int32), "weights": jnp.ones(2, np.float32), "attention_mask": mask}
    sums = classification_objective().sums(logits, batch | {"probabilities": shares})
    log_probabilities = logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True))
    assert float(sums.loss) == pytest.approx(-float((shares * log_probabilities).sum()), rel=1e-6)
    hard = classification_objective().sums(logits, batch)
    one_hot = classification_objective().sums(logits, batch | {"probabilities": jnp.eye(3, dtype=np.float32)[1:]})
    assert float(hard.loss) == pytest.approx(float(one_hot.loss), rel=1e-6)


def test_words_of_white_space_have_no_tokens(pretrained):
    words = ("\n\n", "she", " ", "eats", "\t", "", "shells", "\u00a0")
    text = text_of_words(words)
    assert text == "she eats shells"
    offsets = np.asarray(Tokenizer(pretrained)([text]).offsets)[0, 1:-1]
    firsts = first_tokens(words, offsets)
    assert [index >= 0 for index in firsts] == [False, True, False, True, False, False, True, False]
    assert [text[start:end].strip() for start, end in offsets[firsts[firsts >= 0]]] == ["she", "eats", "shells"]


def test_each_answer_of_multirc_is_predicted_although_it_is_empty(pretrained, tmp_path):
    def passage(number):
        texts = ["shells", "", None, "eats"]
        answers = [{"idx": 4 * number + k, "text": text, "label": k % 2} for k, text in enumerate(texts)]
        question = {"idx": number, "question": "she eats ?" if number % 2 else "", "answers": answers}
        return {"idx": number, "passage": {"text": "she eats shells", "questions": [question]}}

    write(tmp_path / "train.jsonl", map(passage, range(4)))
    write(tmp_path / "val.jsonl", map(passage, range(3)))
    folder = tmp_path / "run"
    words = ("finetune", "multirc", "--data", tmp_path, "--model", pretrained, "--folder", folder)
    assert call(*words, "--max-length", "16", "--epochs", "1", "--batch-size", "16") == 0
    (path,) = (folder / "predictions").iterdir()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    answers = [
        answer["idx"] for line in lines for question in line["passage"]["questions"] for answer in question["answers"]
    ]
    assert answers == list(range(12))
