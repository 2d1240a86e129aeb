"""Whole models against Hugging Face eager on this CPU, float32: `python benchmarks/peers.py [REPETITIONS [KIND]]`.

Each peer lives in processes of its own, one for each thread setting, and they take turns; the best setting of a peer is
compared. Needs the extra `reference`. Prints a table in Markdown, of KIND "forward" or "step" only where it is given.
"""

import json
import os
import statistics
import subprocess
import sys

CELLS = [
    *[("forward", batch, length) for batch, length in ((1, 128), (8, 128), (8, 512), (1, 2048))],
    *[("step", batch, length) for batch, length in ((8, 128), (2, 512))],
]
LAYERS = {"v3-small": 6, "v3-base": 12}
# Of forward tokens per second, ours over Hugging Face's; 1 where nothing more is asked.
BARS = {("forward", 8, 512): 1.2, ("forward", 1, 2048): 1.6}
THREADS = (1, 2)
TOGETHER = 2


def worker(peer: str, preset: str, kind: str, batch: int, length: int) -> None:
    """Print the seconds of one run for each line that is read."""
    run = {"hugging_face": hugging_face, "deberta_jax": deberta_jax}[peer](preset, kind, batch, length)
    import time

    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        # Once unmeasured: a run follows a run, as in a loop, not a peer's turn in which memory went back to the system.
        run()
        start = time.perf_counter()
        for _ in range(TOGETHER):
            run()
        print((time.perf_counter() - start) / TOGETHER, flush=True)


def tokens(batch: int, length: int):
    import numpy as np

    return np.random.default_rng(0).integers(5, 100_000, (batch, length))


def hugging_face(preset: str, kind: str, batch: int, length: int):
    import torch
    from transformers import DebertaV2Config, DebertaV2Model

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    config = DebertaV2Config(
        vocab_size=128100,
        hidden_size=768,
        num_hidden_layers=LAYERS[preset],
        num_attention_heads=12,
        intermediate_size=3072,
        relative_attention=True,
        position_buckets=256,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
    )
    model = DebertaV2Model(config).train(kind == "step")
    ids = torch.tensor(tokens(batch, length))
    mask = torch.ones_like(ids)

    def forward():
        with torch.inference_mode():
            model(ids, mask)

    def step():
        model.zero_grad()
        model(ids, mask).last_hidden_state.square().mean().backward()

    return forward if kind == "forward" else step


def deberta_jax(preset: str, kind: str, batch: int, length: int):
    import jax
    import jax.numpy as jnp

    from deberta_jax.model.deberta import Deberta
    from deberta_jax.presets import PRESETS

    model = jax.jit(lambda key: Deberta(PRESETS[preset], key=key))(jax.random.key(0))
    ids, mask = jnp.asarray(tokens(batch, length)), jnp.ones((batch, length), bool)
    if kind == "forward":
        program = jax.jit(lambda model, ids, mask, key: model(ids, mask).last_hidden_state)
    else:
        loss = lambda model, ids, mask, key: jnp.square(model(ids, mask, key=key).last_hidden_state).mean()  # noqa: E731
        program = jax.jit(jax.grad(loss))
    return lambda: jax.block_until_ready(program(model, ids, mask, jax.random.key(1)))


def start(peer: str, threads: int, cell: tuple) -> subprocess.Popen:
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), JAX_PLATFORMS="cpu")
    if threads == 1:
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    command = [sys.executable, __file__, "worker", json.dumps([peer, *cell])]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    while (line := process.stdout.readline()) and line.strip() != "ready":
        pass
    return process


def ask(process: subprocess.Popen) -> float:
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main(repetitions: int, wanted: str = "") -> int:
    print("| model | cell | Hugging Face eager, s | deberta_jax, s | ratio | bar |")
    print("|---|---|---|---|---|---|")
    missed = 0
    for preset in LAYERS:
        for kind, batch, length in CELLS:
            if wanted not in kind:
                continue
            cell = (preset, kind, batch, length)
            best = {}
            peers = [(peer, threads) for peer in ("hugging_face", "deberta_jax") for threads in THREADS]
            processes = {peer: start(*peer, cell) for peer in peers}
            times = {peer: [ask(processes[peer])] for peer in peers}
            for peer, threads in peers:
                best[peer] = min(best.get(peer, float("inf")), times[peer, threads][0])
            # A thread setting that is far behind is not asked again.
            times = {
                (peer, threads): times[peer, threads]
                for peer, threads in peers
                if times[peer, threads][0] < 1.3 * best[peer]
            }
            for _ in range(repetitions - 1):
                for peer in times:
                    times[peer].append(ask(processes[peer]))
            best = {}
            for (peer, _), seconds in times.items():
                best[peer] = min(best.get(peer, float("inf")), statistics.median(seconds))
            for process in processes.values():
                process.stdin.close()
                process.wait()
            ratio, bar = best["hugging_face"] / best["deberta_jax"], BARS.get((kind, batch, length), 1.0)
            missed += ratio < bar
            print(
                f"| {preset} | {kind} ({batch}, {length}) | {best['hugging_face']:.3f} | {best['deberta_jax']:.3f} "
                f"| {ratio:.2f} | {bar}{'' if ratio >= bar else ' missed'} |",
                flush=True,
            )
    return int(missed > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        peer, *cell = json.loads(sys.argv[2])
        worker(peer, *cell)
    else:
        sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, *sys.argv[2:3]))
