"""Train the stub in a folder, in this process; or as a script with the arguments: folder, options as JSON."""

import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from stub_lm import StubLM, make_batch

from deberta_jax.errors import InputError, StopRequested
from deberta_jax.pretraining.objectives import masked_lm
from deberta_jax.sharding import make_mesh
from deberta_jax.training.config import MeshConfig, OptimizerConfig, ProcessesConfig, TrainingConfig
from deberta_jax.training.loop import held_out_evaluation, train
from deberta_jax.training.method import one_objective
from deberta_jax.training.processes import join
from deberta_jax.training.step import batch_share

STEPS = 30


def config(**changes):
    defaults = {
        "steps": STEPS,
        "batch_size": 24,
        "optimizer": OptimizerConfig(learning_rate=0.01),
        "mesh": MeshConfig(data=2, fsdp=2, tensor=2),
        "evaluate_every": 10,
        "checkpoint_every": 7,
        "stop_after": 3,
    }
    return TrainingConfig(**(defaults | changes))


def batches_of(mesh, pause=0.0, poisoned=()):
    def batches(k):
        while True:
            time.sleep(pause)
            batch = make_batch(k)
            if k in poisoned:
                batch["label_weights"][:] = np.nan
            yield of_this_process(batch, mesh)
            k += 1

    return batches


def of_this_process(batch, mesh):
    index, count = batch_share(make_mesh(mesh.data, mesh.fsdp, mesh.tensor))
    rows = len(batch["labels"]) // count
    return {name: values[rows * index : rows * (index + 1)] for name, values in batch.items()}


def stub_method(config):
    return one_objective(config, lambda key: StubLM(key=key, dropout=0.1), masked_lm)


def train_stub(
    folder, config, pause=0.0, poisoned=(), *, method=None, evaluate=None, should_end=lambda step: False, **settings
):
    """Train in a folder; `settings` are added to those that identify the run."""
    method = method or stub_method(config)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    held_out = lambda: (of_this_process(make_batch(10_000 + k), config.mesh) for k in range(3))  # noqa: E731
    return train(
        config,
        Path(folder),
        {"training": asdict(config)} | settings,
        method,
        batches=batches_of(config.mesh, pause, poisoned),
        evaluate=evaluate or held_out_evaluation(method, mesh, held_out),
        should_end=should_end,
    )


if __name__ == "__main__":
    options = json.loads(sys.argv[2])
    mesh = MeshConfig(*options.pop("mesh", (2, 2, 2)))
    pause = options.pop("pause", 0.0)
    join(ProcessesConfig(True, *options.pop("processes")) if "processes" in options else ProcessesConfig())
    try:
        result = train_stub(sys.argv[1], config(mesh=mesh, **options), pause)
    except InputError as error:
        print(error)
        sys.exit(2)
    except StopRequested as stop:
        print("stopped", stop.step, signal.Signals(stop.signal).name)
    else:
        print("complete", int(result.state.step))
