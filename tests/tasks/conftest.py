"""The toy files of each task, written and read once."""

import pytest
from toy_tasks import write_toy_task

from deberta_jax.tasks.catalogue import TASKS, find_splits, load


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A function from a task's name to the examples of each split of its toy files."""
    splits = {}

    def read(name):
        if name not in splits:
            task, folder = TASKS[name], write_toy_task(name, tmp_path_factory.mktemp(name))
            splits[name] = {split: load(task, paths, split) for split, paths in find_splits(task, folder).items()}
        return splits[name]

    return read
