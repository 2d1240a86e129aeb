"""A branch has the checkpoint, the metrics and the tokenizer of its run, and the same settings but for the end."""

import json

import pytest

from deberta_jax.errors import InputError
from deberta_jax.training.branch import check_branch, copy_branch

SETTINGS = {"data": {"length": 512}, "training": {"steps": 1000, "seed": 0, "optimizer": {"decay_steps": 0.0}}}


@pytest.fixture
def checkpoint(tmp_path):
    """The checkpoint of step 600 of a run that has 1,000 steps."""
    run = tmp_path / "run"
    (run / "tokenizer").mkdir(parents=True)
    (run / "tokenizer" / "spm.model").write_bytes(b"pieces")
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    (run / "config.json").write_text(json.dumps(SETTINGS))
    for step in ("600", "1000"):
        (run / "checkpoints" / step).mkdir(parents=True)
        (run / "checkpoints" / step / "arrays").write_text(step)
    return run / "checkpoints" / "600"


def settings(steps=700, seed=0, length=512):
    optimizer = {"decay_steps": 100.0}
    return {"data": {"length": length}, "training": {"steps": steps, "seed": seed, "optimizer": optimizer}}


def test_a_branch_may_end_before_its_run(checkpoint):
    check_branch(checkpoint, settings())
    check_branch(checkpoint, settings(steps=5000) | {"rows": "5"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 500}, "600: this run has 600 steps, and 500 would be fewer"),
        ({"seed": 1}, r"600 contains a run with other settings: training.seed \(0 in the folder, 1 now\)"),
        ({"length": 128}, r"data.length \(512 in the folder, 128 now\)"),
    ],
)
def test_other_settings_are_refused(changes, message, checkpoint):
    with pytest.raises(InputError, match=message):
        check_branch(checkpoint, settings(**changes))


@pytest.mark.parametrize("name", ["700", "..", "600/arrays"])
def test_what_is_no_checkpoint_is_refused(name, checkpoint):
    with pytest.raises(InputError, match="no checkpoint; give the folder of a step, RUN/checkpoints/STEP"):
        check_branch(checkpoint.parent / name, settings())


def test_the_copy_is_complete_and_is_not_repeated(checkpoint, tmp_path):
    folder = tmp_path / "branch"
    (folder / "checkpoints" / "600.branch").mkdir(parents=True)  # of a copy that was killed
    copy_branch(checkpoint, folder)
    copied = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert copied == {"checkpoints/600/arrays", "metrics.jsonl", "tokenizer/spm.model"}
    (folder / "checkpoints" / "600").rename(folder / "checkpoints" / "650")
    copy_branch(checkpoint, folder)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["650"]
