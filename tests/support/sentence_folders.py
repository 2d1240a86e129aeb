"""sentence-transformers folders, in the forms of several versions."""

import json

import numpy as np
from toy_folders import READING, toy_model
from toy_tokenizers import write_unigram

from deberta_jax.hub.pretrained import save_pretrained
from deberta_jax.hub.tensors import as_tensor, write_safetensors

# The types of modules in version 2 to 5, and since version 6.
OLD_TYPES = {kind: f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Dense", "Normalize")}
NEW_TYPES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
TEXTS = ["A man eats.", "The quick brown fox jumps over the lazy dog", "x"]
TANH, IDENTITY = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def dense_tensors(inputs, outputs, bias=True):
    random = np.random.default_rng(inputs + outputs)
    tensors = {"linear.weight": random.normal(0, 0.3, (outputs, inputs)).astype(np.float32)}
    return tensors | ({"linear.bias": random.normal(0, 0.3, outputs).astype(np.float32)} if bias else {})


def write_sentence_folder(
    folder, pooling, *layers, path="", types=OLD_TYPES, settings=None, lengths=None, config=READING
):
    """A folder with a transformer at `path`, a pooling config, and layers: "Normalize", or the config of a Dense.

    Returns the folder.
    """
    transformer = folder / path
    transformer.mkdir(parents=True, exist_ok=True)
    save_pretrained(transformer, toy_model(config, None))
    write_unigram(transformer)
    modules = [("Transformer", path), ("Pooling", "1_Pooling")]
    if pooling is not None:
        write_json(folder / "1_Pooling" / "config.json", pooling)
    for number, layer in enumerate(layers, 2):
        kind = layer if isinstance(layer, str) else "Dense"
        modules.append((kind, f"{number}_{kind}"))
        if kind == "Dense":
            write_json(folder / f"{number}_Dense" / "config.json", layer)
            tensors = dense_tensors(layer["in_features"], layer["out_features"], layer["bias"])
            write_safetensors(folder / f"{number}_Dense", {name: as_tensor(x) for name, x in tensors.items()})
    values = [
        {"idx": index, "name": str(index), "path": each, "type": types.get(kind, kind)}
        for index, (kind, each) in enumerate(modules)
    ]
    write_json(folder / "modules.json", values)
    if settings is not None:
        write_json(folder / "config_sentence_transformers.json", settings)
    if lengths is not None:
        write_json(transformer / "sentence_bert_config.json", lengths)
    return folder


def dense(inputs, outputs, bias=True, activation=TANH):
    return {"in_features": inputs, "out_features": outputs, "bias": bias, "activation_function": activation}
