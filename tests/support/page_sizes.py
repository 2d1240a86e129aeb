"""Toy sizes in place of those that the pages write, and of those that recipes have by default.

A command runs as it is written, except for these words: numbers of steps, also in the names of checkpoints, are divided
by `STEPS`, the steps of a run without `--optimizer.decay-steps` by `ALL_STEPS`, batch sizes of pretraining by
`SEQUENCES`, and the numbers in `REPLACED` are smaller. One process with one device replaces those of several hosts,
paths from the root of the file system begin in the current folder, and `owner` is the user of the mock hub. Figures are
files of one pixel, because other tests draw them.
"""

import dataclasses
import re

from matplotlib.figure import Figure
from page_models import TOY_PRESETS
from PIL import Image

from deberta_jax.data import documentation
from deberta_jax.finetuning import bootstrap
from deberta_jax.finetuning import recipes as finetuning
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining import recipes as pretraining

STEPS, ALL_STEPS, SEQUENCES = 5_000, 50_000, 64
STEP_OPTIONS = "--keep-every", "--optimizer.decay-steps"
LENGTH, VOCABULARY = "32", "350"
REPLACED = {
    ("--folds", "5"): "3",
    ("--length", "512"): LENGTH,
    ("--mesh.fsdp", "16"): "1",
    ("--seeds", "5"): "2",
    ("--topology", "v5e:4x4"): "local",
    ("--trials", "12"): "2",
    ("--trials", "20"): "2",
    ("--vocabulary", "128000"): VOCABULARY,
    ("--workers", "16"): "2",
}
# Options that are added to commands without recipes.
ADDED = {"prepare": {"--length": LENGTH, "--shards": "40"}, "tokenizer": {"--vocabulary": VOCABULARY}}


def toy_sizes(words):
    """The words of a command with toy sizes."""
    command, added = words[0], ADDED.get(words[0], {})
    pairs = zip(["", *words], words, strict=False)
    total = STEPS if "--optimizer.decay-steps" in words else ALL_STEPS
    replaced = [_replaced(command, option, word, total) for option, word in pairs if word != "--processes.join"]
    return [*replaced, *(word for option in added if option not in words for word in (option, added[option]))]


def _replaced(command, option, word, total):
    if option == "--steps":
        return str(int(word) // total)
    if option in STEP_OPTIONS:
        return str(int(word) // STEPS)
    if option == "--batch-size" and command in ("pretrain", "plan"):
        return str(int(word) // SEQUENCES)
    if command == "python":
        return word
    word = re.sub(r"(?<=checkpoints/)\d+$", lambda match: str(int(match[0]) // STEPS), word)
    word = re.sub(r"^owner/", "me/", re.sub(r"^(\w+=)?/", r"\1", word))
    return REPLACED.get((option, word), word)


def use_toy_sizes(monkeypatch):
    """Replace the presets by toy models, and the defaults of recipes by a few steps of small batches."""
    for name, config in TOY_PRESETS.items():
        monkeypatch.setitem(PRESETS, name, config)
    for name, (description, config) in pretraining._RECIPES.items():
        monkeypatch.setitem(pretraining._RECIPES, name, (description, _short_run(config)))
    for key, changes in pretraining._CHANGES.items():
        monkeypatch.setitem(pretraining._CHANGES, key, changes | {"training": _few_steps(changes["training"])})
    recipe = finetuning.recipe
    monkeypatch.setattr(
        finetuning, "recipe", lambda *words: dataclasses.replace(recipe(*words), epochs=1.0, max_length=64)
    )
    monkeypatch.setattr(documentation, "_MAX_CHARACTERS", 200_000)
    monkeypatch.setattr(bootstrap, "_SETS", 20)
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: Image.new("RGB", (1, 1)).save(path, "png"))


def _short_run(config):
    data = dataclasses.replace(config.data, length=(LENGTH,), evaluate_batches=2)
    training = _few_steps(config.training)
    return dataclasses.replace(config, vocabulary=int(VOCABULARY), dtype="float32", data=data, training=training)


def _few_steps(training):
    """Four steps; checkpoints are kept as often as recipes keep them, after 50,000 steps divided by `STEPS`."""
    optimizer = dataclasses.replace(training.optimizer, warmup=min(training.optimizer.warmup, 10_000 / STEPS))
    return dataclasses.replace(
        training, optimizer=optimizer, steps=4, batch_size=8, evaluate_every=10, checkpoint_every=10, keep_every=10
    )
