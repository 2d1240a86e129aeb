"""Ordinal regression: consistent ranks, the loss by hand, metrics of scikit-learn, and a saved classifier of levels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_runs import call, read_json
from toy_training import B, T

from deberta_jax.errors import InputError
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.kinds.kind import objective_with_options
from deberta_jax.finetuning.kinds.ordinal import log_cumulative
from deberta_jax.hub.pretrained import load_pretrained
from deberta_jax.inference.classification import classify
from deberta_jax.tasks.columns import Columns
from deberta_jax.tasks.examples import TextExample
from deberta_jax.tasks.ordinal import ordinal_scores, parse_ordinal
from deberta_jax.tasks.rows import UnusableRow

C = 5
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(B, C)) * 3
LABELS = RNG.integers(0, C, B)
WEIGHTS = (1.0, 2.0, 0.5, 3.0, 1.5)


def batch_of(labels):
    return {
        "labels": jnp.asarray(labels, jnp.int32),
        "weights": jnp.asarray([1] * (B - 1) + [0], jnp.float32),
        "attention_mask": jnp.ones((B, T), jnp.int32),
    }


def test_probabilities_of_higher_thresholds_are_never_larger_and_sum_to_those_of_the_levels():
    for scale in (1, 100):
        below, above = (np.exp(np.asarray(x)) for x in log_cumulative(jnp.asarray(scale * LOGITS, jnp.float32)))
        assert (np.diff(above) <= 1e-6).all() and (np.diff(below) >= -1e-6).all()
        np.testing.assert_allclose(below + above, 1, rtol=1e-5)
        probabilities = np.asarray(jax.nn.softmax(scale * LOGITS))
        np.testing.assert_allclose(below, probabilities.cumsum(-1)[:, :-1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("smoothing", "gamma"), [(0.0, 0.0), (0.1, 2.0)])
def test_the_loss_is_that_of_a_computation_by_hand(smoothing, gamma):
    task = objective_with_options(KINDS["ordinal"], WEIGHTS, smoothing, gamma)
    sums = task.sums(jnp.asarray(LOGITS, jnp.float32), batch_of(LABELS))
    total = total_weight = 0.0
    for logits, label in zip(LOGITS[:-1], LABELS[:-1].tolist(), strict=True):
        p = np.exp(logits) / np.exp(logits).sum()
        target = (1 - smoothing) * np.eye(C)[label] + smoothing / C
        losses = []
        for k in range(C - 1):
            above, is_above = p[k + 1 :].sum(), target[k + 1 :].sum()
            losses.append(
                -is_above * (1 - above) ** gamma * np.log(above) - (1 - is_above) * above**gamma * np.log(1 - above)
            )
        total, total_weight = total + WEIGHTS[label] * np.mean(losses), total_weight + WEIGHTS[label]
    assert float(sums.loss / sums.weight) == pytest.approx(total / total_weight, rel=1e-5)
    assert float(sums.weight) == pytest.approx(total_weight)


def test_a_wrong_level_costs_more_the_farther_it_is():
    task = KINDS["ordinal"].objective
    logits = jnp.asarray(np.tile(8 * np.eye(C)[0], (B, 1)), jnp.float32)
    losses = [float(task.sums(logits, batch_of([level] * B)).loss) for level in range(C)]
    assert losses == sorted(losses) and losses[0] < 0.1
    gradient = jax.grad(lambda x: task.sums(x, batch_of(LABELS)).loss)(100 * logits)
    assert np.isfinite(np.asarray(gradient)).all()


def test_metrics_are_those_of_scikit_learn_and_1_for_constant_levels():
    from sklearn.metrics import cohen_kappa_score

    true, predicted = RNG.integers(1, 6, 50).tolist(), RNG.integers(1, 6, 50).tolist()
    examples = [TextExample(str(number), "", None, str(level)) for number, level in enumerate(true)]
    scores = ordinal_scores(examples, list(map(str, predicted)))
    expected = cohen_kappa_score(true, predicted, weights="quadratic")
    assert scores["quadratic_kappa"] == pytest.approx(expected)
    assert scores["accuracy"] == np.mean(np.asarray(true) == np.asarray(predicted))
    assert scores["mean_absolute_error"] == np.abs(np.asarray(true) - np.asarray(predicted)).mean()
    assert ordinal_scores(examples, ["3"] * 50)["quadratic_kappa"] == pytest.approx(0, abs=1e-9)
    constant = [example._replace(label="3") for example in examples]
    assert ordinal_scores(constant, ["3"] * 50)["quadratic_kappa"] == 1
    assert ordinal_scores(examples, list(map(str, true)))["quadratic_kappa"] == 1


def test_levels_are_numbers_and_keep_their_order():
    row = {"text": "good", "label": "4.5"}
    assert parse_ordinal("1", row, Columns()).label == "4.5"
    with pytest.raises(
        UnusableRow, match="'low' is not a number; the levels of kind ordinal are numbers in their orde"
    ):
        parse_ordinal("1", {"text": "good", "label": "low"}, Columns())
    example = TextExample("1", "good", None, "9")
    with pytest.raises(InputError, match="the levels of --model are not in ascending order: 10, 9; start from another"):
        list(KINDS["ordinal"].encoding.targets(example, [], {"10": 0, "9": 1}, 16))


def test_the_saved_model_gives_the_level_and_the_probability_of_each(finished, tmp_path):
    folder = finished("ordinal").folder / "model"
    path = tmp_path / "predicted.jsonl"
    assert call("predict", folder, "--task", "classification", "--text", "the of shells it", "--output", path) == 0
    prediction = read_json(path)["prediction"]
    assert prediction["label"] == "2"
    model, tokenizer = load_pretrained(folder, "sequence_classification")
    (result,) = classify(model, tokenizer, ["the of shells it"])
    assert list(result.scores) == ["2", "9", "10", "11"]
    assert sum(result.scores.values()) == pytest.approx(1)
    assert (result.label, result.probability) == ("2", max(result.scores.values()))
