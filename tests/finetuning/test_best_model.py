"""The best model of a run is saved, whichever step it is, and a run without improvement ends."""

import dataclasses
import json

import pytest

from deberta_jax.finetuning import best_model
from deberta_jax.finetuning.best_model import BestModel
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.outcomes import Outcome
from deberta_jax.inference.buckets import Batching
from deberta_jax.tasks.catalogue import TASKS


@pytest.fixture
def evaluated(tmp_path, monkeypatch, tokenizer):
    """A function that evaluates after steps 10, 20, ...; returns the saved steps, the end and the best metrics."""
    saved = []
    monkeypatch.setattr(best_model, "predict", lambda *arguments: [Outcome("1")])
    monkeypatch.setattr(best_model, "save_pretrained", lambda folder, model, tokenizer: saved.append(model))

    def run(accuracies, *, patience=0, first=10, metric="accuracy"):
        scores = iter(accuracies)
        task = dataclasses.replace(
            TASKS["sst-2"], metrics=lambda examples, predictions: {metric: next(scores)}, best_metric=metric
        )
        best = BestModel(
            task,
            KINDS["single_label"],
            tokenizer,
            [],
            tmp_path,
            Batching(),
            merge=lambda model: model,
            patience=patience,
            evaluate_every=10,
        )
        saved.clear()
        for number in range(len(accuracies)):
            step = first + 10 * number
            # In place of a model, its step.
            best.evaluate(step, step, lambda: None)
            if best.should_end(step):
                return list(saved), step, best.metrics
        return list(saved), None, best.metrics

    return run


def test_each_better_model_is_saved_and_the_first_of_equals_is_kept(evaluated):
    assert evaluated([0.5, 0.7, 0.6, 0.7]) == ([10, 20], None, {"accuracy": 0.7})


def test_a_run_ends_after_several_evaluations_without_improvement(evaluated):
    assert evaluated([0.5, 0.7, 0.6, 0.7, 0.9], patience=2) == ([10, 20], 40, {"accuracy": 0.7})


def test_a_smaller_error_is_better_also_for_the_end(evaluated):
    assert evaluated([0.5, 0.3, 0.3, 0.7, 0.2], metric="rmse") == ([10, 20, 50], None, {"rmse": 0.2})
    assert evaluated([0.5, 0.3, 0.3, 0.7, 0.2], patience=2, metric="log_loss") == ([10, 20], 40, {"log_loss": 0.3})


def test_a_resumed_run_continues_the_history_of_its_metrics(evaluated, tmp_path):
    lines = [{"step": step, "split": "held_out", "accuracy": value} for step, value in ((10, 0.5), (20, 0.7))]
    lines.append({"step": 20, "split": "train", "loss": 0.1, "accuracy": 0.99})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert evaluated([0.6, 0.7], patience=2, first=30) == ([], 40, {"accuracy": 0.7})
