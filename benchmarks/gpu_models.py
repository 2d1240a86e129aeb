"""Training steps that the GPU benchmark times: masked language modelling and replaced-token detection."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from replaced_tokens import masked_batch
from steps import Trainer

from deberta_jax.config import AttentionName, Remat
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.module import ModelOptions
from deberta_jax.model.pair import initial_pair
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.config import RtdConfig, generator_config
from deberta_jax.pretraining.objectives import masked_lm_objective
from deberta_jax.pretraining.replaced_tokens import replaced_token_detection
from deberta_jax.sharding import make_mesh
from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.flops import count_flops
from deberta_jax.training.method import TrainingMethod, one_objective
from deberta_jax.training.state import abstract_state


class TrainingProgram(NamedTuple):
    """A training step, and the batch sizes to try, largest first."""

    name: str
    length: int
    batch_sizes: tuple[int, ...]
    vocab_size: int
    make_method: Callable[[int, Remat, AttentionName], TrainingMethod]
    remat: Remat

    def batch(self, batch_size: int) -> dict[str, np.ndarray]:
        batch = masked_batch(batch_size, self.length)
        limited = {name: batch[name] % self.vocab_size for name in ("input_ids", "labels")}
        return batch | limited

    def prepare(self, batch_size: int, attention: AttentionName) -> tuple[Callable[[], object], int]:
        """A function that takes a step with this attention and waits, and its temporary memory in bytes."""
        trainer = Trainer(self.make_method(batch_size, self.remat, attention), _mesh())
        batch = self.batch(batch_size)
        memory = trainer.compile(batch)
        return functools.partial(trainer.run, batch), memory

    def flops(self, batch_size: int) -> int:
        """The operations of a step without rematerialization, with attention in plain XLA."""
        method, mesh = self.make_method(batch_size, "none", "xla"), _mesh()
        state = abstract_state(method.build, method.optimizer, 0, mesh)
        batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in self.batch(batch_size).items()}
        shardings = jax.tree.map(lambda x: x.sharding, state)
        return count_flops(method.make_step(shardings), state, batch)


def _mesh() -> jax.sharding.Mesh:
    return make_mesh(1, 1, 1, devices=jax.devices()[:1])


def training_programs(preset: str, large_preset: str, is_gpu: bool) -> Iterator[TrainingProgram]:
    """The steps of the benchmark; small ones without a GPU."""
    config, large = PRESETS[preset], PRESETS[large_preset]
    length = 512 if is_gpu else 32

    def masked_lm(config: Any, batch_size: int, remat: Remat, attention: AttentionName) -> TrainingMethod:
        def build(key: Any) -> MaskedLM:
            return MaskedLM(config, dtype=jnp.bfloat16, remat=remat, attention=attention, key=key)

        return one_objective(TrainingConfig(steps=1000, batch_size=batch_size), build, masked_lm_objective)

    def pair(batch_size: int, remat: Remat, attention: AttentionName) -> TrainingMethod:
        training = TrainingConfig(steps=1000, batch_size=batch_size)
        generator = generator_config(config)
        options: ModelOptions = {"dtype": jnp.bfloat16, "remat": remat, "attention": attention}
        build = functools.partial(initial_pair, generator, config, **options)
        return replaced_token_detection(training, RtdConfig(), lambda key: build(key=key))

    make = functools.partial
    sizes = (64, 32) if is_gpu else (2,)
    yield TrainingProgram(f"{preset} MLM", length, sizes, config.vocab_size, make(masked_lm, config), "none")
    yield TrainingProgram(f"{preset} RTD", length, sizes, config.vocab_size, pair, "none")
    sizes = (96, 64, 32, 16) if is_gpu else (2,)
    yield TrainingProgram(f"{large_preset} MLM", length, sizes, large.vocab_size, make(masked_lm, large), "full")
