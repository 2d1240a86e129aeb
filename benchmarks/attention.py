"""One attention layer with the geometry of v3-base, compared with a gather over [T, S] and with plain attention.

`python benchmarks/attention.py [REPETITIONS]` prints the time of the forward pass and of forward and backward pass on
this CPU for each length, medians of alternating runs, unless REPETITIONS is 0. If libtpu is installed (extra `tpu`), it
also prints FLOPs, bytes accessed, temporary memory and compile time for one chip of TPU v5e, and the memory of the
kernels for other chips and lengths. "flash" is JAX's flash attention kernel for TPU, without relative terms.
"""

import importlib.util
import math
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas.ops.tpu.flash_attention import flash_attention
from jax.sharding import NamedSharding
from timing import alternate, seconds

from deberta_jax.ops.attention import disentangled_attention
from deberta_jax.ops.positions import relative_index
from deberta_jax.ops.scores import c2c_scores
from deberta_jax.planning.topologies import tpu_devices
from deberta_jax.sharding import make_mesh
from deberta_jax.training.flops import count_flops

N, H, BUCKETS, MAX_DISTANCE = 12, 64, 256, 512
# Batch size and length.
SIZES = ((8, 128), (8, 512), (1, 2048))
TPU_SIZES = ((8, 128), (8, 512), (2, 2048), (1, 8192))
TPU_CHIPS = ("v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1")
TPU_LENGTHS = (512, 2048, 8192, 32768)


def variants(length):
    """Functions of (q, k, v, rel_k, rel_q)."""
    index = relative_index(length, length, buckets=BUCKETS, max_distance=MAX_DISTANCE)
    position = np.arange(length)
    rows = index[length - 1 - position[:, None] + position[None, :]]

    def default(q, k, v, rel_k, rel_q):
        return disentangled_attention(q, k, v, rel_k, rel_q, index=index)

    def xla(q, k, v, rel_k, rel_q):
        return disentangled_attention(q, k, v, rel_k, rel_q, index=index, implementation="xla")

    def gather(q, k, v, rel_k, rel_q):
        c2p = jnp.einsum("BTNH,RNH->BNTR", q, rel_k, preferred_element_type=jnp.float32)
        p2c = jnp.einsum("BSNH,RNH->BNSR", k, rel_q, preferred_element_type=jnp.float32)
        c2p = jnp.take_along_axis(c2p, jnp.broadcast_to(rows, (*c2p.shape[:2], length, length)), axis=-1)
        p2c = jnp.take_along_axis(p2c, jnp.broadcast_to(rows.T, (*p2c.shape[:2], length, length)), axis=-1)
        scores = c2c_scores(q, k) + c2p + p2c.swapaxes(2, 3)
        probabilities = jax.nn.softmax(scores / math.sqrt(3 * H), axis=-1).astype(v.dtype)
        return jnp.einsum("BNTS,BSNH->BTNH", probabilities, v)

    def plain(q, k, v, rel_k, rel_q):
        return disentangled_attention(q, k, v, implementation="xla")

    return {"default": default, "xla": xla, "gather": gather, "plain": plain}


def with_backward(function):
    return jax.grad(lambda *tensors: jnp.square(function(*tensors).astype(jnp.float32)).sum(), argnums=(0, 1, 2, 3, 4))


PASSES = {"forward": lambda function: function, "forward+backward": with_backward}


def shapes(batch_size, length):
    """Of q, k, v, rel_k and rel_q."""
    return [(batch_size, length, N, H)] * 3 + [(2 * BUCKETS, N, H)] * 2


def measure_cpu(repetitions):
    print(f"jax {jax.__version__}, CPU, float32, {N} heads of {H}; milliseconds, medians of {repetitions}")
    for batch_size, length in SIZES:
        keys = jax.random.split(jax.random.key(0), 5)
        tensors = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes(batch_size, length), strict=True)]
        for label, wrap in PASSES.items():
            measures = {}
            for name, function in variants(length).items():
                program = jax.jit(wrap(function))
                jax.block_until_ready(program(*tensors))
                measures[name] = lambda p=program, t=tensors: seconds(lambda: jax.block_until_ready(p(*t)))
            medians = alternate(measures, repetitions)
            listed = "  ".join(f"{name} {median * 1e3:8.1f}" for name, median in medians.items())
            default = medians["default"]
            ratios = (
                f"gather/default {medians['gather'] / default:5.2f}  default/plain {default / medians['plain']:5.2f}"
            )
            print(f"({batch_size}, {length:4d}) {label:17s} {listed}  {ratios}", flush=True)


def flash(q, k, v, rel_k, rel_q):
    return flash_attention(*(x.swapaxes(1, 2) for x in (q, k, v)), sm_scale=1 / math.sqrt(H)).swapaxes(1, 2)


def fetched_bytes(function, batch_size, length):
    """Bytes that the Pallas kernels of a function move between main and vector memory.

    A block moves whenever its index differs from that of the step before.
    """
    # By kernel: JAX traces some of them twice.
    totals, original = {}, pl.pallas_call

    def count(spec, array, steps, scalars):
        if spec is None or spec.index_map is None:
            return 0
        columns = np.broadcast_arrays(*map(np.asarray, spec.index_map(*steps, *scalars)), steps[0])[:-1]
        changes = np.any([np.diff(column) != 0 for column in columns], axis=0).sum() + 1
        return int(changes) * math.prod(size or 1 for size in spec.block_shape) * array.dtype.itemsize

    def recorded(kernel, *, grid_spec, out_shape, **options):
        call = original(kernel, grid_spec=grid_spec, out_shape=out_shape, **options)

        def run(*operands):
            number = grid_spec.num_scalar_prefetch
            steps = [axis.ravel() for axis in np.indices(grid_spec.grid)]
            # All tiles are visible.
            shape = operands[0].shape if number else None
            scalars = (np.zeros(shape, int), np.full(shape, length)) if number else ()
            specs = [*grid_spec.in_specs, *grid_spec.out_specs]
            specs = jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, pl.BlockSpec))
            arrays = jax.tree.leaves((operands[number:], out_shape))
            with jax.ensure_compile_time_eval():
                pairs = zip(specs, arrays, strict=True)
                totals[kernel.func.__name__] = sum(count(spec, x, steps, scalars) for spec, x in pairs)
            return call(*operands)

        return run

    pl.pallas_call = recorded
    try:
        jax.eval_shape(function, *(jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in shapes(batch_size, length)))
    finally:
        pl.pallas_call = original
    return sum(totals.values())


def compile_one(mesh, function, batch_size, length):
    """FLOPs counted in the jaxpr, costs, memory and seconds of a program compiled for a mesh of one chip."""
    replicated = NamedSharding(mesh, jax.P())
    tensors = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=replicated) for shape in shapes(batch_size, length)]
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        flops, start = count_flops(function, *tensors), time.process_time()
        compiled = jax.jit(function).lower(*tensors).compile()
    elapsed = time.process_time() - start
    return flops, compiled.cost_analysis()["bytes accessed"], compiled.memory_analysis().temp_size_in_bytes, elapsed


def compile_tpu():
    mesh = make_mesh(devices=tpu_devices("v5e:2x2")[:1])
    print("TPU v5e, one chip, bfloat16, as compiled: GFLOP, GB accessed, MiB temporary, CPU seconds of compilation")
    for batch_size, length in TPU_SIZES:
        functions = variants(length) | {"flash": flash}
        if length > 2048:
            functions = {name: functions[name] for name in ("default", "flash")}
        for label, wrap in PASSES.items():
            costs = []
            for name, function in functions.items():
                flops, accessed, temporary, elapsed = compile_one(mesh, wrap(function), batch_size, length)
                costs.append(f"{name} {flops / 1e9:7.1f} {accessed / 1e9:7.3f} {temporary / 2**20:6.0f} {elapsed:4.0f}")
            print(f"({batch_size}, {length:4d}) {label:17s} {'   '.join(costs)}", flush=True)
    print("The kernels on other chips, batch size 1, forward and backward: GB accessed, MiB temporary, CPU seconds")
    for topology in TPU_CHIPS:
        mesh = make_mesh(devices=tpu_devices(topology)[:1])
        costs = []
        for length in TPU_LENGTHS:
            function = with_backward(variants(length)["default"])
            _, accessed, temporary, elapsed = compile_one(mesh, function, 1, length)
            costs.append(f"{length}: {accessed / 1e9:.3f} {temporary / 2**20:.0f} {elapsed:.0f}")
        print(f"{topology:12s} {'   '.join(costs)}", flush=True)


if __name__ == "__main__":
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    if repetitions:
        measure_cpu(repetitions)
    if importlib.util.find_spec("libtpu"):
        compile_tpu()
