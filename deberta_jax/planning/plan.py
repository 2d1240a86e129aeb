"""The plan of a run: what its step needs on given devices, and what the whole run takes and costs at least."""

import dataclasses
from typing import Any, NamedTuple

from jax.sharding import Mesh

from deberta_jax.config import DebertaConfig
from deberta_jax.planning.capacity import device_capacity
from deberta_jax.planning.compiled_step import CompiledStep, compile_step
from deberta_jax.planning.configuration import MeshSizes, config_mesh, mesh_sizes
from deberta_jax.planning.roofline import Bounds, bounds
from deberta_jax.planning.topologies import Topology
from deberta_jax.pretraining.config import PretrainConfig
from deberta_jax.pretraining.program import abstract_step, measure, model_options
from deberta_jax.training.flops import count_flops


class Target(NamedTuple):
    """What all configurations of a run have in common: its model, the devices, and the memory of each."""

    model: DebertaConfig
    topology: Topology
    capacity: int

    @classmethod
    def of(cls, model: DebertaConfig, topology: Topology, capacity: int | None = None) -> "Target":
        """`capacity` replaces the memory of the devices."""
        return cls(model, topology, device_capacity(topology) if capacity is None else capacity)


class Flops(NamedTuple):
    """The size of a step: parameters, and FLOPs on all devices.

    `model` is by convention three forward passes, `step` what is computed, with recomputation.
    """

    parameters: int
    model: int
    step: int


class Plan(NamedTuple):
    """A configuration of a run on devices, and its step.

    `bounds` is None for an unknown chip, and for a step that does not fit.
    """

    config: PretrainConfig
    target: Target
    mesh: MeshSizes
    flops: Flops
    step: CompiledStep
    bounds: Bounds | None

    @property
    def micro_batch(self) -> int:
        """Sequences per micro-batch."""
        return self.config.training.batch_size // self.config.training.accumulate

    @property
    def hours(self) -> float | None:
        """The lower bound of the duration of the run."""
        return None if self.bounds is None else self.bounds.step * self.config.training.steps / 3600

    @property
    def chip_hours(self) -> float | None:
        """The hours of all chips together."""
        return None if self.hours is None else self.hours * self.target.topology.num_chips


def compile_run(config: PretrainConfig, target: Target) -> CompiledStep:
    """Compile the step of a run for the devices of a target; raises InputError for a mesh that does not match them."""
    mesh = config_mesh(config, target.topology.devices)
    return compile_step(abstract_step(config, target.model, mesh), target.capacity, target.topology.compiler_options)


def make_plan(
    config: PretrainConfig, target: Target, *, step: CompiledStep | None = None, flops: Flops | None = None
) -> Plan:
    """The plan of a run on the devices of a target; errors as `compile_run`.

    `step` is the compiled step and `flops` its size, if they are known. The size depends neither on the mesh nor on the
    micro-batches.
    """
    step = step or compile_run(config, target)
    mesh = config_mesh(config, target.topology.devices)
    flops = flops or count_step_flops(config, target, mesh)
    chip, limits = target.topology.chip, None
    if chip is not None and step.costs is not None and step.fits:
        limits = bounds(chip, mesh.size, step.costs, step_flops=flops.step, model_flops=flops.model)
    return Plan(config, target, mesh_sizes(mesh), flops, step, limits)


def count_step_flops(config: PretrainConfig, target: Target, mesh: Mesh) -> Flops:
    """The FLOPs of a step, with kernels counted as the same work in XLA."""
    size = measure(config, model_options(config, target.model), mesh)
    abstract = abstract_step(dataclasses.replace(config, attention="xla"), target.model, mesh)
    return Flops(size.parameters, size.step_flops, count_flops(abstract.step, abstract.state, abstract.batch))


def plan_values(plan: Plan, price: float | None = None) -> dict[str, Any]:
    """A plan as JSON; `price` is in dollars per chip and hour."""
    training, topology = plan.config.training, plan.target.topology
    memory, costs = plan.step.memory, plan.step.costs
    values: dict[str, Any] = {
        "model": plan.config.model,
        "objective": plan.config.objective,
        "topology": topology.name,
        "chips": topology.num_chips,
        "devices": len(topology.devices),
        "mesh": plan.mesh._asdict(),
        "remat": plan.config.remat,
        "batch_size": training.batch_size,
        "length": plan.config.data.lengths[0],
        "accumulate": training.accumulate,
        "micro_batch": plan.micro_batch,
        "parameters": plan.flops.parameters,
        "fits": plan.step.fits,
        "memory_per_device": {
            "state": memory.state,
            "temporary": memory.temporary,
            "peak": memory.peak,
            "capacity": plan.target.capacity,
        },
        "flops_per_step": {"model": plan.flops.model, "with_recomputation": plan.flops.step},
        "compile_seconds": round(plan.step.seconds, 1),
    }
    if costs is not None:
        values["memory_bytes_per_device"] = costs.memory_bytes
        values["collectives"] = [collective._asdict() for collective in costs.collectives]
    if plan.bounds is not None:
        values["bounds"] = {**plan.bounds._asdict(), "step": plan.bounds.step, "limit": plan.bounds.limit}
        values["run"] = {"steps": training.steps, "hours": plan.hours, "chip_hours": plan.chip_hours}
        if price is not None and plan.chip_hours is not None:
            values["run"] |= {"price_per_chip_hour": price, "cost": price * plan.chip_hours}
    return values
