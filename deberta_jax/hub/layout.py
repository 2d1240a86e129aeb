"""The one table of names: our parameter paths, the names in Hugging Face's and Microsoft's files, the order of axes.

It is read in both directions. Microsoft's files use the same names as Hugging Face's; the fused projection of v1
interleaves the rows of query, key and value head by head (docs/numerics.md, "Checkpoint formats").
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import list_names
from deberta_jax.hub.tensors import ComputedTensor, Tensor

Shape = tuple[int, ...]
# The first word of the names of the masked language model's head, in its two forms.
MaskedLMPrefix = Literal["lm_predictions", "cls"]


@dataclasses.dataclass(frozen=True)
class Order:
    """The order of axes of an array in a file: `read` turns it into ours (of the given shape), `write` back."""

    read: Callable[[np.ndarray, Shape], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]


SAME = Order(lambda x, shape: x, lambda x: x)
FLAT = Order(lambda x, shape: x.reshape(shape), lambda x: x.reshape(-1))
# Torch stores a linear map as [out, in]. Ours are [in, *out], that of the attention output is [*in, out].
KERNEL = Order(lambda x, shape: x.T.reshape(shape), lambda x: x.reshape(x.shape[0], -1).T)
OUTPUT_KERNEL = Order(lambda x, shape: x.T.reshape(shape), lambda x: x.reshape(-1, x.shape[-1]).T)
CONVOLUTION = Order(lambda x, shape: x.transpose(2, 1, 0), lambda x: x.transpose(2, 1, 0))

# {layer} is replaced by the number of a layer; our array stacks the layers on its first axis.
_LAYER = "encoder.layer.{layer}."
_ENCODER = [
    ("embeddings.word.embedding", "embeddings.word_embeddings.weight", SAME),
    ("embeddings.position.embedding", "embeddings.position_embeddings.weight", SAME),
    ("embeddings.token_type.embedding", "embeddings.token_type_embeddings.weight", SAME),
    ("embeddings.projection.kernel", "embeddings.embed_proj.weight", KERNEL),
    ("embeddings.norm", "embeddings.LayerNorm", SAME),
    ("encoder.relative.embedding", "encoder.rel_embeddings.weight", SAME),
    ("encoder.relative_norm", "encoder.LayerNorm", SAME),
    ("encoder.convolution.kernel", "encoder.conv.conv.weight", CONVOLUTION),
    ("encoder.convolution.bias", "encoder.conv.conv.bias", SAME),
    ("encoder.convolution.norm", "encoder.conv.LayerNorm", SAME),
    ("encoder.layers.attention.output.kernel", _LAYER + "attention.output.dense.weight", OUTPUT_KERNEL),
    ("encoder.layers.attention.output.bias", _LAYER + "attention.output.dense.bias", SAME),
    ("encoder.layers.attention.norm", _LAYER + "attention.output.LayerNorm", SAME),
    ("encoder.layers.up.kernel", _LAYER + "intermediate.dense.weight", KERNEL),
    ("encoder.layers.up.bias", _LAYER + "intermediate.dense.bias", SAME),
    ("encoder.layers.down.kernel", _LAYER + "output.dense.weight", KERNEL),
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
FUSED = ("query", "key", "value")
POSITIONS = "deberta.embeddings.position_embeddings.weight"
_POSITIONS = [("decoder.position.embedding", POSITIONS, SAME)]
_MASKED_LM_HEADS: dict[MaskedLMPrefix, list[tuple[str, str, Order]]] = {
    "lm_predictions": [
        ("head.dense.kernel", "lm_predictions.lm_head.dense.weight", KERNEL),
        ("head.dense.bias", "lm_predictions.lm_head.dense.bias", SAME),
        ("head.norm", "lm_predictions.lm_head.LayerNorm", SAME),
        ("head.bias", "lm_predictions.lm_head.bias", SAME),
    ],
    "cls": [
        ("head.dense.kernel", "cls.predictions.transform.dense.weight", KERNEL),
        ("head.dense.bias", "cls.predictions.transform.dense.bias", SAME),
        ("head.norm", "cls.predictions.transform.LayerNorm", SAME),
        ("head.bias", "cls.predictions.bias", SAME),
    ],
}
_TASK_HEADS = [
    *(("pooler.dense.kernel", "pooler.dense.weight", KERNEL), ("pooler.dense.bias", "pooler.dense.bias", SAME)),
    *(("classifier.kernel", "classifier.weight", KERNEL), ("classifier.bias", "classifier.bias", SAME)),
    # Microsoft's dense layer before the labels of tokens, and before the scores of entities.
    *(("projection.kernel", "proj.weight", KERNEL), ("projection.bias", "proj.bias", SAME)),
    *(("span.kernel", "qa_outputs.weight", KERNEL), ("span.bias", "qa_outputs.bias", SAME)),
    # A text classifier with another pooler than transformers', and the scores of windows: heads of this library.
    ("pooler.scorer.dense.kernel", "text_pooler.dense.weight", KERNEL),
    ("pooler.scorer.dense.bias", "text_pooler.dense.bias", SAME),
    ("pooler.scorer.score.kernel", "text_pooler.score.weight", KERNEL),
    ("pooler.layer_scores", "text_pooler.layer_scores", SAME),
    ("text_classifier.kernel", "text_classifier.weight", KERNEL),
    ("text_classifier.bias", "text_classifier.bias", SAME),
    ("window_scorer.dense.kernel", "window_scorer.dense.weight", KERNEL),
    ("window_scorer.dense.bias", "window_scorer.dense.bias", SAME),
    ("window_scorer.score.kernel", "window_scorer.score.weight", KERNEL),
    ("detector.norm", "mask_predictions.LayerNorm", SAME),
    ("detector.dense.kernel", "mask_predictions.dense.weight", KERNEL),
    ("detector.dense.bias", "mask_predictions.dense.bias", SAME),
    ("detector.classifier.kernel", "mask_predictions.classifier.weight", KERNEL),
    ("detector.classifier.bias", "mask_predictions.classifier.bias", SAME),
]
_HEAD_PARTS = {name.partition(".")[0] for _, name, _ in _TASK_HEADS} | _MASKED_LM_HEADS.keys()
DECODER, DECODER_BIAS = "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"
# Copies of other tensors in the same file, except in an untied masked language model (`hub.tied`).
TIED = {DECODER: "deberta.embeddings.word_embeddings.weight", DECODER_BIAS: "cls.predictions.bias"}
# A part that only some models use, and a buffer.
_UNUSED = (POSITIONS, "deberta.embeddings.position_ids")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a file and our arrays in it: three for a fused projection, else one."""

    paths: tuple[str, ...]
    name: str
    order: Order

    def read(self, tensor: np.ndarray, shapes: Iterable[Shape]) -> list[np.ndarray]:
        """Our arrays from a file's tensor; shapes are without the layer axis."""
        if len(self.paths) == 1:
            return [self.order.read(tensor, shape) for shape in shapes]
        D, N, H = next(iter(shapes))
        heads = tensor.reshape(N, len(self.paths), H, D)
        return [heads[:, part].transpose(2, 0, 1) for part in range(len(self.paths))]

    def shape(self, shapes: Iterable[Shape]) -> Shape:
        """The shape of the file's tensor, from our shapes without the layer axis."""
        return self.write([np.broadcast_to(np.int8(0), shape) for shape in shapes]).shape

    def write(self, arrays: list[np.ndarray]) -> np.ndarray:
        """The file's tensor from our arrays."""
        if len(self.paths) == 1:
            return self.order.write(arrays[0])
        D = arrays[0].shape[0]
        return np.stack([array.transpose(1, 2, 0) for array in arrays], axis=1).reshape(-1, D)


def model_paths(model: nnx.Module) -> dict[str, Any]:
    """Every parameter by its dotted path, such as `encoder.layers.attention.query.kernel`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(model)
    return {".".join(key.name for key in path[:-1]): leaf for path, leaf in leaves}


def entries(
    config: DebertaConfig,
    paths: Iterable[str],
    *,
    lm_prefix: MaskedLMPrefix = "lm_predictions",
    prefixed: bool = False,
) -> list[Entry]:
    """The table for a model with these parameter paths; names of stacked layers contain `{layer}`.

    With `prefixed` the names of a bare model begin with `deberta.` too.
    """
    paths = set(paths)
    path_prefix = "deberta." if any(path.startswith("deberta.") for path in paths) else ""
    name_prefix = "deberta." if prefixed else path_prefix
    table = [(path_prefix + path, name_prefix + name, order) for path, name, order in _ENCODER]
    attention_name = name_prefix + _LAYER + "attention.self."
    attention_path = path_prefix + "encoder.layers.attention."
    for part, name in _PROJECTIONS[config.model_type].items():
        table.append((f"{attention_path}{part}.kernel", f"{attention_name}{name}.weight", KERNEL))
        table.append((f"{attention_path}{part}.bias", f"{attention_name}{name}.bias", FLAT))
    if config.model_type == "deberta":
        table.append((f"{attention_path}query.bias", f"{attention_name}q_bias", FLAT))
        table.append((f"{attention_path}value.bias", f"{attention_name}v_bias", FLAT))
    table += _POSITIONS + _MASKED_LM_HEADS[lm_prefix] + _TASK_HEADS
    if lm_prefix == "cls":
        table.append(("head.decoder.embedding", DECODER, SAME))
    norms = [(path, name, order) for path, name, order in table if path.endswith("norm")]
    table = [row for row in table if row not in norms]
    table += [(f"{path}.scale", f"{name}.weight", order) for path, name, order in norms]
    table += [(f"{path}.bias", f"{name}.bias", order) for path, name, order in norms]
    selected = [Entry((path,), name, order) for path, name, order in table if path in paths]
    if config.model_type == "deberta":
        fused = tuple(f"{attention_path}{part}.kernel" for part in FUSED)
        selected.append(Entry(fused, f"{attention_name}in_proj.weight", SAME))
    unnamed = paths - {path for entry in selected for path in entry.paths}
    if unnamed:
        raise ValueError(f"the table has no name for {list_names(sorted(unnamed))}")
    return selected


def file_tensors(
    model: nnx.Module, config: DebertaConfig, *, lm_prefix: MaskedLMPrefix = "lm_predictions"
) -> dict[str, Tensor]:
    """Every tensor of the model under its name in a file, computed when it is read."""
    parameters = model_paths(model)
    tensors: dict[str, Tensor] = {}
    for entry in entries(config, parameters, lm_prefix=lm_prefix):
        arrays = [parameters[path] for path in entry.paths]
        stacked = "{layer}" in entry.name
        shape = entry.shape([x.shape[stacked:] for x in arrays])
        for layer in range(config.num_hidden_layers) if stacked else [None]:
            # Layers that share parameters are written one by one, as transformers has them.
            group = None if layer is None else config.group_of(layer)
            read = lambda entry=entry, arrays=arrays, group=group: _write_layer(entry, arrays, group)  # noqa: E731
            tensors[entry.name.format(layer=layer)] = ComputedTensor(shape, np.dtype(arrays[0].dtype), read)
    return tensors


def export_tensors(
    model: nnx.Module, config: DebertaConfig, *, lm_prefix: MaskedLMPrefix = "lm_predictions"
) -> dict[str, np.ndarray]:
    """The tensors of `file_tensors` as arrays, all of them in memory."""
    return {name: tensor.read() for name, tensor in file_tensors(model, config, lm_prefix=lm_prefix).items()}


def _write_layer(entry: Entry, arrays: list[Any], layer: int | None) -> np.ndarray:
    parts = [np.asarray(x if layer is None else x[layer]) for x in arrays]
    return np.ascontiguousarray(entry.write(parts))


def with_lm_prefix(name: str, lm_prefix: MaskedLMPrefix) -> str:
    """The name of a tensor in a file whose masked language model's head has this prefix; other names are unchanged."""
    other: MaskedLMPrefix = "cls" if lm_prefix == "lm_predictions" else "lm_predictions"
    for (_, old, _), (_, new, _) in zip(_MASKED_LM_HEADS[other], _MASKED_LM_HEADS[lm_prefix], strict=True):
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name


def masked_lm_prefix(names: Iterable[str], config: DebertaConfig) -> MaskedLMPrefix | None:
    """The prefix of the masked language model's head in a file with these tensor names; None without such a head.

    If a file contains both, `legacy` in the config decides; without it transformers takes "cls".
    """
    prefixes = {name.partition(".")[0] for name in names}
    present = [prefix for prefix in _MASKED_LM_HEADS if prefix in prefixes]
    if len(present) == 2:
        return "lm_predictions" if config.extra.get("legacy") is False else "cls"
    return present[0] if present else None


def is_head_tensor(name: str) -> bool:
    """Whether a file's tensor belongs to a head, under its current name or the names of old norms."""
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    names = [row[1] for table in (*_MASKED_LM_HEADS.values(), _TASK_HEADS) for row in table]
    norms = {f"{norm}.{part}" for norm in names if norm.endswith("LayerNorm") for part in ("weight", "bias")}
    return name in {*names, *norms, DECODER, DECODER_BIAS}


def may_be_ignored(name: str, model_parts: Collection[str]) -> bool:
    """Whether a model can be loaded without this tensor of a file: a tied copy, or a part of a head it does not have.

    `model_parts` are the first words of the model's tensor names, such as "pooler".
    """
    part = name.partition(".")[0]
    return name in _UNUSED or name in TIED or (part in _HEAD_PARTS and part not in model_parts)
