"""What a step of replaced-token detection costs beside its parts, at the geometry of v3-small.

`python benchmarks/replaced_tokens.py [ROWS LENGTH]` prints medians of alternated runs on this machine: a step of
the generator by masked language modelling, the discriminator's forward and backward pass, and a joint step of
both, with temporary memory as compiled beside that of logits at every position.
"""

import statistics
import sys
import time

import jax
import numpy as np

from deberta_jax.data.masking import Masking
from deberta_jax.model.heads import ReplacedTokenDetection
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.pair import initial_pair
from deberta_jax.model.shardings import shardings
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.config import generator_config
from deberta_jax.pretraining.replaced_tokens import RtdConfig, detect, replaced_token_detection
from deberta_jax.sharding import make_mesh
from deberta_jax.training.method import one_objective
from deberta_jax.training.objective import masked_lm
from deberta_jax.training.run import TrainingConfig
from deberta_jax.training.state import initial_state
from deberta_jax.training.step import place

TURNS = 3
CONFIG = PRESETS["v3-small"]
GENERATOR = generator_config(CONFIG)


def batch(rows, length):
    rng = np.random.default_rng(0)
    slots = Masking().slots(length)
    positions = np.sort(rng.permuted(np.tile(np.arange(1, length), (rows, 1)), axis=1)[:, :slots], axis=1)
    ids = rng.integers(5, CONFIG.vocab_size, (rows, length)).astype(np.int32)
    return {
        "input_ids": ids,
        "segment_ids": np.ones_like(ids),
        "position_ids": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "masked_positions": positions.astype(np.int32),
        "labels": np.take_along_axis(ids, positions, 1),
        "label_weights": np.ones((rows, slots), np.float32),
    }


def stepping(method, mesh, data):
    """A step that goes on from its own state, and its temporary memory."""
    state = initial_state(method.build, method.optimizer, 0, mesh)
    places = shardings(state, mesh)
    step = method.make_step(places).lower(state, data).compile()

    def run():
        nonlocal state
        state, metrics = step(state, data)
        jax.block_until_ready(metrics)

    return run, step.memory_analysis().temp_size_in_bytes


def detect_replaced_pipeline(data):
    """Forward and backward pass of the discriminator alone."""
    model = jax.jit(lambda key: ReplacedTokenDetection(CONFIG, key=key))(jax.random.key(0))
    data = {**data, "replaced": data["input_ids"] % 8 == 0}

    def loss(model, data, key):
        sums = detect(model, data, key)
        return sums.loss / sums.weight

    gradient = jax.jit(jax.value_and_grad(loss)).lower(model, data, jax.random.key(0)).compile()
    return lambda: jax.block_until_ready(gradient(model, data, jax.random.key(0))), (
        gradient.memory_analysis().temp_size_in_bytes
    )


def main(rows, length):
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    data = place(batch(rows, length), mesh)
    training = TrainingConfig(steps=1000, batch_size=rows)

    def pair(step):
        return replaced_token_detection(
            training, RtdConfig(step=step), lambda key: initial_pair(GENERATOR, CONFIG, key=key)
        )

    programs = {
        "generator, a step": stepping(
            one_objective(training, lambda key: MaskedLM(GENERATOR, key=key), masked_lm), mesh, data
        ),
        "discriminator, forward and backward": detecting(data),
        "joint step": stepping(pair("joint"), mesh, data),
    }
    seconds = {name: [] for name in programs}
    for _ in range(TURNS):
        for name, (run, _) in programs.items():
            # The first run of a turn touches memory that others had.
            run()
            before = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - before)
            print(f"{name:36s} {seconds[name][-1]:7.2f} s", flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    parts = medians["generator, a step"] + medians["discriminator, forward and backward"]
    every = rows * length * CONFIG.vocab_size * 4 / 2**30
    print(f"v3-small, ({rows}, {length}), float32; logits of every position would take {every:.2f} GiB")
    for name, (_, memory) in programs.items():
        ratio = f"  {medians[name] / parts:.3f} of its parts" if "step" in name and "generator" not in name else ""
        print(f"{name:36s} {medians[name]:7.2f} s  {memory / 2**30:5.2f} GiB temporary{ratio}")


if __name__ == "__main__":
    main(*(map(int, sys.argv[1:]) if len(sys.argv) == 3 else (8, 256)))
