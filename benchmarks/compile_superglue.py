"""Compile a SuperGLUE step of the 1.5 B model with virtual adversarial training for TPU v5e, without a TPU.

`python benchmarks/compile_superglue.py [TASK [TOPOLOGY [REMAT [ACCUMULATE]]]]` prints the memory of a step with the
batch size and the length of the recipe, all chips being `--mesh.fsdp`, bfloat16 compute and float32 parameters. It
fails if the step does not fit into a chip of v5e. Needs the extra `tpu`.
"""

import sys
import time

import jax
import jax.numpy as jnp
from timing import verdict

from deberta_jax.finetuning.config import SiftConfig
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.recipes import Selection, recipe
from deberta_jax.finetuning.sift import sift
from deberta_jax.hub.heads import HEADS
from deberta_jax.model.shardings import shardings
from deberta_jax.planning.topologies import tpu_devices
from deberta_jax.presets import PRESETS
from deberta_jax.sharding import batch_sharding, make_mesh
from deberta_jax.tasks.catalogue import TASKS
from deberta_jax.training.optimizer import learning_rate, make_optimizer
from deberta_jax.training.state import abstract_state
from deberta_jax.training.step import make_step

MEMORY_BAR, STEPS = 15.75e9, 1000


def main(task: str = "multirc", topology: str = "v5e:2x4", remat: str = "full", accumulate: str = "1") -> int:
    start = time.perf_counter()
    config = recipe(task, Selection("microsoft/deberta-v2-xxlarge", sift_weight=5.0))
    kind, B, T = KINDS[TASKS[task].kind], config.batch_size, config.max_length
    if kind.name != "single_label":
        raise SystemExit(f"{task} is of kind {kind.name}; choose a task of kind single_label")
    mesh = make_mesh(data=1, fsdp=-1, devices=tpu_devices(topology))
    optimizer, head = make_optimizer(config.optimizer, STEPS), HEADS[kind.head].model
    model = PRESETS["v2-xxlarge"]
    state = abstract_state(lambda key: head(model, dtype=jnp.bfloat16, remat=remat, key=key), optimizer, 0, mesh)
    tokens, sharding = ("input_ids", "attention_mask", "token_type_ids"), batch_sharding(mesh)
    batch = {name: jax.ShapeDtypeStruct((B, T), jnp.int32, sharding=sharding) for name in tokens}
    batch["labels"] = jax.ShapeDtypeStruct((B,), jnp.int32, sharding=sharding)
    batch["weights"] = jax.ShapeDtypeStruct((B,), jnp.float32, sharding=sharding)
    objective = sift(kind.objective, SiftConfig(weight=5.0))
    schedule = learning_rate(config.optimizer, STEPS)
    step = make_step(objective, optimizer, schedule, shardings(state, mesh), int(accumulate))
    memory = step.lower(state, batch).compile().memory_analysis()
    state_bytes = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    total = state_bytes + memory.temp_size_in_bytes
    print(
        f"jax {jax.__version__}, {task}, {topology}: {mesh.size} chips, {B} x {T} tokens, remat {remat}, accumulate "
        f"{accumulate}: {total / 1e9:.2f} GB per chip ({state_bytes / 1e9:.2f} state, "
        f"{memory.temp_size_in_bytes / 1e9:.2f} temporary), compiled in {time.perf_counter() - start:.0f} s"
    )
    print(verdict("fits in memory", total <= MEMORY_BAR))
    return int(total > MEMORY_BAR)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
