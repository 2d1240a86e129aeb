"""Train the stub in a folder, in this process; or as a script with the arguments: folder, options as JSON."""

import functools
import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from stub_lm import StubLM, make_batch

from deberta_jax.cli.main import end_command
from deberta_jax.errors import StopRequested
from deberta_jax.pretraining.objectives import masked_lm_objective
from deberta_jax.processes.config import ProcessesConfig
from deberta_jax.processes.join import join, leave_group
from deberta_jax.sharding import make_mesh
from deberta_jax.training.config import MeshConfig, OptimizerConfig, TrainingConfig
from deberta_jax.training.loop import held_out_evaluation, train
from deberta_jax.training.method import one_objective
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
    share = batch_share(make_mesh(mesh.data, mesh.fsdp, mesh.tensor))
    return {name: values[share.rows(len(values))] for name, values in batch.items()}


def stub_method(config):
    return _stub_method(config.steps, config.optimizer)


@functools.cache
def _stub_method(steps, optimizer):
    """A method whose step is traced and compiled once per mesh, not once per run."""
    config = TrainingConfig(steps=steps, optimizer=optimizer)
    method = one_objective(config, lambda key: StubLM(key=key, dropout=0.1), masked_lm_objective)
    compiled = {}

    def make_step(shardings):
        mesh = shardings.step.mesh
        if mesh not in compiled:
            compiled[mesh] = method.make_step(shardings)
        return compiled[mesh]

    return method._replace(make_step=make_step)


@functools.cache
def stub_evaluation(steps, optimizer, mesh):
    held_out = lambda: (of_this_process(make_batch(10_000 + k), mesh) for k in range(3))  # noqa: E731
    return held_out_evaluation(_stub_method(steps, optimizer), make_mesh(mesh.data, mesh.fsdp, mesh.tensor), held_out)


def train_stub(
    folder, config, pause=0.0, poisoned=(), *, method=None, evaluate=None, should_end=lambda step: False, **settings
):
    """Train in a folder; `settings` are added to those that identify the run."""
    return train(
        config,
        Path(folder),
        {"training": asdict(config)} | settings,
        method or stub_method(config),
        batches=batches_of(config.mesh, pause, poisoned),
        evaluate=evaluate or stub_evaluation(config.steps, config.optimizer, config.mesh),
        should_end=should_end,
    )


if __name__ == "__main__":
    options = json.loads(sys.argv[2])
    mesh = MeshConfig(*options.pop("mesh", (2, 2, 2)))
    pause = options.pop("pause", 0.0)
    try:
        if "processes" in options:
            join(ProcessesConfig(True, *options.pop("processes")), options.pop("settings", {}))
        result = train_stub(sys.argv[1], config(mesh=mesh, **options), pause)
        leave_group()
    except StopRequested as stop:
        leave_group()
        print("stopped", stop.step, signal.Signals(stop.signal).name)
    except BaseException as error:
        sys.exit(end_command(error, ["train_stub"], []))
    else:
        print("complete", int(result.state.step))
