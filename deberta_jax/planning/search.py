"""Configurations of a run that fit its devices: the nearest to one that does not, and a ranking of all."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from deberta_jax.planning.accumulation import accumulations, first_fit, smallest_accumulation
from deberta_jax.planning.compiled_step import CompiledStep, shard_bytes, state_bytes
from deberta_jax.planning.configuration import (
    REMATS,
    MeshSizes,
    config_mesh,
    configuration_line,
    mesh_sizes,
    possible_meshes,
    with_accumulation,
    with_mesh,
    with_remat,
)
from deberta_jax.planning.estimates import Activations, estimated_seconds
from deberta_jax.planning.plan import Flops, Plan, Target, compile_run, make_plan
from deberta_jax.pretraining.config import AUTO, PretrainConfig
from deberta_jax.pretraining.program import abstract_step, measure, model_options
from deberta_jax.training.sizes import format_bytes

# Steps that a search compiles, attempts at one configuration, and the part of the memory that an attempt may fill.
COMPILATIONS = 4
_ATTEMPTS = 3
_MARGIN = 0.97
Report = Callable[[str], None]


class Fit(NamedTuple):
    """A run with the fewest micro-batches that fit, and its step; None for both if `needed` bytes are too much."""

    config: PretrainConfig | None
    step: CompiledStep | None
    needed: int


def smallest_fit(config: PretrainConfig, target: Target) -> Fit:
    """Compile the step of a run with different numbers of micro-batches, and choose the smallest that fits."""
    mesh = config_mesh(with_accumulation(config, 1), target.topology.devices)
    needed = state_bytes(abstract_step(with_accumulation(config, 1), target.model, mesh))
    if needed > target.capacity:
        return Fit(None, None, needed)

    def compile_with(number: int) -> CompiledStep:
        return compile_run(with_accumulation(config, number), target)

    steps = smallest_accumulation(accumulations(config, mesh), compile_with, target.capacity)
    number = first_fit(steps)
    if number is None:
        return Fit(None, None, steps[max(steps)].memory.peak)
    return Fit(with_accumulation(config, number), steps[number], steps[number].memory.peak)


def nearest_fit(config: PretrainConfig, target: Target, report: Report) -> Fit | None:
    """A run that fits and differs as little as possible: more micro-batches, then more remat, then another mesh."""
    for candidate in _neighbors(config, target):
        sizes = mesh_sizes(config_mesh(with_accumulation(candidate, 1), target.topology.devices))
        report(f"trying mesh {sizes}, remat {candidate.remat}")
        fit = smallest_fit(candidate, target)
        if fit.config is not None:
            return fit
    return None


def plans_of(config: PretrainConfig, target: Target, report: Report) -> list[Plan]:
    """The plan of a run, and if it does not fit that of the nearest run that does.

    With `micro_batch` "auto" the run has the fewest micro-batches that fit.
    """
    fit = smallest_fit(config, target) if config.micro_batch == AUTO else None
    if fit is not None and fit.config is not None:
        return [make_plan(fit.config, target, step=fit.step)]
    plan = make_plan(with_accumulation(config, config.training.accumulate), target)
    if plan.step.fits:
        return [plan]
    nearest = nearest_fit(plan.config, target, report)
    if nearest is None or nearest.config is None:
        return [plan]
    return [plan, make_plan(nearest.config, target, step=nearest.step)]


def _neighbors(config: PretrainConfig, target: Target) -> Iterator[PretrainConfig]:
    """The run with more remat, then on meshes that shard the state more, each first with the given remat."""
    remats = REMATS[REMATS.index(config.remat) :]
    yield from (with_remat(config, remat) for remat in remats)
    sizes = mesh_sizes(config_mesh(with_accumulation(config, 1), target.topology.devices))
    meshes = possible_meshes(len(target.topology.devices), config.training.batch_size, target.model)
    shards = sizes.fsdp * sizes.tensor
    others = [mesh for mesh in meshes if mesh.fsdp * mesh.tensor > shards]
    for mesh in sorted(others, key=lambda mesh: (mesh.fsdp * mesh.tensor, mesh.tensor)):
        yield with_mesh(with_remat(config, remats[-1]), mesh)


class Entry(NamedTuple):
    """A configuration in a ranking: its plan if it was compiled, otherwise why not."""

    config: PretrainConfig
    mesh: MeshSizes
    plan: Plan | None
    note: str


def search(config: PretrainConfig, target: Target, report: Report, compilations: int = COMPILATIONS) -> list[Entry]:
    """All meshes and rematerializations for a run, the fastest that fit first, each with few enough micro-batches.

    Configurations whose state and gradients alone do not fit are not compiled. The others are compiled in the order of
    their estimated time, until `compilations` steps were compiled. The ranking is by the bound of the step time.
    """
    search = _Search(config, target, compilations)
    entries = []
    for candidate in search.candidates():
        if candidate.fixed > target.capacity:
            note = f"state and gradients alone need {format_bytes(candidate.fixed)}"
            entries.append(Entry(candidate.config, candidate.mesh, None, note))
        elif search.compiled >= compilations:
            entries.append(Entry(candidate.config, candidate.mesh, None, "not compiled: slower by estimate"))
        else:
            entries.append(search.entry(candidate, report))
    return sorted(entries, key=_rank)


class _Candidate(NamedTuple):
    """A configuration, the bytes on a device that do not depend on micro-batches, and the estimated step time."""

    config: PretrainConfig
    mesh: MeshSizes
    fixed: int
    seconds: float


class _Search:
    """Compiles configurations, and learns from each how much memory a sequence needs."""

    def __init__(self, config: PretrainConfig, target: Target, compilations: int):
        self.config, self.target, self.compilations, self.compiled = config, target, compilations, 0
        self.activations = Activations(target.model, config)
        self.flops: dict[str, Flops] = {}

    def candidates(self) -> list[_Candidate]:
        """All configurations, the fastest by estimate first."""
        config, target = with_accumulation(self.config, 1), self.target
        meshes = list(possible_meshes(len(target.topology.devices), config.training.batch_size, target.model))
        mesh = config_mesh(with_mesh(config, meshes[0]), target.topology.devices)
        size = measure(config, model_options(config, target.model), mesh)
        candidates = []
        for sizes in meshes:
            laid_out = with_mesh(config, sizes)
            abstract = abstract_step(laid_out, target.model, config_mesh(laid_out, target.topology.devices))
            # Gradients have the sizes of the parameters.
            fixed = state_bytes(abstract) + shard_bytes(abstract.state.model)
            for remat in REMATS:
                candidate = with_remat(laid_out, remat)
                forward = size.step_flops // 3
                seconds = estimated_seconds(
                    candidate, target.model, sizes, target.topology.chip, size.parameters, forward
                )
                candidates.append(_Candidate(candidate, sizes, fixed, seconds))
        return sorted(candidates, key=lambda candidate: candidate.seconds)

    def entry(self, candidate: _Candidate, report: Report) -> Entry:
        """Compile a candidate, with more micro-batches if it does not fit."""
        mesh = config_mesh(candidate.config, self.target.topology.devices)
        numbers = accumulations(candidate.config, mesh)
        remat, smallest = candidate.config.remat, 0
        for _ in range(_ATTEMPTS):
            number = self._expected(candidate, [number for number in numbers if number > smallest])
            if number is None or self.compiled >= self.compilations:
                break
            config = with_accumulation(candidate.config, number)
            report(f"compiling {configuration_line(config, candidate.mesh)}")
            plan = make_plan(config, self.target, flops=self.flops.get(remat))
            self.compiled += 1
            self.flops[remat] = plan.flops
            gradients = candidate.fixed - plan.step.memory.state
            temporary = plan.step.memory.temporary - max(gradients, 0)
            self.activations.calibrate(remat, candidate.mesh, self._sequences(candidate, number), temporary)
            if plan.step.fits:
                return Entry(config, candidate.mesh, plan, "")
            smallest = number
        return Entry(config, candidate.mesh, plan, "does not fit")

    def _expected(self, candidate: _Candidate, numbers: list[int]) -> int | None:
        """The first of these numbers of micro-batches that should fit, or the last; None without any."""
        room = _MARGIN * self.target.capacity - candidate.fixed
        remat, mesh = candidate.config.remat, candidate.mesh
        fitting = (
            number
            for number in numbers
            if self.activations.bytes(remat, mesh, self._sequences(candidate, number)) <= room
        )
        return next(fitting, numbers[-1] if numbers else None)

    def _sequences(self, candidate: _Candidate, number: int) -> float:
        """Sequences of a micro-batch on each device."""
        return candidate.config.training.batch_size / (candidate.mesh.data * candidate.mesh.fsdp * number)


def _rank(entry: Entry) -> tuple[int, float]:
    """Fitting configurations by their bound, then those that were not compiled, then those that do not fit."""
    if entry.plan is None:
        return (2 if "alone" in entry.note else 1), 0.0
    if not entry.plan.step.fits:
        return 2, 0.0
    return 0, entry.plan.bounds.step if entry.plan.bounds else float(entry.plan.flops.step)
