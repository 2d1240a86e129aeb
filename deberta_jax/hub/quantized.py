"""Quantized weights: recognized by the names and dtypes of tensors, and refused with the tool that reads them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.hub.tensors import Tensor

# Keys of a `config.json` that describe quantized weights; they are left out of the config of weights in floating point.
QUANTIZATION_KEYS = ("quantization_config", "compression_config")
_BITSANDBYTES = "bitsandbytes, load them with transformers and call `model.dequantize()`"
# The ends of tensor names that only quantized weights have, and the tool that wrote them; the first match is reported.
_TOOLS = (
    (r"\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*)", f"4-bit weights of {_BITSANDBYTES}"),
    (r"\.(SCB|weight_format)", f"8-bit weights of {_BITSANDBYTES}"),
    (r"\.g_idx", "weights of GPTQ, load them with transformers and gptqmodel"),
    (r"\.qzeros|\.qweight", "weights of AWQ or GPTQ, load them with transformers and autoawq or gptqmodel"),
    (r"\.weight_packed", "weights of compressed-tensors, load them with transformers and compressed-tensors"),
    (r"\.weight_scale(_inv)?|\.input_scale", "scaled 8-bit weights (FP8 or compressed-tensors), load them with vLLM"),
    (r"\.W_q", "weights of HQQ, load them with transformers and hqq"),
    (
        r"\._(data|scale|qdata)|_weight_qdata",
        "weights of quanto or torchao, load them with transformers and that package",
    ),
    (r"\._packed_params.*", "weights of PyTorch's quantization, load them with PyTorch"),
)


def check_quantized(tensors: Mapping[str, Tensor], values: Mapping[str, Any], source: str | Path) -> None:
    """Raise InputError if the tensors of a file are quantized; `values` are those of its config."""
    for pattern, tool in _TOOLS:
        end = re.compile(f".*{pattern}", re.DOTALL)
        if any(end.fullmatch(name) for name in tensors):
            raise InputError(f"{source}: quantized: {tool}; or use the weights in floating point that it was made from")
    for name, tensor in tensors.items():
        if name.endswith("weight") and len(tensor.shape) == 2 and tensor.dtype.itemsize == 1:
            settings = values.get("quantization_config")
            method = settings.get("quant_method") if isinstance(settings, dict) else None
            tool = (
                f"the tool of its quantization_config, {method}"
                if isinstance(method, str)
                else "the tool that wrote it"
            )
            raise InputError(
                f"{source}: quantized: {name[-100:]} is {tensor.dtype}; load it with {tool[:100]}, or use the weights "
                "in floating point that it was made from"
            )
