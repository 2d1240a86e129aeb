"""A model folder in the form that Microsoft's code reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deberta_jax.config import DebertaConfig
from deberta_jax.files import write_json
from deberta_jax.hub.layout import with_lm_prefix
from deberta_jax.hub.tensors import TORCH, Tensor
from deberta_jax.torch_format.file import write_torch_file

_ONLY_HUGGING_FACE = {
    *("model_type", "clamp_distances", "pooler_dropout", "pooler_hidden_act", "pooler_hidden_size"),
    *("architectures", "dtype", "torch_dtype", "transformers_version", "legacy"),
}


def write_microsoft(folder: Path, config: DebertaConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write `model_config.json` and `pytorch_model.bin` (docs/numerics.md, "Checkpoint formats"); dtypes are kept."""
    write_json(folder / "model_config.json", _config_values(config))
    named = ((with_lm_prefix(name, "lm_predictions"), tensor.read()) for name, tensor in tensors.items())
    write_torch_file(folder / TORCH, named)


def _config_values(config: DebertaConfig) -> dict[str, Any]:
    values = {key: value for key, value in config.to_dict().items() if key not in _ONLY_HUGGING_FACE}
    values["padding_idx"] = values.pop("pad_token_id")
    values["pos_att_type"] = "|".join(config.pos_att_type) or "none"
    return values | {"pooling": {"dropout": config.pooler_dropout, "hidden_act": config.pooler_hidden_act}}
