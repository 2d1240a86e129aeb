"""Save one step after another until killed, or with `full-disk` once while files cannot grow."""

import resource
import signal
import sys
from pathlib import Path

import jax.numpy as jnp
from stub_lm import build

from deberta_jax.errors import InputError
from deberta_jax.sharding import make_mesh
from deberta_jax.training.checkpoint import Checkpointer
from deberta_jax.training.config import OptimizerConfig
from deberta_jax.training.optimizer import make_optimizer
from deberta_jax.training.state import abstract_state, initial_state

mesh = make_mesh(2, 2, 2)
optimizer = make_optimizer(OptimizerConfig(), 100)
checkpointer = Checkpointer(Path(sys.argv[1]))
restored = checkpointer.restore_latest(abstract_state(build, optimizer, 0, mesh))
state = restored[0] if restored else initial_state(build, optimizer, 0, mesh)

if sys.argv[2] == "full-disk":
    # Python would write compiled modules that are cut at the limit.
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
        checkpointer.save(state._replace(step=state.step + 1), {})
        checkpointer.wait()
    except InputError as error:
        print(error)
        sys.exit(2)
    finally:
        checkpointer.close()

while True:
    state = state._replace(step=state.step + jnp.int32(1))
    print("saving", int(state.step), flush=True)
    checkpointer.save(state, {"step": int(state.step)})
