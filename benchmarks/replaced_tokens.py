"""The cost of a step of replaced-token detection, relative to its parts, with the geometry of v3-small.

`python benchmarks/replaced_tokens.py [BATCH_SIZE LENGTH]` prints medians of alternating runs on this machine: a step of
the generator (masked language modelling), a forward and backward pass of the discriminator, and a joint step of both.
It also prints the compiled temporary memory, and for comparison the memory of logits at every position.
"""

import sys

import jax
import numpy as np
from steps import Trainer
from timing import alternate, seconds

from deberta_jax.data.masking import Masking
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.pair import initial_pair
from deberta_jax.model.replaced_token_detection import ReplacedTokenDetection
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.config import RtdConfig, generator_config
from deberta_jax.pretraining.objectives import masked_lm_objective
from deberta_jax.pretraining.replaced_token_losses import discriminator_objective
from deberta_jax.pretraining.replaced_tokens import replaced_token_detection
from deberta_jax.sharding import make_mesh
from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.method import one_objective
from deberta_jax.training.step import place

REPETITIONS = 3
CONFIG = PRESETS["v3-small"]
GENERATOR = generator_config(CONFIG)


def masked_batch(batch_size: int, length: int) -> dict[str, np.ndarray]:
    """Random token ids with masked positions."""
    rng = np.random.default_rng(0)
    slots = Masking().slots(length)
    positions = np.tile(np.arange(1, length), (batch_size, 1))
    positions = np.sort(rng.permuted(positions, axis=1)[:, :slots], axis=1)
    ids = rng.integers(5, CONFIG.vocab_size, (batch_size, length)).astype(np.int32)
    return {
        "input_ids": ids,
        "segment_ids": np.ones_like(ids),
        "position_ids": np.tile(np.arange(length, dtype=np.int32), (batch_size, 1)),
        "masked_positions": positions.astype(np.int32),
        "labels": np.take_along_axis(ids, positions, 1),
        "label_weights": np.ones((batch_size, slots), np.float32),
    }


class DiscriminatorGradient:
    """The gradient of the discriminator alone, with the interface of `Trainer`."""

    def __init__(self, mesh: jax.sharding.Mesh):
        self.mesh = mesh
        self.model = jax.jit(lambda key: ReplacedTokenDetection(CONFIG, key=key))(jax.random.key(0))

    def run(self, batch: dict[str, np.ndarray]) -> None:
        jax.block_until_ready(self._gradient(*self._arguments(batch)))

    def compile(self, batch: dict[str, np.ndarray]) -> int:
        def loss(model, batch, key):
            sums = discriminator_objective(model, batch, key)
            return sums.loss / sums.weight

        self._gradient = jax.jit(jax.value_and_grad(loss)).lower(*self._arguments(batch)).compile()
        return self._gradient.memory_analysis().temp_size_in_bytes

    def _arguments(self, batch: dict[str, np.ndarray]) -> tuple:
        replaced = batch["input_ids"] % 8 == 0
        return self.model, place({**batch, "replaced": replaced}, self.mesh), jax.random.key(0)


def main(batch_size: int = 8, length: int = 256) -> None:
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    batch = masked_batch(batch_size, length)
    training = TrainingConfig(steps=1000, batch_size=batch_size)
    generator = one_objective(training, lambda key: MaskedLM(GENERATOR, key=key), masked_lm_objective)
    pair = replaced_token_detection(
        training, RtdConfig(step="joint"), lambda key: initial_pair(GENERATOR, CONFIG, key=key)
    )
    programs = {
        "generator": Trainer(generator, mesh),
        "discriminator": DiscriminatorGradient(mesh),
        "joint": Trainer(pair, mesh),
    }
    memory = {name: program.compile(batch) for name, program in programs.items()}

    def measure(program):
        # The first run of a turn allocates memory that the other programs had.
        program.run(batch)
        return seconds(lambda: program.run(batch))

    medians = alternate({name: lambda p=p: measure(p) for name, p in programs.items()}, REPETITIONS)
    all_logits = batch_size * length * CONFIG.vocab_size * 4 / 2**30
    print(f"v3-small, ({batch_size}, {length}), float32; logits at every position would take {all_logits:.2f} GiB")
    for name in programs:
        print(f"{name:13s} {medians[name]:7.2f} s  {memory[name] / 2**30:5.2f} GiB temporary")
    print(f"joint step / sum of its parts: {medians['joint'] / (medians['generator'] + medians['discriminator']):.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
