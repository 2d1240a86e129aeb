"""Published settings are what a command begins with, by the model that it names."""

import pytest

from deberta_jax.errors import InputError
from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.finetuning.recipes import LENGTHS, PUBLISHED, length_of, preset_of, published, recipe
from deberta_jax.presets import PRESETS
from deberta_jax.tasks.catalogue import ABOUT


def test_a_released_model_is_known_by_its_name_and_by_its_config(tmp_path):
    assert preset_of("microsoft/deberta-v3-large") == "v3-large"
    assert preset_of("microsoft/deberta-base") == "v1-base"
    assert preset_of("microsoft/deberta-v2-xxlarge") == "v2-xxlarge"
    assert preset_of("microsoft/mdeberta-v3-base") == "mdeberta-v3-base"
    assert preset_of("microsoft/deberta-large-mnli") == "v1-large"
    assert preset_of("somebody/else") is None
    import json

    (tmp_path / "config.json").write_text(json.dumps(PRESETS["v3-xsmall"].to_dict()))
    assert preset_of(str(tmp_path)) == "v3-xsmall"


def test_published_settings_are_taken_by_task_and_model():
    config = recipe("rte", ["--data", "x", "--model", "microsoft/deberta-v3-large"])
    its = config.epochs, config.batch_size, config.optimizer.learning_rate, config.optimizer.warmup, config.head_dropout
    assert its == (6.0, 32, 1e-5, 50.0, 0.3)
    assert config.max_length == 320
    assert recipe("cola", ["--model=microsoft/deberta-v2-xxlarge"]).epochs == 10


def test_with_adversarial_training_mnli_has_its_own_settings():
    words = ["--model", "microsoft/deberta-v3-xsmall", "--sift.weight", "3"]
    assert recipe("mnli", words).epochs == 10
    assert recipe("mnli", words[:2]).epochs == 3


def test_where_nothing_was_published_the_nearest_is_taken():
    assert published("rte", "v3-small") == PUBLISHED["rte"]["v1-base"]
    assert published("wic", "v3-large") == PUBLISHED["rte"]["v3-large"]
    assert published("race", "v3-large") == PUBLISHED["race"]["v1-large"]
    assert published("generic", "v3-large") is None
    assert recipe("squad2", []).max_length == 384


@pytest.mark.parametrize("task", ABOUT)
def test_every_task_has_a_recipe_for_every_model(task):
    for preset in PRESETS:
        config = recipe(task, ["--model", f"microsoft/deberta-{preset}"])
        assert config.task == task
        assert config.max_length == length_of(task) <= 512


def test_every_published_table_has_a_length_and_known_models():
    assert PUBLISHED.keys() == LENGTHS.keys()
    assert all(preset in PRESETS for its in PUBLISHED.values() for preset in its)


def test_a_warm_up_for_more_data_than_there_is_becomes_a_tenth():
    config = recipe("mnli", ["--model", "microsoft/deberta-v3-base"])
    assert config.training(50, 0).optimizer.warmup == 0.1
    assert config.training(5000, 0).optimizer.warmup == 1000


def test_class_weights_are_by_label_or_balanced():
    from collections import Counter

    counted = Counter(a=30, b=10)
    assert FinetuneConfig(class_weights=("balanced",)).weights_of(("a", "b"), counted) == pytest.approx((2 / 3, 2.0))
    assert FinetuneConfig(class_weights=("b=3",)).weights_of(("a", "b"), counted) == (1.0, 3.0)
    for words, message in (
        (("c=1",), "no label 'c'; there are a, b"),
        (("a=x",), "'a=x' is not LABEL=NUMBER"),
        (("a=-1",), "cannot be negative"),
    ):
        with pytest.raises(InputError, match=message):
            FinetuneConfig(class_weights=words).weights_of(("a", "b"), counted)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0.0}, "epochs is 0.0; a positive number"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1.0; it must be in \[0, 1\)"),
        ({"patience": -1}, "patience is -1; it cannot be negative"),
    ],
)
def test_options_that_mean_nothing_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        FinetuneConfig(**values)
