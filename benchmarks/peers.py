"""Whole models on this CPU in float32, compared with Hugging Face eager.

`python benchmarks/peers.py [REPETITIONS [KIND]]` prints a Markdown table; KIND "forward" or "step" restricts it.
Each peer runs in its own processes, one per thread setting, and the processes take turns. The better thread setting of
each peer counts. Needs the extra `reference`.
"""

import json
import os
import statistics
import sys
from collections.abc import Callable

import numpy as np
from timing import Worker, seconds, serve, table_row

CELLS = [
    *[("forward", batch_size, length) for batch_size, length in ((1, 128), (8, 128), (8, 512), (1, 2048))],
    *[("step", batch_size, length) for batch_size, length in ((8, 128), (2, 512))],
]
LAYERS = {"v3-small": 6, "v3-base": 12}
# Minimum speed relative to Hugging Face, 1 for the other cells.
BARS = {("forward", 8, 512): 1.2, ("forward", 1, 2048): 1.6}
THREADS = (1, 2)
RUNS_PER_TURN = 2


def random_ids(batch_size: int, length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(5, 100_000, (batch_size, length))


def hugging_face(preset: str, kind: str, batch_size: int, length: int) -> Callable[[], object]:
    import torch
    from hugging_face import v3_config
    from transformers import DebertaV2Model

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = DebertaV2Model(v3_config(LAYERS[preset])).train(kind == "step")
    ids = torch.tensor(random_ids(batch_size, length))
    mask = torch.ones_like(ids)

    def forward():
        with torch.inference_mode():
            model(ids, mask)

    def step():
        model.zero_grad()
        model(ids, mask).last_hidden_state.square().mean().backward()

    return forward if kind == "forward" else step


def deberta_jax(preset: str, kind: str, batch_size: int, length: int) -> Callable[[], object]:
    import jax
    import jax.numpy as jnp

    from deberta_jax.model.deberta import Deberta
    from deberta_jax.presets import PRESETS

    def forward(model, ids, mask, key):
        return model(ids, mask).last_hidden_state

    def loss(model, ids, mask, key):
        return jnp.square(model(ids, mask, key=key).last_hidden_state).mean()

    model = jax.jit(lambda key: Deberta(PRESETS[preset], key=key))(jax.random.key(0))
    ids, mask = jnp.asarray(random_ids(batch_size, length)), jnp.ones((batch_size, length), bool)
    program = jax.jit(forward if kind == "forward" else jax.grad(loss))
    return lambda: jax.block_until_ready(program(model, ids, mask, jax.random.key(1)))


PEERS = {"hugging_face": hugging_face, "deberta_jax": deberta_jax}


def worker(peer: str, preset: str, kind: str, batch_size: int, length: int) -> None:
    """Answer each request with the mean duration of a run."""
    run = PEERS[peer](preset, kind, batch_size, length)
    run()

    def measure(request: str) -> float:
        # An unmeasured run first: between turns, memory went back to the system, which a loop would not do.
        run()
        return seconds(lambda: [run() for _ in range(RUNS_PER_TURN)]) / RUNS_PER_TURN

    serve(measure)


def best_medians(cell: tuple, repetitions: int) -> dict[str, float]:
    """The median of each peer with its better number of threads."""
    settings = [(peer, threads) for peer in PEERS for threads in THREADS]
    workers = {
        (peer, threads): Worker(__file__, json.dumps([peer, *cell]), threads=threads) for peer, threads in settings
    }
    times = {setting: [float(workers[setting].ask())] for setting in settings}
    fastest = {peer: min(times[peer, threads][0] for threads in THREADS) for peer in PEERS}
    # A setting that is much slower is not measured again.
    times = {setting: first for setting, first in times.items() if first[0] < 1.3 * fastest[setting[0]]}
    for _ in range(repetitions - 1):
        for setting, measured in times.items():
            measured.append(float(workers[setting].ask()))
    for process in workers.values():
        process.close()
    return {
        peer: min(statistics.median(measured) for (name, _), measured in times.items() if name == peer)
        for peer in PEERS
    }


def main(repetitions: int = 5, kinds: str = "") -> int:
    print(table_row("model", "cell", "Hugging Face eager, s", "deberta_jax, s", "ratio", "bar"))
    print("|---|---|---|---|---|---|")
    missed = 0
    for preset in LAYERS:
        for kind, batch_size, length in CELLS:
            if kinds not in kind:
                continue
            medians = best_medians((preset, kind, batch_size, length), repetitions)
            ratio = medians["hugging_face"] / medians["deberta_jax"]
            bar = BARS.get((kind, batch_size, length), 1.0)
            missed += ratio < bar
            times = [f"{medians[peer]:.3f}" for peer in PEERS]
            cell = f"{kind} ({batch_size}, {length})"
            print(table_row(preset, cell, *times, f"{ratio:.2f}", f"{bar}{' missed' * (ratio < bar)}"), flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(*json.loads(sys.argv[2]))
    else:
        sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, *sys.argv[2:3]))
