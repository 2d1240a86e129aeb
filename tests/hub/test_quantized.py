"""Quantized weights are refused in one line; floating-point weights with quantization settings are read."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from toy_folders import V3, toy_model, toy_tensors

from deberta_jax.errors import InputError
from deberta_jax.hub.pretrained import load_pretrained, save_pretrained
from deberta_jax.torch_format.file import write_torch_file

LAYER = "deberta.encoder.layer.0.attention.self.query_proj."
INT8, FLOAT8 = np.zeros((32, 32), np.int8), np.zeros((32, 32), ml_dtypes.float8_e4m3fn)
PACKED, SCALES = np.zeros((4, 32), np.int32), np.ones((1, 32), np.float16)
# The tensors that replace one weight, and what the message says.
KINDS = {
    "bitsandbytes 8 bit": (
        {"weight": INT8, "SCB": SCALES},
        "8-bit weights of bitsandbytes, load them with transformers",
    ),
    "bitsandbytes 4 bit": (
        {"weight": np.zeros((512, 1), np.uint8), "weight.absmax": SCALES, "weight.quant_map": SCALES},
        "4-bit weights of bitsandbytes",
    ),
    "gptq": ({"qweight": PACKED, "qzeros": PACKED, "scales": SCALES, "g_idx": PACKED[0]}, "weights of GPTQ"),
    "awq": ({"qweight": PACKED, "qzeros": PACKED, "scales": SCALES}, "weights of AWQ or GPTQ"),
    "float8": ({"weight": FLOAT8}, "query_proj.weight is float8_e4m3fn"),
    "float8 with scales": ({"weight": FLOAT8, "weight_scale": SCALES}, "scaled 8-bit weights"),
    "compressed": ({"weight_packed": PACKED, "weight_scale": SCALES}, "weights of compressed-tensors"),
    "hqq": ({"W_q": np.zeros((512, 1), np.uint8)}, "weights of HQQ"),
    "quanto": ({"weight._data": INT8, "weight._scale": SCALES}, "weights of quanto or torchao"),
    "without scales": ({"weight": INT8}, "query_proj.weight is int8"),
}


@pytest.fixture
def folder(tmp_path):
    save_pretrained(tmp_path, toy_model(V3, "sequence_classification"))
    return tmp_path


# PyTorch's old storages, which we write, have no type for 8-bit numbers in floating point.
FORMS = [(kind, form) for kind in KINDS for form in ("safetensors", "bin") if form != "bin" or "float8" not in kind]


@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_quantized_weights_are_described(kind, form, folder):
    tensors, description = KINDS[kind]
    content = dict(toy_tensors(V3, "sequence_classification"))
    del content[f"{LAYER}weight"]
    content |= {LAYER + name: x for name, x in tensors.items()}
    if form == "bin":
        (folder / "model.safetensors").unlink()
        write_torch_file(folder / "pytorch_model.bin", content.items())
    else:
        safetensors.numpy.save_file(content, folder / "model.safetensors")
    with pytest.raises(InputError) as error:
        load_pretrained(folder, "sequence_classification", require_tokenizer=False)
    message = str(error.value)
    assert description in message and "quantized: " in message
    assert "or use the weights in floating point" in message and len(message) < 500


def test_the_tool_of_the_settings_is_named(folder):
    content = dict(toy_tensors(V3, "sequence_classification")) | {f"{LAYER}weight": INT8}
    safetensors.numpy.save_file(content, folder / "model.safetensors")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(InputError, match="load it with the tool of its quantization_config, fp8"):
        load_pretrained(folder, require_tokenizer=False)


def test_settings_beside_weights_in_floating_point_are_not_saved_again(folder, tmp_path):
    values = json.loads((folder / "config.json").read_text())
    settings = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    values |= {"quantization_config": settings, "torch_dtype": "float16", "other": 1}
    (folder / "config.json").write_text(json.dumps(values))
    model, _ = load_pretrained(folder, "sequence_classification", require_tokenizer=False)
    save_pretrained(tmp_path / "again", model)
    again = json.loads((tmp_path / "again/config.json").read_text())
    assert "quantization_config" not in again
    assert (again["other"], again["dtype"], again["torch_dtype"]) == (1, "float32", "float32")
