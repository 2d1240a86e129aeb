"""The training loop."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from deberta_jax.errors import DivergenceError, InputError, StopRequested
from deberta_jax.model.shardings import shardings
from deberta_jax.sharding import make_mesh
from deberta_jax.training.checkpoint import Checkpointer
from deberta_jax.training.chips import peak_flops
from deberta_jax.training.config import OptimizerConfig, TrainingConfig
from deberta_jax.training.method import TrainingMethod
from deberta_jax.training.optimizer import learning_rate
from deberta_jax.training.preemption import Preemption
from deberta_jax.training.recorder import Log, Recorder, no_log
from deberta_jax.training.run import claim_folder
from deberta_jax.training.state import TrainState, abstract_state, initial_state
from deberta_jax.training.step import Step, check_batch_size, make_evaluation, place
from deberta_jax.training.weight_average import averaged_model

HostBatch = Mapping[str, np.ndarray]
# (step, model, check_stop) -> metrics on held-out data. The evaluation calls `check_stop()` now and then, which raises
# StopRequested if the run was asked to stop.
Evaluation = Callable[[int, Any, Callable[[], None]], dict[str, float]]


@runtime_checkable
class BatchSource(Protocol):
    """An iterator of batches, with this process's rows of each, that can be closed."""

    def __next__(self) -> HostBatch: ...
    def close(self) -> None: ...


class TrainResult(NamedTuple):
    """The final state of a run, and its metrics on held-out data."""

    state: TrainState
    metrics: dict[str, float]


def train(
    config: TrainingConfig,
    folder: Path,
    settings: Mapping[str, Any],
    method: TrainingMethod,
    *,
    batches: Callable[[int], BatchSource],
    evaluate: Evaluation,
    should_end: Callable[[int], bool] = lambda step: False,
    initial_model: Callable[[], Any] | None = None,
    flops: Callable[[int], int] = lambda step: 0,
    log: Log = no_log,
) -> TrainResult:
    """Train a model in a run folder, from step 0 or from the latest checkpoint there.

    A resumed run continues exactly as if it had never stopped. `settings` (JSON) describe the run; a folder with other
    settings is refused, apart from a larger number of steps, which extends the run. `batches(k)` yields batches k,
    k + 1, .... `evaluate` runs every `config.evaluate_every` steps and at the end; then `should_end(step)` may end the
    run early. `initial_model` returns the model of step 0, sharded as the method's, instead of `method.build`.
    `flops` gives the FLOPs of each step, from 1, to report utilization. `log` gets all metrics that are recorded.

    Raises StopRequested after saving a checkpoint if SIGTERM or Ctrl-C arrives, DivergenceError if the loss is not
    finite for too long, and InputError if the settings differ, or a checkpoint can be neither read nor saved.
    """
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    check_batch_size(config.batch_size, mesh, config.accumulate)
    abstract = abstract_state(method.build, method.optimizer, config.seed, mesh, average=method.average)
    step_function = method.make_step(shardings(abstract, mesh))
    if jax.process_index() == 0:
        claim_folder(folder, settings)

    with (
        Preemption() as preemption,
        closing(Checkpointer(folder / "checkpoints", config.keep, config.keep_every)) as checkpointer,
    ):
        state, note = checkpointer.restore_latest(abstract) or (None, None)
        if state is None:
            model = initial_model() if initial_model else None
            state = initial_state(method.build, method.optimizer, config.seed, mesh, model, average=method.average)
        start = int(state.step)
        peak = mesh.size * (peak_flops(mesh.devices.flat[0].device_kind) or 0.0)
        recorder = Recorder(folder, config.steps, start, method.curves, flops=flops, peak_flops=peak, log=log)
        with closing(batches(start)) as source, closing(recorder):
            recorder.print(_first_line(folder, config, state, note))
            loop = _Loop(
                config=config,
                settings=settings,
                method=method,
                mesh=mesh,
                step_function=step_function,
                evaluate=evaluate,
                should_end=should_end,
                preemption=preemption,
                checkpointer=checkpointer,
                recorder=recorder,
                state=state,
            )
            metrics = loop.run(source)
            recorder.plot()
            return TrainResult(loop.state, metrics)


@dataclasses.dataclass
class _Loop:
    """The steps, evaluations and checkpoints of one run; `state` is the state after the latest step."""

    config: TrainingConfig
    settings: Mapping[str, Any]
    method: TrainingMethod
    mesh: Mesh
    step_function: Step
    evaluate: Evaluation
    should_end: Callable[[int], bool]
    preemption: Preemption
    checkpointer: Checkpointer
    recorder: Recorder
    state: TrainState

    def __post_init__(self) -> None:
        self.step = int(self.state.step)

    def run(self, source: BatchSource) -> dict[str, float]:
        """Train to the end, and return the last metrics; saves the state if StopRequested is raised."""
        try:
            return self._run(source)
        except StopRequested:
            self._save()
            raise

    def _run(self, source: BatchSource) -> dict[str, float]:
        # The evaluation after the restored step may have been interrupted.
        metrics = self._evaluate() if self.step and self._is_evaluation_due() else None
        complete = self._is_complete(metrics)
        while not complete:
            self.state, step_metrics = self.step_function(self.state, place(next(source), self.mesh))
            self.step += 1
            self.recorder.step(self.step, step_metrics)
            self._check_finite()
            self.checkpointer.check()
            metrics = self._evaluate() if self._is_evaluation_due() else None
            complete = self._is_complete(metrics)
            self.preemption.check_step(self.step)
            if complete or self.step % self.config.checkpoint_every == 0:
                self._save()
        return metrics or self._evaluate()

    def _is_evaluation_due(self) -> bool:
        """Whether to evaluate now; the evaluation of the last step follows its checkpoint."""
        return self.step % self.config.evaluate_every == 0 and self.step < self.config.steps

    def _is_complete(self, metrics: dict[str, float] | None) -> bool:
        return self.step >= self.config.steps or (metrics is not None and self.should_end(self.step))

    def _evaluate(self) -> dict[str, float]:
        model, average = self.state.model, self.state.average
        evaluated = model if average is None else averaged_model(average, model)
        metrics = self.evaluate(self.step, evaluated, lambda: self.preemption.check(self.step))
        self.recorder.evaluation(self.step, metrics)
        if warning := self.method.warning(self.step, metrics):
            self.recorder.print(f"warning: {warning}")
        return metrics

    def _save(self) -> None:
        self.recorder.flush()
        self._check_finite()
        note = {
            "next_batch": self.step,
            "steps": self.config.steps,
            "optimizer": dataclasses.asdict(self.config.optimizer),
            "settings": dict(self.settings),
        }
        self.checkpointer.save(self.state, note)

    def _check_finite(self) -> None:
        """Raise DivergenceError if too many steps in a row had a loss or gradient that is not finite."""
        metrics, step = self.recorder.latest, self.recorder.latest_step
        if metrics.get("skipped_in_row", 0) < self.config.stop_after:
            return
        self.checkpointer.wait()
        steps = self.checkpointer.steps
        saved = f"the checkpoint of step {steps[-1]} is intact" if steps else "no checkpoint was saved yet"
        raise DivergenceError(
            f"step {step} (batch {step - 1}): loss {metrics['loss']:g}, gradient norm {metrics['grad_norm']:g}; "
            f"{self.config.stop_after} steps in a row were not finite and were skipped; {saved}"
        )


def held_out_evaluation(method: TrainingMethod, mesh: Mesh, batches: Callable[[], Iterable[HostBatch]]) -> Evaluation:
    """The method's metrics over all held-out batches together; raises InputError if there are none."""
    evaluate = make_evaluation(method.evaluate, mesh)

    def evaluation(step: int, model: Any, check_stop: Callable[[], None]) -> dict[str, float]:
        total = None
        for number, batch in enumerate(batches()):
            sums = jax.tree.map(np.float64, jax.device_get(evaluate(model, place(batch, mesh), number)))
            total = sums if total is None else jax.tree.map(np.add, total, sums)
            check_stop()
        if total is None:
            raise InputError("there is no held-out batch to evaluate on; hold out more data")
        return method.summarize(total)

    return evaluation


def _first_line(folder: Path, config: TrainingConfig, state: TrainState, note: Mapping[str, Any] | None) -> str:
    """What the run does: start, resume, or resume with more steps than before."""
    if note is None:
        return f"training in {folder}"
    step = int(state.step)
    before = note.get("steps", config.steps)
    optimizer = OptimizerConfig(**note["optimizer"]) if "optimizer" in note else config.optimizer
    if before == config.steps and optimizer.decay_steps == config.optimizer.decay_steps:
        return f"resuming from step {step}"
    updates = step - int(state.skipped)
    previous = float(learning_rate(optimizer, before)(updates))
    current = float(learning_rate(config.optimizer, config.steps)(updates))
    is_extended = before < config.steps
    action = f"extending the run from {before} to {config.steps} steps" if is_extended else f"resuming from step {step}"
    return (
        f"{action}: the learning rate is recomputed for {config.steps} steps; at step {step} it is {current:.2g} "
        f"({previous:.2g} before)"
    )
