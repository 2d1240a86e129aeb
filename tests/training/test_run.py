"""A run folder accepts the settings it was created with, and a longer run."""

import json

import jax
import pytest
from stub_lm import build, mesh_of

from deberta_jax.errors import InputError
from deberta_jax.training.config import OptimizerConfig, TrainingConfig
from deberta_jax.training.optimizer import make_optimizer
from deberta_jax.training.run import check_same_settings, check_settings, claim_folder
from deberta_jax.training.state import abstract_state

SETTINGS = {"training": {"steps": 10, "keep": 2, "seed": 0}, "epochs": 2.0, "mesh": {"data": 1}, "name": "a"}


@pytest.fixture
def folder(tmp_path):
    claim_folder(tmp_path / "run", SETTINGS)
    return tmp_path / "run"


def test_settings_that_only_move_work_may_change_and_the_file_is_replaced(folder):
    settings = SETTINGS | {"mesh": {"data": 2}, "training": {"steps": 10, "keep": 5, "seed": 0}, "rows": "abc"}
    claim_folder(folder, settings)
    assert json.loads((folder / "config.json").read_text()) == settings
    check_settings(folder, SETTINGS)
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_other_settings_are_refused_by_name(folder):
    with pytest.raises(InputError, match=r"with other settings: name \(a in the folder, b now\); training.seed \(0 in"):
        check_settings(folder, SETTINGS | {"name": "b", "training": {"steps": 10, "keep": 2, "seed": 1}})
    claim_folder(folder, SETTINGS | {"rows": "abc"})
    with pytest.raises(InputError, match=r"rows \(abc in the folder, abd now\)"):
        check_settings(folder, SETTINGS | {"rows": "abd"})


def test_steps_and_epochs_may_grow_and_never_shrink(folder):
    check_settings(folder, SETTINGS | {"epochs": 2.5, "training": {"steps": 11, "keep": 2, "seed": 0}})
    with pytest.raises(InputError, match="this run has 10 steps, and 9 would be fewer; give at least 10, or another"):
        check_settings(folder, SETTINGS | {"training": {"steps": 9, "keep": 2, "seed": 0}})
    with pytest.raises(InputError, match="this run has 2 epochs, and 1.5 would be fewer"):
        check_settings(folder, SETTINGS | {"epochs": 1.5})
    with pytest.raises(InputError, match="this run has 1234567 steps, and 1000000 would be fewer"):
        check_same_settings(folder, {"training": {"steps": 1234567}}, {"training": {"steps": 1000000}})


@pytest.mark.parametrize("content", ["[1]", "{"])
def test_a_file_that_is_no_settings_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match="config.json: "):
        check_settings(folder, SETTINGS)


@pytest.mark.parametrize(
    "config",
    [
        OptimizerConfig(),
        OptimizerConfig(name="radam", lookahead=2, schedule="warmup_linear"),
        OptimizerConfig(name="admax", clip_norm=0.0, warmup=3.0),
    ],
)
def test_the_optimizer_state_does_not_depend_on_the_number_of_steps(config):
    short, long = (abstract_state(build, make_optimizer(config, steps), 0, mesh_of(2, 2, 2)) for steps in (10, 1000))
    assert jax.tree.structure(short) == jax.tree.structure(long)
    assert jax.tree.leaves(short) == jax.tree.leaves(long)


def test_options_out_of_range_are_refused():
    with pytest.raises(InputError, match="batch_size is 0; it must be at least 1"):
        TrainingConfig(batch_size=0)
    with pytest.raises(InputError, match="steps is -1; it must be at least 0"):
        TrainingConfig(steps=-1)
