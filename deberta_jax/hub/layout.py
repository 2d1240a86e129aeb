"""The one table of names: our parameter paths, the names in Hugging Face's and Microsoft's files, the order of axes.

Read in both directions. Microsoft's files use the same names as Hugging Face's; v1's fused projection interleaves the
rows of query, key and value head by head (spec 1.1).
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from flax import nnx

from deberta_jax.config import DebertaConfig
from deberta_jax.hub.tensors import Made, Tensor

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Order:
    """How one of our arrays stands in a file; `read` is given our shape."""

    read: Callable[[np.ndarray, Shape], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]


SAME = Order(lambda x, shape: x, lambda x: x)
FLAT = Order(lambda x, shape: x.reshape(shape), lambda x: x.reshape(-1))
# Torch keeps a linear map as [out, in]; ours are [in, out] with heads as an axis of their own on either side.
INTO = Order(lambda x, shape: x.T.reshape(shape), lambda x: x.reshape(x.shape[0], -1).T)
FROM = Order(lambda x, shape: x.T.reshape(shape), lambda x: x.reshape(-1, x.shape[-1]).T)
CONVOLUTION = Order(lambda x, shape: x.transpose(2, 1, 0), lambda x: x.transpose(2, 1, 0))

# {layer} stands for the number of a layer in a file; our array has the layers on its first axis.
_LAYER = "encoder.layer.{layer}."
_ENCODER = [
    ("embeddings.word.embedding", "embeddings.word_embeddings.weight", SAME),
    ("embeddings.position.embedding", "embeddings.position_embeddings.weight", SAME),
    ("embeddings.token_type.embedding", "embeddings.token_type_embeddings.weight", SAME),
    ("embeddings.projection.kernel", "embeddings.embed_proj.weight", INTO),
    ("embeddings.norm", "embeddings.LayerNorm", SAME),
    ("encoder.relative.embedding", "encoder.rel_embeddings.weight", SAME),
    ("encoder.relative_norm", "encoder.LayerNorm", SAME),
    ("encoder.convolution.kernel", "encoder.conv.conv.weight", CONVOLUTION),
    ("encoder.convolution.bias", "encoder.conv.conv.bias", SAME),
    ("encoder.convolution.norm", "encoder.conv.LayerNorm", SAME),
    ("encoder.layers.attention.output.kernel", _LAYER + "attention.output.dense.weight", FROM),
    ("encoder.layers.attention.output.bias", _LAYER + "attention.output.dense.bias", SAME),
    ("encoder.layers.attention.norm", _LAYER + "attention.output.LayerNorm", SAME),
    ("encoder.layers.up.kernel", _LAYER + "intermediate.dense.weight", INTO),
    ("encoder.layers.up.bias", _LAYER + "intermediate.dense.bias", SAME),
    ("encoder.layers.down.kernel", _LAYER + "output.dense.weight", INTO),
    ("encoder.layers.down.bias", _LAYER + "output.dense.bias", SAME),
    ("encoder.layers.norm", _LAYER + "output.LayerNorm", SAME),
]
_PROJECTIONS = {
    "deberta-v2": {
        "query": "query_proj",
        "key": "key_proj",
        "value": "value_proj",
        "position_key": "pos_key_proj",
        "position_query": "pos_query_proj",
    },
    "deberta": {"position_key": "pos_proj", "position_query": "pos_q_proj"},
}
_FUSED = ("query", "key", "value")
_DECODER = [("decoder.position.embedding", "deberta.embeddings.position_embeddings.weight", SAME)]
_MASKED_LM_HEADS = {
    "lm_predictions": [
        ("head.dense.kernel", "lm_predictions.lm_head.dense.weight", INTO),
        ("head.dense.bias", "lm_predictions.lm_head.dense.bias", SAME),
        ("head.norm", "lm_predictions.lm_head.LayerNorm", SAME),
        ("head.bias", "lm_predictions.lm_head.bias", SAME),
    ],
    "cls": [
        ("head.dense.kernel", "cls.predictions.transform.dense.weight", INTO),
        ("head.dense.bias", "cls.predictions.transform.dense.bias", SAME),
        ("head.norm", "cls.predictions.transform.LayerNorm", SAME),
        ("head.bias", "cls.predictions.bias", SAME),
    ],
}
_TASK_HEADS = [
    *(("pooler.dense.kernel", "pooler.dense.weight", INTO), ("pooler.dense.bias", "pooler.dense.bias", SAME)),
    *(("classifier.kernel", "classifier.weight", INTO), ("classifier.bias", "classifier.bias", SAME)),
    # Microsoft's dense layer before the labels of tokens, and of entities.
    *(("projection.kernel", "proj.weight", INTO), ("projection.bias", "proj.bias", SAME)),
    *(("span.kernel", "qa_outputs.weight", INTO), ("span.bias", "qa_outputs.bias", SAME)),
    ("detector.norm", "mask_predictions.LayerNorm", SAME),
    ("detector.dense.kernel", "mask_predictions.dense.weight", INTO),
    ("detector.dense.bias", "mask_predictions.dense.bias", SAME),
    ("detector.classifier.kernel", "mask_predictions.classifier.weight", INTO),
    ("detector.classifier.bias", "mask_predictions.classifier.bias", SAME),
]
# In files though nothing of every model: a tied copy, a buffer, or a part that only another model uses.
TIED = {
    "cls.predictions.decoder.weight": "deberta.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
_UNUSED = ("deberta.embeddings.position_embeddings.weight", "deberta.embeddings.position_ids")
_HEADS = ("lm_predictions", "cls", "mask_predictions", "classifier", "pooler", "qa_outputs", "proj")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a file and the arrays of ours that it holds (three for a fused projection, one else)."""

    paths: tuple[str, ...]
    name: str
    order: Order

    def read(self, tensor: np.ndarray, shapes: Iterable[Shape]) -> list[np.ndarray]:
        """Our arrays out of a file's tensor, shapes without the layer axis."""
        if len(self.paths) == 1:
            return [self.order.read(tensor, shape) for shape in shapes]
        D, N, H = next(iter(shapes))
        heads = tensor.reshape(N, len(self.paths), H, D)
        return [heads[:, part].transpose(2, 0, 1) for part in range(len(self.paths))]

    def shape(self, shapes: Iterable[Shape]) -> Shape:
        """The shape of the file's tensor, of our shapes without the layer axis."""
        return self.write([np.broadcast_to(np.int8(0), shape) for shape in shapes]).shape

    def write(self, arrays: list[np.ndarray]) -> np.ndarray:
        """The file's tensor out of our arrays."""
        if len(self.paths) == 1:
            return self.order.write(arrays[0])
        D = arrays[0].shape[0]
        return np.stack([array.transpose(1, 2, 0) for array in arrays], axis=1).reshape(-1, D)


def model_paths(model: nnx.Module) -> dict[str, Any]:
    """Every parameter by its dotted path, such as `encoder.layers.attention.query.kernel`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(model)
    return {".".join(key.name for key in path[:-1]): leaf for path, leaf in leaves}


def entries(
    config: DebertaConfig, paths: Iterable[str], *, head: str = "lm_predictions", prefixed: bool = False
) -> list[Entry]:
    """The table for a model of these parameter paths, with `{layer}` still in the names of stacked ones.

    The names of a bare model begin with `deberta.` too if `prefixed`.
    """
    paths = set(paths)
    inner = "deberta." if any(path.startswith("deberta.") for path in paths) else ""
    before = "deberta." if prefixed else inner
    table = [(inner + path, before + name, order) for path, name, order in _ENCODER]
    self_name = before + _LAYER + "attention.self."
    self_path = inner + "encoder.layers.attention."
    for ours, theirs in _PROJECTIONS[config.model_type].items():
        table.append((f"{self_path}{ours}.kernel", f"{self_name}{theirs}.weight", INTO))
        table.append((f"{self_path}{ours}.bias", f"{self_name}{theirs}.bias", FLAT))
    if config.model_type == "deberta":
        table.append((f"{self_path}query.bias", f"{self_name}q_bias", FLAT))
        table.append((f"{self_path}value.bias", f"{self_name}v_bias", FLAT))
    table += _DECODER + _MASKED_LM_HEADS[head] + _TASK_HEADS
    norms = [(path, name, order) for path, name, order in table if path.endswith("norm")]
    table = [row for row in table if row not in norms]
    table += [(f"{path}.scale", f"{name}.weight", order) for path, name, order in norms]
    table += [(f"{path}.bias", f"{name}.bias", order) for path, name, order in norms]
    found = [Entry((path,), name, order) for path, name, order in table if path in paths]
    if config.model_type == "deberta":
        fused = tuple(f"{self_path}{part}.kernel" for part in _FUSED)
        found.append(Entry(fused, f"{self_name}in_proj.weight", SAME))
    unnamed = paths - {path for entry in found for path in entry.paths}
    if unnamed:
        raise ValueError(f"no name in files for {', '.join(sorted(unnamed))}")
    return found


def file_tensors(model: nnx.Module, config: DebertaConfig, *, head: str = "lm_predictions") -> dict[str, Tensor]:
    """Every tensor of the model under its file name, computed when it is read."""
    arrays = model_paths(model)
    tensors: dict[str, Tensor] = {}
    for entry in entries(config, arrays, head=head):
        ours = [arrays[path] for path in entry.paths]
        stacked = "{layer}" in entry.name
        shape = entry.shape([x.shape[stacked:] for x in ours])
        for layer in range(ours[0].shape[0]) if stacked else [None]:
            read = lambda entry=entry, ours=ours, layer=layer: _written(entry, ours, layer)  # noqa: E731
            tensors[entry.name.format(layer=layer)] = Made(shape, np.dtype(ours[0].dtype), read)
    return tensors


def export_tensors(model: nnx.Module, config: DebertaConfig, *, head: str = "lm_predictions") -> dict[str, np.ndarray]:
    """The tensors of `file_tensors` as arrays, all in memory."""
    return {name: tensor.read() for name, tensor in file_tensors(model, config, head=head).items()}


def with_head(name: str, head: str) -> str:
    """The name of a tensor where the masked language model's head has those of `head`, "cls" or "lm_predictions"."""
    pairs = zip(*(_MASKED_LM_HEADS[form] for form in ("cls", "lm_predictions")), strict=True)
    for named in ({"cls": first, "lm_predictions": second} for (_, first, _), (_, second, _) in pairs):
        for form, its in named.items():
            if form != head and (name == its or name.startswith(f"{its}.")):
                return named[head] + name.removeprefix(its)
    return name


def may_be_left(name: str, built: Iterable[str]) -> bool:
    """Whether a model may do without a tensor of a file: any of another head, none of its own but tied copies.

    `built` are the first words of its names, such as "pooler".
    """
    first = name.partition(".")[0]
    return name in _UNUSED or name in TIED or (first in _HEADS and first not in built)


def head_for_masks(names: Iterable[str], config: DebertaConfig) -> str | None:
    """Under which names a file has the masked language model's head, "cls" or "lm_predictions"; None if it has none.

    Of two the config's `legacy` says which; transformers takes "cls" where it is silent.
    """
    found = {name.partition(".")[0] for name in names} & {"cls", "lm_predictions"}
    if len(found) == 2:
        return "lm_predictions" if config.extra.get("legacy") is False else "cls"
    return next(iter(found), None)


def _written(entry: Entry, ours: list[Any], layer: int | None) -> np.ndarray:
    arrays = [np.asarray(x if layer is None else x[layer]) for x in ours]
    return np.ascontiguousarray(entry.write(arrays))
