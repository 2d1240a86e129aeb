"""Host memory and time of loading the 1.5 B model: `python benchmarks/load_xxlarge.py [FOLDER]`.

Writes random weights of this size (6.3 GB) into FOLDER, by default a temporary one. Loads them in separate processes,
in float32 and bfloat16, on one device and over a mesh of eight. The devices are those of the host, so its memory
includes the parameters.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from deberta_jax.hub.layout import file_tensors
from deberta_jax.hub.tensors import ComputedTensor, weight_file, write_safetensors
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.presets import PRESETS

LOAD = """
import sys, time
import jax
import deberta_jax as dj

start = time.perf_counter()
mesh = dj.make_mesh(data=1, fsdp=-1) if jax.device_count() > 1 else None
model, _ = dj.from_pretrained(sys.argv[1], "masked_lm", param_dtype=sys.argv[2], mesh=mesh, require_tokenizer=False)
jax.block_until_ready(model)
seconds = time.perf_counter() - start
size = sum(leaf.nbytes for leaf in jax.tree.leaves(model)) / 1e9
peak = 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1e9
print(f"{sys.argv[2]}, {jax.device_count()} devices: ", end="")
print(f"{size:.2f} GB of parameters, {peak:.2f} GB peak, {seconds:.0f} s")
"""


def write(folder: Path) -> None:
    """Write random weights, one tensor at a time."""
    config = PRESETS["v2-xxlarge"]
    shapes = jax.eval_shape(lambda key: MaskedLM(config, key=key), jax.random.key(0))
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.int8(0), leaf.shape), shapes)
    rng = np.random.default_rng(0)

    def random(shape: tuple[int, ...]) -> ComputedTensor:
        return ComputedTensor(shape, np.dtype("float32"), lambda: 0.02 * rng.standard_normal(shape, np.float32))

    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    write_safetensors(folder, {name: random(tensor.shape) for name, tensor in file_tensors(empty, config).items()})


def main(folder: Path) -> None:
    """Write the weights if the folder has none, then load them four times."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.json").exists():
        write(folder)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e9
    print(f"{weight_file(folder)}: {size:.2f} GB")
    for devices in (1, 8):
        flags = f"--xla_force_host_platform_device_count={devices}"
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        for dtype in ("float32", "bfloat16"):
            subprocess.run([sys.executable, "-c", LOAD, str(folder), dtype], check=True, env=environment)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else temporary))
