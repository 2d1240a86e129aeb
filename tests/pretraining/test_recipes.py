"""The recipes: what each is by default and by another objective, and the published values that they hold."""

import dataclasses

import pytest

from deberta_jax.data.masking import Masking
from deberta_jax.errors import InputError
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.config import PretrainConfig, generator_config
from deberta_jax.pretraining.recipes import PUBLISHED, RECIPES, recipe
from deberta_jax.pretraining.replaced_tokens import RtdConfig


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("objective", ["mlm", "rtd"])
def test_every_recipe_serves_both_objectives_each_in_a_folder_of_its_own(name, objective):
    _, of_words = RECIPES[name]
    default, chosen = of_words([]), of_words(["--steps", "5", "--objective", objective])
    assert chosen == of_words([f"--objective={objective}"])
    assert chosen.objective == objective and chosen.recipe == name
    assert (chosen == default) == (objective == default.objective) == (chosen.folder == default.folder)
    masking = chosen.data.masking
    assert masking.mask_share == (1.0 if objective == "rtd" else 0.8)
    assert (masking.whole_words, masking.keep_share) == ((False, 0.0) if objective == "rtd" else (True, 0.1))
    assert chosen.evaluation_masking().mode == "uniform"


def test_an_objective_that_there_is_not_is_left_for_the_command_line_to_refuse():
    assert RECIPES["tiny"][1](["--objective", "clm"]) == recipe("tiny")


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_version_3_trains_by_the_papers_values_and_in_a_recipe_of_its_own_by_the_repositorys(name):
    for source, its in PUBLISHED[name].items():
        config = recipe(name if source == "paper" else f"{name}-{source}")
        training, optimizer = config.training, config.training.optimizer
        found = training.batch_size, training.steps, optimizer.learning_rate, optimizer.warmup, optimizer.beta2
        assert found == (its.batch_size, its.steps, its.learning_rate, its.warmup, its.beta2)
        assert config.rtd == RtdConfig("gdes", "decoupled", its.loss_weight, None, "microsoft")
        faithful = (optimizer.name, optimizer.schedule, config.data.masking.mode)
        assert faithful == (
            ("adamw", "linear", "uniform") if source == "paper" else ("microsoft_adam", "warmup_linear", "tail_biased")
        )


@pytest.mark.parametrize("name", ["v3-xsmall", "v3-small", "v3-base", "v3-large"])
def test_a_generator_has_half_of_the_layers(name):
    assert generator_config(PRESETS[name]) == PRESETS[f"{name}-generator"]
    assert generator_config(PRESETS["tiny"]).num_hidden_layers == 2


def test_settings_name_what_an_objective_uses():
    mlm, rtd = (recipe("tiny", objective).settings() for objective in ("mlm", "rtd"))
    assert rtd.keys() - mlm.keys() == {"rtd", "generator"}
    assert not {"folder", "processes", "recipe"} & rtd.keys()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rtd": RtdConfig(sharing="none")}, "options of rtd are given, and the objective is mlm"),
        ({"generator": "somewhere"}, "generator is for objective rtd; for mlm give start"),
        ({"objective": "rtd", "generator": "fresh"}, "generator fresh goes with start"),
    ],
)
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        PretrainConfig(**wrong)


def test_masking_of_the_objectives_is_the_originals():
    assert recipe("v3-base").data.masking == Masking(0.15, 1, False, 1.0, 0.0, "uniform")
    assert recipe("v3-base", "mlm").data.masking == Masking()
    assert dataclasses.replace(recipe("v1-base")).data.masking == Masking()
