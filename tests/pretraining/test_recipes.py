"""Recipes: their defaults for both objectives, and the published values."""

import pytest

from deberta_jax.data.masking import Masking
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.config import RtdConfig
from deberta_jax.pretraining.recipes import PUBLISHED, RECIPES, Selection, recipe


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("objective", ["mlm", "rtd"])
def test_every_recipe_supports_both_objectives_in_different_folders(name, objective):
    default, config = recipe(name), recipe(name, Selection(objective))
    assert recipe(name, Selection()) == default
    assert config.objective == objective and config.recipe == name
    assert (config == default) == (objective == default.objective) == (config.folder == default.folder)
    masking = config.data.masking
    assert masking.mask_share == (1.0 if objective == "rtd" else 0.8)
    assert (masking.whole_words, masking.keep_share) == ((False, 0.0) if objective == "rtd" else (True, 0.1))
    assert config.evaluation_masking().mode == "uniform"


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_v3_recipes_have_the_values_of_the_paper_and_of_the_repository(name):
    for source, published in PUBLISHED[name].items():
        config = recipe(name if source == "paper" else f"{name}-{source}")
        training, optimizer = config.training, config.training.optimizer
        values = training.batch_size, training.steps, optimizer.learning_rate, optimizer.warmup, optimizer.beta2
        assert values == (
            published.batch_size,
            published.steps,
            published.learning_rate,
            published.warmup,
            published.beta2,
        )
        assert config.rtd == RtdConfig("gdes", "decoupled", published.loss_weight, None, "microsoft")
        names = (optimizer.name, optimizer.schedule, config.data.masking.mode)
        assert names == (
            ("adamw", "linear", "uniform") if source == "paper" else ("microsoft_adam", "warmup_linear", "tail_biased")
        )


@pytest.mark.parametrize(("name", "rate"), [("v1-base", 2e-4), ("v1-large", 2e-4), ("v2-xxlarge", 1.5e-4)])
def test_v1_and_v2_recipes_have_the_values_of_the_paper(name, rate):
    config = recipe(name)
    training, optimizer = config.training, config.training.optimizer
    assert (training.steps, training.batch_size, optimizer.learning_rate) == (1_000_000, 2048, rate)
    assert (optimizer.warmup, optimizer.schedule, optimizer.final_scale) == (10_000, "linear", 0)
    assert (optimizer.beta1, optimizer.beta2, optimizer.epsilon) == (0.9, 0.999, 1e-6)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (0.01, 1.0)
    model = PRESETS[config.model]
    assert (model.hidden_dropout_prob, model.attention_probs_dropout_prob) == (0.1, 0.1)
    assert config.data.masking.max_ngram == 3


def test_the_masking_of_each_objective_is_the_originals():
    assert recipe("v3-base").data.masking == Masking(0.15, 1, False, 1.0, 0.0, "uniform")
    assert recipe("v3-base", Selection("mlm")).data.masking == Masking()
    assert recipe("v1-base").data.masking == Masking()
