"""One attention layer (base geometry) against a gather over [T, S] and against plain attention.

`python benchmarks/attention.py` prints for each length the time here, forward and forward+backward, medians of
alternated runs; with libtpu installed (extra `tpu`) also flops, bytes accessed and temporary memory as compiled for one
chip of TPU v5e.
"""

import importlib.util
import math
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import topology
from jax.sharding import NamedSharding

from deberta_jax.ops.attention import c2c_scores, disentangled_attention
from deberta_jax.ops.positions import relative_index
from deberta_jax.sharding import make_mesh
from deberta_jax.training.flops import count_flops

N, H, BUCKETS, DISTANCE = 12, 64, 256, 512
SIZES = ((8, 128), (8, 512), (1, 2048))


def variants(length):
    """Functions of (q, k, v, rel_k, rel_q)."""
    rows = relative_index(length, length, buckets=BUCKETS, max_distance=DISTANCE)
    distance = np.arange(length)
    index = rows[length - 1 - distance[:, None] + distance[None, :]]

    def plain(q, k, v, rel_k, rel_q):
        return disentangled_attention(q, k, v, implementation="all_heads")

    def gather(q, k, v, rel_k, rel_q):
        c2p = jnp.einsum("BTNH,RNH->BNTR", q, rel_k, preferred_element_type=jnp.float32)
        p2c = jnp.einsum("BSNH,RNH->BNSR", k, rel_q, preferred_element_type=jnp.float32)
        c2p = jnp.take_along_axis(c2p, jnp.broadcast_to(index, (*c2p.shape[:2], length, length)), axis=-1)
        p2c = jnp.take_along_axis(p2c, jnp.broadcast_to(index.T, (*p2c.shape[:2], length, length)), axis=-1)
        scores = c2c_scores(q, k) + c2p + p2c.swapaxes(2, 3)
        probabilities = jax.nn.softmax(scores / math.sqrt(3 * H), axis=-1).astype(v.dtype)
        return jnp.einsum("BNTS,BSNH->BTNH", probabilities, v)

    def ours(q, k, v, rel_k, rel_q):
        return disentangled_attention(q, k, v, rel_k, rel_q, rows=rows)

    def dense(q, k, v, rel_k, rel_q):
        return disentangled_attention(q, k, v, rel_k, rel_q, rows=rows, implementation="all_heads")

    return {"ours": ours, "dense": dense, "gather": gather, "plain": plain}


def with_backward(function):
    return jax.grad(lambda *tensors: jnp.square(function(*tensors).astype(jnp.float32)).sum(), argnums=(0, 1, 2, 3, 4))


def shapes(batch, length):
    return [(batch, length, N, H)] * 3 + [(2 * BUCKETS, N, H)] * 2


def on_cpu(repetitions):
    print(f"jax {jax.__version__}, CPU, float32, {N} heads of {H}; milliseconds, medians of {repetitions}")
    for batch, length in SIZES:
        keys = jax.random.split(jax.random.key(0), 5)
        tensors = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes(batch, length), strict=True)]
        for label, wrap in (("forward", lambda f: f), ("forward+backward", with_backward)):
            programs = {name: jax.jit(wrap(function)) for name, function in variants(length).items()}
            times = {name: [] for name in programs}
            for turn in range(repetitions + 1):
                for name, program in programs.items():
                    start = time.perf_counter()
                    jax.block_until_ready(program(*tensors))
                    if turn:
                        times[name].append(time.perf_counter() - start)
            medians = {name: statistics.median(seconds) for name, seconds in times.items()}
            shown = "  ".join(f"{name} {seconds * 1e3:8.1f}" for name, seconds in medians.items())
            ours, gather, plain = (medians[name] for name in ("ours", "gather", "plain"))
            ratios = f"gather/ours {gather / ours:5.2f}  ours/plain {ours / plain:5.2f}"
            print(f"({batch}, {length:4d}) {label:17s} {shown}  {ratios}", flush=True)


def for_tpu():
    mesh = make_mesh(devices=topology.tpu_devices("v5e:2x2")[:1])
    place = NamedSharding(mesh, jax.P())
    print("TPU v5e, one chip, bfloat16, as compiled: GFLOP (counted in the jaxpr), GB accessed, MiB temporary")
    for batch, length in SIZES:
        tensors = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place) for shape in shapes(batch, length)]
        for label, wrap in (("forward", lambda f: f), ("forward+backward", with_backward)):
            shown = []
            for name, function in variants(length).items():
                with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                    flops = count_flops(wrap(function), *tensors)
                    compiled = jax.jit(wrap(function)).lower(*tensors).compile()
                cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
                shown.append(
                    f"{name} {flops / 1e9:7.1f} {cost['bytes accessed'] / 1e9:7.2f} "
                    f"{memory.temp_size_in_bytes / 2**20:6.0f}"
                )
            print(f"({batch}, {length:4d}) {label:17s} {'   '.join(shown)}", flush=True)


if __name__ == "__main__":
    on_cpu(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
    if importlib.util.find_spec("libtpu"):
        for_tpu()
