"""The cost of a step with virtual adversarial training (SiFT), relative to a plain step; float32, v3-small geometry.

`python benchmarks/sift.py [BATCH_SIZE [LENGTH [REPETITIONS]]]` prints medians of alternating runs on this CPU;
gradients and AdamW are included in both.
"""

import sys

from steps import Trainer, random_batch, v3_small_classifier
from timing import alternate, seconds

from deberta_jax.finetuning.config import SiftConfig
from deberta_jax.finetuning.objectives import classification_objective, plain_objective
from deberta_jax.finetuning.sift import sift
from deberta_jax.sharding import make_mesh

BAR = 3.2
LABELS = "0", "1", "2"


def main(batch_size: int = 8, length: int = 128, repetitions: int = 5) -> int:
    mesh, task = make_mesh(), classification_objective()
    batch = random_batch(batch_size, length, len(LABELS), vocab_size=100_000)
    objectives = {"plain": plain_objective(task), "sift": sift(task, SiftConfig(weight=5.0))}
    measures = {}
    for name, objective in objectives.items():
        trainer = Trainer(v3_small_classifier(objective, LABELS, batch_size), mesh)
        trainer.run(batch)
        measures[name] = lambda trainer=trainer: seconds(lambda: trainer.run(batch))
    medians = alternate(measures, repetitions)
    ratio = medians["sift"] / medians["plain"]
    print(
        f"({batch_size}, {length}): plain {medians['plain']:.2f} s, SiFT {medians['sift']:.2f} s, ratio {ratio:.2f} "
        f"(bar {BAR}){' MISSED' * (ratio > BAR)}"
    )
    return int(ratio > BAR)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:4])))
