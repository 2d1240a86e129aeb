"""A model folder as Microsoft's own code reads it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deberta_jax.config import DebertaConfig
from deberta_jax.files import replace_file
from deberta_jax.hub.layout import with_head
from deberta_jax.hub.tensors import TORCH, Tensor
from deberta_jax.torch_format.file import write_torch_file


def write_microsoft(folder: Path, config: DebertaConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write `pytorch_model.bin` and `model_config.json` (spec 9.1, peers 2.4); tensors keep their dtypes."""
    values = _config(config)
    replace_file(
        folder / "model_config.json", lambda path: path.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
    )
    write_torch_file(
        folder / TORCH, ((with_head(name, "lm_predictions"), tensor.read()) for name, tensor in tensors.items())
    )


def _config(config: DebertaConfig) -> dict[str, Any]:
    ours = {"model_type", "clamp_distances", "pooler_dropout", "pooler_hidden_act", "pooler_hidden_size"}
    theirs = {"architectures", "dtype", "torch_dtype", "transformers_version", "legacy"}
    values = {key: value for key, value in config.to_dict().items() if key not in ours | theirs}
    values["padding_idx"] = values.pop("pad_token_id")
    values["pos_att_type"] = "|".join(config.pos_att_type) or "none"
    return values | {"pooling": {"dropout": config.pooler_dropout, "hidden_act": config.pooler_hidden_act}}
