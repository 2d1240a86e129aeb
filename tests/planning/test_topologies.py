"""Devices to compile for: names, errors, capacities; and plans for a TPU that is not there."""

import dataclasses

import jax
import pytest

from deberta_jax.cli.main import main
from deberta_jax.errors import InputError
from deberta_jax.planning import topologies
from deberta_jax.planning.capacity import available_memory, device_capacity
from deberta_jax.planning.compiled_step import bytes_needed
from deberta_jax.planning.configuration import possible_meshes
from deberta_jax.planning.options import recipe
from deberta_jax.planning.plan import Target, make_plan
from deberta_jax.planning.topologies import GPUS, Topology, find_topology
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.program import model_to_train
from deberta_jax.sharding import batch_parts, make_mesh
from deberta_jax.training.chips import CHIPS, GIB
from deberta_jax.training.step import share_of


@pytest.mark.parametrize("name", ["v9:2x2", "v5e", "v5e:16", "h100", "h100:0", "h100:2x2", "tpu", ""])
def test_an_unknown_topology_is_refused_with_examples(name):
    with pytest.raises(InputError, match="expected local, a TPU slice such as v5e:4x4 .* or GPUs such as h100:8"):
        find_topology(name)


@pytest.mark.parametrize(("name", "extra"), [("v5e:2x2", "tpu"), ("h100:8", "cuda")])
def test_a_missing_extra_is_named_in_one_line(name, extra, monkeypatch, capsys):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda module: None)
    assert main(["plan", "tiny", "--topology", name]) == 2
    message = f"topology {name} needs the extra {extra}: pip install 'deberta-jax[{extra}]'\n"
    assert capsys.readouterr().err == f"deberta-jax plan tiny: {message}"


@pytest.mark.parametrize(
    ("name", "message"),
    [("v5e:4x4x4", "shapes 1x1, 2x2, "), ("v6e:32x32", "shapes 1x1, 2x2, "), ("v5p:4x4", "such as v5p:2x2x4")],
)
def test_a_slice_that_does_not_exist_is_refused(name, message, monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda module: True)
    with pytest.raises(InputError, match=f"topology {name}: slices of .* {message}"):
        find_topology(name)


@pytest.mark.parametrize("name", ["local", "h100:8"])
def test_only_tpu_slices_can_be_several(name):
    with pytest.raises(InputError, match="slices is 2, but topology .* is not a TPU slice such as v5e:4x4"):
        find_topology(name, 2)
    with pytest.raises(InputError, match="slices is 0; it must be at least 1"):
        dataclasses.replace(recipe("tiny"), slices=0)


def test_the_memory_of_a_host_is_shared_by_its_devices():
    capacity = device_capacity(find_topology("local"))
    # Other processes allocate between two calls.
    assert capacity == pytest.approx(available_memory() / jax.local_device_count(), rel=0.3)


def test_a_gpu_has_the_part_of_its_memory_that_jax_reserves(monkeypatch):
    class Device:
        platform = "gpu"

    topology = Topology("h100:1", [Device()], CHIPS["h100"])
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert device_capacity(topology) == 0.75 * CHIPS["h100"].memory
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    assert device_capacity(topology) == 0.9 * CHIPS["h100"].memory


def test_each_gpu_to_compile_for_is_in_the_table_of_chips():
    assert all(gpu.kind.startswith(CHIPS[name].kinds[0]) for name, gpu in GPUS.items())


def test_a_mesh_that_does_not_match_the_devices_is_refused(capsys):
    assert main(["plan", "tiny", "--mesh.fsdp", "3"]) == 2
    assert "mesh: data -1 x fsdp 3 x tensor 1 does not match the number of devices, 8" in capsys.readouterr().err


def test_a_plan_starts_with_the_options_of_its_recipe():
    assert recipe("v3-base").pretrain.objective == "rtd"
    with pytest.raises(InputError, match="price is -1"):
        dataclasses.replace(recipe("v3-base"), price=-1.0)


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        ("RESOURCE_EXHAUSTED: the total memory required (17.91G) exceeds available HBM (15.75G).", 17.91),
        ("RESOURCE_EXHAUSTED: Ran out of memory. Used 512.5M of 15.75G hbm.", 512.5 / 1024),
    ],
)
def test_the_compiler_says_how_much_memory_a_program_needs(message, gib):
    assert bytes_needed(message) == pytest.approx(gib * GIB, rel=1e-6)
    assert bytes_needed("INTERNAL: something else") is None


@pytest.mark.tpu_compile
def test_the_error_of_a_program_that_does_not_fit_is_understood():
    device = find_topology("v5e:2x2").devices[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    matrix = jax.ShapeDtypeStruct((40_000, 40_000), "float32", sharding=sharding)
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.jit(lambda a, b: a @ b).lower(matrix, matrix).compile()
    needed = bytes_needed(str(caught.value))
    assert needed is not None and needed >= 3 * 4 * 40_000**2 * 0.99


def tiny(**options):
    config = recipe("tiny").pretrain
    training = dataclasses.replace(config.training, batch_size=options.pop("batch_size", 32))
    return dataclasses.replace(config, training=training, dtype="bfloat16", **options)


@pytest.mark.tpu_compile
def test_a_plan_for_a_tpu_has_bounds_and_fits():
    config = tiny()
    plan = make_plan(config, Target.of(model_to_train(config), find_topology("v5e:2x2")))
    assert plan.step.fits and plan.target.capacity == int(15.75 * GIB)
    assert plan.bounds is not None and 0 < plan.bounds.mfu < 1
    assert [collective.kind for collective in plan.step.costs.collectives] == ["all-reduce"]


def test_a_plan_for_gpus_has_bounds_and_fits():
    pytest.importorskip("jax_plugins.xla_cuda13", reason="needs the extra cuda, 4 GB")
    config = tiny()
    plan = make_plan(config, Target.of(model_to_train(config), find_topology("h100:2")))
    assert plan.step.fits and plan.target.capacity == 0.75 * CHIPS["h100"].memory
    assert plan.bounds is not None and 0 < plan.bounds.mfu < 1
    assert [collective.kind for collective in plan.step.costs.collectives] == ["all-reduce"]


@pytest.mark.tpu_compile
@pytest.mark.parametrize(("name", "slices"), [("v5e:4x4", 1), ("v5e:2x4", 2), ("v5p:2x2x4", 1)])
def test_the_hosts_of_a_slice_read_each_part_of_a_batch_as_often_as_it_is_needed(name, slices):
    devices = find_topology(name, slices).devices
    processes = {device.process_index for device in devices}
    assert len(processes) > 1
    for sizes in possible_meshes(len(devices), 256, PRESETS["v2-xlarge"]):
        mesh = make_mesh(*sizes, devices=devices)
        shares = {process: share_of(mesh, process) for process in processes}
        # Each host reads what its devices hold, and all parts are read.
        grid = mesh.devices.reshape(batch_parts(mesh), -1)
        for process, share in shares.items():
            assert set(share.parts) == {
                part for part, row in enumerate(grid) if process in {device.process_index for device in row}
            }
        assert {part for share in shares.values() for part in share.parts} == set(range(batch_parts(mesh)))
        assert (
            slices == 1
            or sizes.data % slices
            or not [row for row in grid.reshape(sizes.data, -1) if len({device.slice_index for device in row}) > 1]
        )


@pytest.mark.tpu_compile
def test_devices_that_are_no_rectangle_have_a_mesh_too():
    devices = find_topology("v5e:2x2", 2).devices
    assert make_mesh(data=1, fsdp=3, devices=devices[:3]).devices.ravel().tolist() == devices[:3]
    assert make_mesh(data=2, fsdp=3, devices=devices[:6]).devices.ravel().tolist() == devices[:6]


@pytest.mark.tpu_compile
def test_between_slices_only_gradients_are_summed():
    config = tiny()
    mesh = dataclasses.replace(config.training.mesh, data=-1, fsdp=4)
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, mesh=mesh))
    topology = find_topology("v5e:2x2", 2)
    plan = make_plan(config, Target.of(model_to_train(config), topology))
    assert topology.name == "2 x v5e:2x2" and plan.mesh == (2, 4, 1)
    between = [x for x in plan.step.costs.collectives if x.kind.endswith(" between slices")]
    # Each chip sends its part of the gradient once to the other slice. The rest are gradients of the projected relative
    # tables, which are large beside the parameters of this model.
    assert [x.kind for x in between] == ["all-reduce between slices"]
    assert 1 < between[0].bytes / (4 * plan.flops.parameters / 4) < 1.6
    assert plan.bounds.network > 0


@pytest.mark.tpu_compile
def test_a_tpu_without_enough_memory_is_an_answer():
    config = tiny(batch_size=1 << 18)
    plan = make_plan(config, Target.of(model_to_train(config), find_topology("v5e:2x2")))
    assert not plan.step.fits and plan.step.memory.peak > plan.target.capacity and plan.bounds is None
