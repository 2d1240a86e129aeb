"""Plans of a small run on eight local devices, compiled, and searches with memory as a function."""

import dataclasses
import json
import math
import re

import jax
import numpy as np
import pytest

from deberta_jax.planning import plan as plan_module
from deberta_jax.planning.collectives import Collective
from deberta_jax.planning.compiled_step import CompiledStep, Costs, Memory, state_bytes
from deberta_jax.planning.configuration import MeshSizes, config_mesh, possible_meshes
from deberta_jax.planning.plan import Flops, make_plan, plan_values
from deberta_jax.planning.report import draw_memory, plan_lines, plot_memory, print_plans, print_ranking
from deberta_jax.planning.search import nearest_fit, plans_of, search
from deberta_jax.pretraining.program import OBJECTIVES, abstract_step, model_options
from deberta_jax.training.chips import CHIPS, GIB
from deberta_jax.training.sizes import Sizes, sizes
from deberta_jax.training.state import initial_state

LOG = lambda line: None  # noqa: E731


@pytest.fixture(scope="module")
def plan(config, target):
    """Compiled once for all tests."""
    return make_plan(config, target)


def fake_compile(monkeypatch, temporary):
    """Replace the compiler: temporary memory is `temporary(config, number of sequences on a device)`."""
    compiled = []

    def compile_run(config, target):
        mesh = config_mesh(config, target.topology.devices)
        state = state_bytes(abstract_step(config, target.model, mesh))
        sequences = config.training.batch_size / (mesh.shape["data"] * mesh.shape["fsdp"] * config.training.accumulate)
        memory = Memory(state, int(temporary(config, sequences)))
        fits = memory.peak <= target.capacity
        costs = Costs(10**9, (Collective("all-gather", 1, 10**6 * mesh.shape["fsdp"]),)) if fits else None
        compiled.append((config, fits))
        return CompiledStep(memory, fits, costs, 1.0)

    flops = Flops(10**6, 3 * 10**9, 4 * 10**9)
    monkeypatch.setattr(plan_module, "compile_run", compile_run)
    monkeypatch.setattr("deberta_jax.planning.search.compile_run", compile_run)
    monkeypatch.setattr(plan_module, "count_step_flops", lambda *_: flops)
    monkeypatch.setattr("deberta_jax.planning.search.measure", lambda *_: Sizes(10**6, 0, 0, 3 * 10**9))
    return compiled


def test_state_bytes_are_those_of_the_real_state(plan, config, target):
    mesh = config_mesh(config, target.topology.devices)
    method = OBJECTIVES["mlm"].method(model_options(config, target.model), config.training, config.rtd)
    state = initial_state(method.build, method.optimizer, 0, mesh)
    arrays = [leaf for leaf in jax.tree.leaves(state) if not jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    real = sum(leaf.addressable_shards[0].data.nbytes for leaf in arrays)
    batch = sum(math.prod(x.shape) * x.dtype.itemsize for x in abstract_step(config, target.model, mesh).batch.values())
    assert state_bytes(abstract_step(config, target.model, mesh)) == real + batch // 8
    # The compiler adds the random key, which has 8 bytes.
    assert plan.step.memory.state == pytest.approx(real + batch // 8, abs=16)


def test_flops_and_parameters_are_those_of_pretrain(plan, config, target):
    mesh = config_mesh(config, target.topology.devices)
    method = OBJECTIVES["mlm"].method(model_options(config, target.model), config.training, config.rtd)
    abstract = abstract_step(config, target.model, mesh)
    size = sizes(method.evaluate, abstract.state, abstract.batch)
    assert (plan.flops.parameters, plan.flops.model) == (size.parameters, size.step_flops)
    assert plan.flops.step == pytest.approx(size.step_flops, rel=0.05)


def test_a_plan_lists_its_collectives_and_has_no_bounds_for_a_cpu(plan):
    assert plan.step.fits and plan.bounds is None and plan.chip_hours is None
    assert {collective.kind for collective in plan.step.costs.collectives} >= {"all-gather", "all-reduce"}
    values = json.loads(json.dumps(plan_values(plan, 2.0)))
    assert values["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1}
    assert values["memory_per_device"]["peak"] == plan.step.memory.state + plan.step.memory.temporary
    assert "run" not in values
    assert "the peak rates of local devices are unknown" in "\n".join(plan_lines(plan))


def test_a_plan_for_a_known_chip_has_hours_chip_hours_and_a_cost(config, target, monkeypatch):
    fake_compile(monkeypatch, lambda config, sequences: 0)
    target = target._replace(topology=target.topology._replace(chip=CHIPS["tpu7x"]))
    values = plan_values(plan := make_plan(config, target), 3.0)
    # Two devices are a chip.
    assert values["chips"] == 4
    assert values["bounds"]["limit"] == "memory"
    assert values["run"]["hours"] == pytest.approx(100 * 10**9 / CHIPS["tpu7x"].bandwidth / 3600)
    assert values["run"]["cost"] == pytest.approx(3 * 4 * values["run"]["hours"])
    text = "\n".join(plan_lines(plan, 3.0))
    assert "(memory)" in text and "dollars at 3 per chip and hour" in text
    assert not re.search(r"\b0\.0+ (s|hours|TFLOP)|\b0 (chip-hours|dollars)", text), text


@pytest.fixture
def state(config, target):
    """Bytes of the state on a device, and a function that gives the target a capacity beyond it."""
    mesh = config_mesh(config, target.topology.devices)
    size = state_bytes(abstract_step(config, target.model, mesh))
    return size, lambda extra: target._replace(capacity=size + extra)


def test_a_run_that_does_not_fit_gets_the_fewest_micro_batches_that_do(config, state, monkeypatch, capsys):
    _, with_capacity = state
    compiled = fake_compile(monkeypatch, lambda config, sequences: 100 * sequences)
    plan, nearest = plans_of(config, with_capacity(250), LOG)
    assert not plan.step.fits and plan.bounds is None
    assert (nearest.config.training.accumulate, nearest.config.remat) == (2, "none")
    assert nearest.config.training.mesh == config.training.mesh
    assert len(compiled) == 3
    print_plans([plan, nearest])
    out = capsys.readouterr().out
    assert "does not fit: 0.0 MiB per device too much" in out
    assert "options: --mesh.data 2 --mesh.fsdp 4 --mesh.tensor 1 --remat none --accumulate 2" in out


def test_more_rematerialization_comes_after_more_micro_batches_and_before_another_mesh(config, state, monkeypatch):
    _, with_capacity = state
    factors = {"none": 100, "dots": 60, "full": 10}
    fake_compile(monkeypatch, lambda config, sequences: factors[config.remat] * sequences)
    fit = nearest_fit(config, with_capacity(80), LOG)
    assert (fit.config.training.accumulate, fit.config.remat) == (4, "dots")
    assert fit.config.training.mesh == config.training.mesh


def test_a_mesh_that_shards_the_state_more_is_the_last_resort(config, state, monkeypatch):
    size, with_capacity = state
    compiled = fake_compile(monkeypatch, lambda config, sequences: 0)
    fit = nearest_fit(config, with_capacity(-size // 5), LOG)
    assert (fit.config.training.mesh.data, fit.config.training.mesh.fsdp) == (1, 8)
    # State that does not fit is not compiled.
    assert all(config.training.mesh.fsdp * config.training.mesh.tensor == 8 for config, _ in compiled)


def test_nothing_fits_in_no_memory(config, state, monkeypatch, capsys):
    size, with_capacity = state
    compiled = fake_compile(monkeypatch, lambda config, sequences: 0)
    plans = plans_of(config, with_capacity(-size), LOG)
    print_plans(plans)
    assert len(plans) == len(compiled) == 1
    assert "use more or larger devices" in capsys.readouterr().out


def test_auto_micro_batches_of_a_plan_are_the_largest_that_fit(config, state, monkeypatch):
    _, with_capacity = state
    fake_compile(monkeypatch, lambda config, sequences: 100 * sequences)
    [plan] = plans_of(dataclasses.replace(config, micro_batch="auto"), with_capacity(150), LOG)
    assert (plan.micro_batch, plan.config.training.accumulate) == (8, 4)


def test_a_search_ranks_configurations_that_fit_and_compiles_none_whose_state_does_not(
    config, state, monkeypatch, capsys, tmp_path
):
    _, with_capacity = state
    target = with_capacity(1 << 22)
    target = target._replace(topology=target.topology._replace(chip=CHIPS["v5e"]))
    # A mesh with more fsdp is slower, and full rematerialization needs little memory.
    compiled = fake_compile(
        monkeypatch, lambda config, sequences: (1 << 22) * sequences / (1 + 20 * (config.remat == "full"))
    )
    entries = search(config, target, LOG, compilations=5)
    meshes = list(possible_meshes(8, 32, target.model))
    assert len(entries) == 3 * len(meshes)
    fitting = [entry for entry in entries if entry.plan is not None and entry.plan.step.fits]
    assert fitting and fitting == entries[: len(fitting)]
    assert [entry.plan.bounds.step for entry in fitting] == sorted(entry.plan.bounds.step for entry in fitting)
    notes = {entry.note for entry in entries[len(fitting) :]}
    assert "not compiled: slower by estimate" in notes
    assert any(note.startswith("state and gradients alone need ") for note in notes)
    assert 5 <= len(compiled) <= 7
    print_ranking(entries, target.capacity)
    out = capsys.readouterr().out
    assert "not compiled: slower by estimate" in out and "options: --mesh.data " in out
    plot_memory([entry.plan for entry in fitting], tmp_path / "memory.png")
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = (figure := draw_memory([entry.plan for entry in fitting])).axes
    assert axes.get_title().startswith("Memory of a step: ") and axes.get_ylabel() == "GiB per device"
    keys = [text.get_text() for text in figure.legends[0].get_texts()]
    assert keys == [f"capacity: {target.capacity / GIB:.2f} GiB", "state", "temporary"]


def test_meshes_divide_the_devices_the_batch_and_the_heads(target):
    meshes = set(possible_meshes(8, 4, target.model))
    # Two heads, and a batch of four.
    assert meshes == {MeshSizes(*sizes) for sizes in ((4, 1, 2), (2, 2, 2), (1, 4, 2))}
    assert all(np.prod(mesh) == 8 for mesh in meshes)
