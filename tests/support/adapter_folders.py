"""PEFT adapter folders with random matrices."""

import json

import numpy as np
from toy_folders import toy_tensors

from deberta_jax.hub.tensors import as_tensor, write_tensor_file

PREFIX = "base_model.model."
LAYER = "deberta.encoder.layer.{}.attention.self."


def matrices(module, rows, columns, rank=2, seed=0):
    """The tensors of an adapter, by their names in a file."""
    random = np.random.default_rng(seed)
    name = f"{PREFIX}{module}"
    return {
        f"{name}.lora_A.weight": random.normal(0, 0.3, (rank, columns)).astype(np.float32),
        f"{name}.lora_B.weight": random.normal(0, 0.3, (rows, rank)).astype(np.float32),
    }


def write_adapter(folder, tensors, base=None, file="adapter_model.safetensors", **settings):
    """Write an adapter of LoRA with rank 2 and alpha 6; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensor_file(folder / file, {name: as_tensor(x) for name, x in tensors.items()})
    values = {"peft_type": "LORA", "base_model_name_or_path": base and str(base), "r": 2, "lora_alpha": 6}
    (folder / "adapter_config.json").write_text(json.dumps(values | settings))
    return folder


def merged(config, head, adapters, scale):
    """The tensors of `toy_model`, with products added to the weights of some modules; `adapters` by module."""
    tensors = dict(toy_tensors(config, head))
    for module, parts in adapters.items():
        a, b = parts.values()
        tensors[f"{module}.weight"] = tensors[f"{module}.weight"] + np.float32(scale) * (b @ a)
    return tensors
