"""What a step of virtual adversarial training costs beside a plain one, on this CPU, float32, v3-small geometry.

`python benchmarks/sift.py [ROWS [LENGTH [REPETITIONS]]]`: gradients and AdamW of both, medians of alternated runs.
"""

import dataclasses
import statistics
import sys
import time

import jax
import numpy as np

from deberta_jax.finetuning.config import SiftConfig
from deberta_jax.finetuning.objectives import classification_objective, plain_objective
from deberta_jax.finetuning.sift import sift
from deberta_jax.model.heads import SequenceClassification
from deberta_jax.model.shardings import shardings
from deberta_jax.presets import PRESETS
from deberta_jax.sharding import make_mesh
from deberta_jax.training.method import one_objective
from deberta_jax.training.optimizer import OptimizerConfig
from deberta_jax.training.run import TrainingConfig
from deberta_jax.training.state import abstract_state, initial_state
from deberta_jax.training.step import place

BAR = 3.2


def main(rows: int, length: int, repetitions: int) -> int:
    config = dataclasses.replace(PRESETS["v3-small"], labels=("0", "1", "2"))
    training = TrainingConfig(steps=10_000, batch_size=rows, optimizer=OptimizerConfig(learning_rate=1e-5))
    mesh, task, rng = make_mesh(), classification_objective(), np.random.default_rng(0)
    batch = {
        "input_ids": rng.integers(5, 100_000, (rows, length)).astype(np.int32),
        "attention_mask": np.ones((rows, length), np.int32),
        "token_type_ids": np.zeros((rows, length), np.int32),
        "labels": rng.integers(0, 3, rows).astype(np.int32),
        "weights": np.ones(rows, np.float32),
    }
    steps, states, times = {}, {}, {}
    for name, objective in (("plain", plain_objective(task)), ("sift", sift(task, SiftConfig(weight=5.0)))):
        method = one_objective(training, lambda key: SequenceClassification(config, key=key), objective)
        states[name] = initial_state(method.build, method.optimizer, 0, mesh)
        steps[name] = method.make_step(shardings(abstract_state(method.build, method.optimizer, 0, mesh), mesh))
        times[name] = []
    for turn in range(repetitions + 1):
        for name, step in steps.items():
            before = time.perf_counter()
            states[name], metrics = step(states[name], place(batch, mesh))
            jax.block_until_ready(metrics)
            if turn:
                times[name].append(time.perf_counter() - before)
    plain, adversarial = (statistics.median(times[name]) for name in ("plain", "sift"))
    ratio = adversarial / plain
    print(
        f"({rows}, {length}): plain {plain:.2f} s, SiFT {adversarial:.2f} s, ratio {ratio:.2f} (bar {BAR})"
        f"{' MISSED' * (ratio > BAR)}"
    )
    return int(ratio > BAR)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*(numbers + [8, 128, 5][len(numbers) :])))
