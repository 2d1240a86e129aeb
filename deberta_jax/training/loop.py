"""The training loop."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from deberta_jax.errors import InputError
from deberta_jax.model.shardings import shardings
from deberta_jax.sharding import make_mesh
from deberta_jax.training.checkpoint import Checkpointer
from deberta_jax.training.flops import peak_flops
from deberta_jax.training.method import TrainingMethod
from deberta_jax.training.preemption import Preemption
from deberta_jax.training.recorder import Recorder
from deberta_jax.training.run import TrainingConfig, claim_folder
from deberta_jax.training.state import TrainState, abstract_state, initial_state
from deberta_jax.training.step import check_batch_size, make_evaluation, place

HostBatch = Mapping[str, np.ndarray]
# What a model is worth after a number of steps; None where it was asked, by the function it is given, to stop.
Judge = Callable[[int, Any, Callable[[], bool]], dict[str, float] | None]


class Source(Protocol):
    """Batches one after another, until closed."""

    def __next__(self) -> HostBatch: ...
    def close(self) -> None: ...


class Trained(NamedTuple):
    """A state, whether its run is complete, and how it does on held-out data (empty for a run that was stopped)."""

    state: TrainState
    complete: bool
    held_out: dict[str, float]


def train(
    config: TrainingConfig,
    folder: Path,
    settings: Mapping[str, Any],
    method: TrainingMethod,
    batches: Callable[[int], Source],
    judge: Judge,
    flops: int = 0,
    start: Callable[[], Any] | None = None,
    ended: Callable[[int], bool] = lambda step: False,
) -> Trained:
    """Train a model by a method, in a run's folder: anew, or on from its newest checkpoint.

    Anew it is the model that `start` returns, laid out as the method's, or one that the method builds.

    `batches(k)` yields batches k, k + 1, ..., of each the rows that are this process's. `settings` is all that makes
    the run what it is, as JSON; a folder of other settings is refused. `flops` are those of a step, to show how well
    the devices are used. `judge` says at intervals what the model is worth, after which `ended` may end the run. The
    same call again goes on where the last one stopped, to the last bit. Asked to stop (SIGTERM), it saves and returns
    early.
    """
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    check_batch_size(config.batch_size, mesh, config.accumulate)
    abstract = abstract_state(method.build, method.optimizer, config.seed, mesh)
    step = method.make_step(shardings(abstract, mesh))
    if jax.process_index() == 0:
        claim_folder(folder, settings)

    with (
        Preemption() as preemption,
        closing(Checkpointer(folder / "checkpoints", config.keep, config.keep_every)) as checkpointer,
    ):
        restored = checkpointer.restore_latest(abstract)
        state = restored[0] if restored else _first_state(config, method, mesh, start)
        first = number = int(state.step)
        peak = mesh.size * (peak_flops(mesh.devices.flat[0].device_kind) or 0.0)
        with closing(batches(first)) as source, closing(Recorder(folder, config.steps, first, flops, peak)) as recorder:

            def judged() -> dict[str, float] | None:
                found = judge(number, state.model, lambda: preemption.asked)
                recorder.evaluation(number, found)
                if found and (warning := method.warning(number, found)):
                    recorder.say(f"warning: {warning}")
                return found

            recorder.say(f"going on from step {first}" if restored else f"training in {folder}")
            found = None
            if first and first % config.evaluate_every == 0 and first < config.steps:
                # It may have been stopped before it could.
                found = judged()
            done = number == config.steps or (first > 0 and ended(number))
            while not done:
                number, found = number + 1, None
                state, metrics = step(state, place(next(source), mesh))
                recorder.step(number, metrics)
                _stop_if_diverged(recorder, config.stop_after, checkpointer)
                done = number == config.steps
                if number % config.evaluate_every == 0 and not done:
                    found = judged()
                    done = found is not None and ended(number)
                asked = preemption.reached(number)
                if asked or done or number % config.checkpoint_every == 0:
                    recorder.flush()
                    _stop_if_diverged(recorder, config.stop_after, checkpointer)
                    checkpointer.save(state, {"next_batch": number, "settings": dict(settings)})
                if asked:
                    recorder.say(f"stopped after step {number}; the same command goes on from there")
                    return Trained(state, False, {})
            found = found or judged()
            if found is None:
                recorder.say("stopped before the last evaluation; the same command goes on from there")
                return Trained(state, False, {})
            recorder.plot()
            return Trained(state, True, found)


def _first_state(
    config: TrainingConfig, method: TrainingMethod, mesh: Mesh, start: Callable[[], Any] | None
) -> TrainState:
    return initial_state(method.build, method.optimizer, config.seed, mesh, start() if start else None)


def over_batches(method: TrainingMethod, mesh: Mesh, batches: Callable[[], Iterable[HostBatch]]) -> Judge:
    """What the method says of all held-out batches together."""
    evaluate = make_evaluation(method.evaluate, mesh)

    def judge(step: int, model: Any, asked: Callable[[], bool]) -> dict[str, float] | None:
        total = None
        for number, batch in enumerate(batches()):
            sums = jax.tree.map(np.float64, jax.device_get(evaluate(model, place(batch, mesh), number)))
            total = sums if total is None else jax.tree.map(np.add, total, sums)
            if asked():
                return None
        if total is None:
            raise InputError("no held-out batch to evaluate on: hold out more text")
        return method.summarise(total)

    return judge


def _stop_if_diverged(recorder: Recorder, stop_after: int, checkpointer: Checkpointer) -> None:
    metrics, number = recorder.latest, recorder.latest_step
    if metrics.get("skipped_in_row", 0) < stop_after:
        return
    checkpointer.wait()
    good = f"the checkpoint of step {checkpointer.steps[-1]} stays" if checkpointer.steps else "nothing was saved yet"
    raise InputError(
        f"step {number} (batch {number - 1}): loss {metrics['loss']:g}, gradient norm {metrics['grad_norm']:g}; "
        f"{stop_after} steps in a row were not finite and changed nothing; {good}"
    )
