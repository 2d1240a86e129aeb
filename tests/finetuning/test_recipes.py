"""Recipes: the defaults of a command are the published settings of its task and model."""

import json
from collections import Counter

import pytest

from deberta_jax.errors import InputError
from deberta_jax.finetuning.class_weights import class_weights
from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.finetuning.published import GRIDS, MAX_LENGTHS, PUBLISHED
from deberta_jax.finetuning.recipes import Selection, max_length_of, preset_of, published, published_grid, recipe
from deberta_jax.presets import PRESETS
from deberta_jax.tasks.catalogue import DESCRIPTIONS
from deberta_jax.tasks.superglue import SUPERGLUE


def test_a_released_model_is_recognized_by_its_name_and_by_its_config(tmp_path):
    assert preset_of("microsoft/deberta-v3-large") == "v3-large"
    assert preset_of("microsoft/deberta-base") == "v1-base"
    assert preset_of("microsoft/deberta-v2-xxlarge") == "v2-xxlarge"
    assert preset_of("microsoft/mdeberta-v3-base") == "mdeberta-v3-base"
    assert preset_of("microsoft/deberta-large-mnli") == "v1-large"
    assert preset_of("somebody/else") is None
    (tmp_path / "config.json").write_text(json.dumps(PRESETS["v3-xsmall"].to_dict()))
    assert preset_of(str(tmp_path)) == "v3-xsmall"


def test_the_defaults_are_the_published_settings_of_the_task_and_the_model():
    config = recipe("rte", Selection(model="microsoft/deberta-v3-large"))
    optimizer = config.optimizer
    values = config.epochs, config.batch_size, optimizer.learning_rate, optimizer.warmup, config.head_dropout
    assert values == (6.0, 32, 1e-5, 50.0, 0.3)
    assert config.max_length == 320
    assert recipe("cola", Selection(model="microsoft/deberta-v2-xxlarge")).epochs == 10


def test_adversarial_training_on_mnli_has_its_own_settings():
    model = "microsoft/deberta-v3-xsmall"
    assert recipe("mnli", Selection(model, sift_weight=3.0)).epochs == 10
    assert recipe("mnli", Selection(model)).epochs == 3


def test_without_published_settings_those_of_a_similar_model_and_task_are_used():
    assert published("rte", "v3-small") == PUBLISHED["rte"]["v1-base"]
    assert published("wic", "v3-large") == PUBLISHED["rte"]["v3-large"]
    assert published("race", "v3-large") == PUBLISHED["race"]["v1-large"]
    assert published("generic", "v3-large") is None
    assert recipe("squad2", Selection()).max_length == 384


@pytest.mark.parametrize("task", [task.name for task in SUPERGLUE if not task.trained_on])
def test_the_settings_of_superglue_for_the_largest_model_are_in_the_published_grid(task):
    config, grid = recipe(task, Selection("microsoft/deberta-v2-xxlarge", sift_weight=5.0)), GRIDS["v2-xxlarge"]
    assert config.optimizer.learning_rate in grid.learning_rates
    assert grid.batch_size[0] <= config.batch_size <= grid.batch_size[1]
    # The script for COPA has 30 warm-up steps.
    assert task == "copa" or grid.warmup[0] <= config.optimizer.warmup <= grid.warmup[1]


def test_the_grid_is_for_tasks_without_published_settings(tmp_path):
    grid = published_grid("boolq", "microsoft/deberta-v2-xxlarge")
    assert grid == GRIDS["v2-xxlarge"]
    assert str(grid) == "learning rate 1e-06, 3e-06, 5e-06; batch size 16 to 64; warm-up 50 to 1000 steps"
    (tmp_path / "config.json").write_text(json.dumps(PRESETS["v2-xxlarge"].to_dict()))
    assert published_grid("generic", str(tmp_path)) == GRIDS["v2-xxlarge"]
    assert published_grid("record", "microsoft/deberta-v2-xxlarge") is None
    assert published_grid("boolq", "microsoft/deberta-v3-large") is None
    assert published_grid("boolq", "somebody/else") is None


def test_every_task_has_a_recipe_for_every_model():
    for task in DESCRIPTIONS:
        for preset in PRESETS:
            config = recipe(task, Selection(model=f"microsoft/deberta-{preset}"))
            assert config.task == task
            assert config.max_length == max_length_of(task) <= 512


def test_every_published_table_has_a_length_and_known_models():
    assert PUBLISHED.keys() == MAX_LENGTHS.keys()
    assert all(preset in PRESETS for settings in PUBLISHED.values() for preset in settings)


def test_a_warmup_longer_than_half_the_run_becomes_a_tenth():
    config = recipe("mnli", Selection(model="microsoft/deberta-v3-base"))
    assert config.training(50, 0).optimizer.warmup == 0.1
    assert config.training(5000, 0).optimizer.warmup == 1000


def test_class_weights_are_given_by_label_or_balanced():
    labels, counts = ("a", "b"), Counter(a=30, b=10)
    assert class_weights((), labels, counts) == ()
    assert class_weights(("balanced",), labels, counts) == pytest.approx((2 / 3, 2.0))
    assert class_weights(("b=3",), labels, counts) == (1.0, 3.0)
    for option, message in (
        ("c=1", "no label 'c'; the labels are a, b"),
        ("a=x", "'a=x' is not LABEL=NUMBER"),
        ("a=-1", "must be finite and not negative"),
    ):
        with pytest.raises(InputError, match=message):
            class_weights((option,), labels, counts)
    with pytest.raises(InputError, match="class_weights need a task with labels"):
        class_weights(("balanced",), (), Counter())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0.0}, "epochs is 0.0; it must be a positive number"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1.0; it must be in \[0, 1\)"),
        ({"patience": -1}, "patience is -1; it must not be negative"),
    ],
)
def test_invalid_options_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        FinetuneConfig(**values)
