"""Folders of models that other tools read are refused in one line that says what they are."""

import json
import re

import numpy as np
import pytest
from mock_hub import serving
from toy_folders import V3, toy_model

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.hub.pretrained import from_pretrained, save_pretrained

CONFIG = {"model_type": "deberta-v2"}
# The files of a folder beside `config.json`, and what its message says.
WITHOUT_WEIGHTS = {
    "gguf": (["deberta-q4.gguf"], "GGUF model; run it with llama.cpp"),
    "onnx": (["model.onnx"], "ONNX model; run it with ONNX Runtime"),
    "onnx in a subfolder": (["onnx/model_quantized.onnx", "onnx/model.onnx"], "ONNX model"),
    "openvino": (["openvino_model.xml", "openvino_model.bin"], "OpenVINO model; run it with OpenVINO or optimum-intel"),
    "openvino in a subfolder": (["openvino/openvino_model.xml", "openvino/openvino_model.bin"], "OpenVINO model"),
    "tensorflow": (["tf_model.h5"], "TensorFlow weights; convert them with transformers 4"),
    "saved model": (["saved_model/1/saved_model.pb"], "TensorFlow weights"),
    "sharded tensorflow": (["tf_model.h5.index.json", "tf_model-00001-of-00002.h5"], "TensorFlow weights"),
    "flax": (["flax_model.msgpack"], "Flax weights of transformers; convert them with transformers 4"),
    "keras": (["model.weights.h5"], "Keras model; load it with KerasHub"),
    "rust": (["rust_model.ot"], "weights of rust-bert"),
    "core ml": (["coreml/model.mlpackage/Manifest.json"], "Core ML model"),
    "paddle": (["model_state.pdparams"], "PaddlePaddle model"),
    "lite": (["model.tflite"], "TensorFlow Lite model"),
    "tensorrt": (["model.engine"], "TensorRT engine"),
    "adapters": (["pytorch_adapter.bin", "head_config.json"], "adapter of the package adapters"),
    "deepspeed": (["zero_to_fp32.py", "global_step10/mp_rank_00_model_states.pt"], "DeepSpeed checkpoint; run"),
    "fsdp": (["pytorch_model_fsdp_0/__0_0.distcp"], "distributed PyTorch checkpoint; merge it with"),
    "pickle": (["model.joblib"], "a pickled Python object"),
    "checkpoints": (
        ["checkpoint-500/model.safetensors", "checkpoint-1000/model.safetensors"],
        "contains training checkpoints; name one of them: checkpoint-1000, checkpoint-500",
    ),
    "subfolder": (
        ["encoder/model.safetensors", "onnx/model.onnx"],
        r"weights are in a subfolder \(encoder\); name that",
    ),
    "another name": (
        ["best.ckpt"],
        "it contains best.ckpt; if these are the weights of the model, name the file pytorch",
    ),
    "a variant": (["model.fp16.safetensors"], "contains model.fp16.safetensors; .*, name the file model.safetensors"),
    "trainer": (["training_args.bin", "optimizer.pt"], "no weights; expected model.safetensors or pytorch_model.bin"),
}


def write(folder, files, config=None):
    folder.mkdir()
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"content")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def refusal(folder, **options):
    with pytest.raises(InputError) as error:
        from_pretrained(folder, **options)
    message = str(error.value)
    assert message.isprintable() and len(message) < 600
    return message


@pytest.mark.parametrize("has_config", [True, False])
@pytest.mark.parametrize("kind", WITHOUT_WEIGHTS)
def test_weights_of_other_tools_are_described(kind, has_config, tmp_path):
    files, description = WITHOUT_WEIGHTS[kind]
    message = refusal(write(tmp_path / "model", files, CONFIG if has_config else None))
    assert str(tmp_path) in message
    if has_config or kind != "trainer":
        assert re.search(description, message)


def test_files_of_other_tools_beside_weights_are_ignored(tmp_path):
    save_pretrained(tmp_path / "model", toy_model(V3))
    for files, _ in WITHOUT_WEIGHTS.values():
        for name in files:
            if not name.startswith(("model.safetensors", "pytorch_model.bin")):
                (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "model" / name).write_bytes(b"content")
    from_pretrained(tmp_path / "model", require_tokenizer=False)


@pytest.mark.parametrize("has_weights", [True, False])
def test_a_gliner_folder_is_described(has_weights, tmp_path):
    folder = write(tmp_path / "model", ["gliner_config.json", "pytorch_model.bin"], CONFIG if has_weights else None)
    if has_weights:
        save_pretrained(folder, toy_model(V3))
    assert "a GLiNER model, not a DeBERTa alone; load it with the package gliner" in refusal(folder)
    with pytest.raises(InputError, match="GLiNER"):
        DebertaConfig.from_pretrained(folder)


def test_a_gliner_repository_has_no_config(tmp_path, monkeypatch):
    with serving({"me/gliner": write(tmp_path / "gliner", ["gliner_config.json", "pytorch_model.bin"])}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        with pytest.raises(InputError, match="me/gliner: a GLiNER model"):
            DebertaConfig.from_pretrained("me/gliner")


@pytest.mark.parametrize(
    ("values", "description"),
    [
        ({"model_type": "GLiClass", "encoder_config": CONFIG}, "a GLiClass model, not a DeBERTa alone; load it with"),
        ({"model_type": "extractor"}, "a GLiNER2 model"),
        ({"model_type": "span-marker"}, "a SpanMarker model"),
        ({"registered_name": "keras_hub>DebertaV3Backbone", "class_name": "DebertaV3Backbone"}, "a Keras model"),
        ({"model_type": "bert"}, "'bert' is not a DeBERTa"),
    ],
)
def test_configs_of_other_models_are_described(values, description, tmp_path):
    assert description in refusal(write(tmp_path / "model", ["model.safetensors"], values))


def test_a_repository_of_another_tool_is_described_before_weights_are_downloaded(tmp_path, monkeypatch):
    gguf = write(tmp_path / "gguf", ["model.gguf"], CONFIG)
    gliner = write(tmp_path / "gliner", ["gliner_config.json", "pytorch_model.bin"])
    gliclass = write(tmp_path / "gliclass", ["model.safetensors"], {"model_type": "GLiClass"})
    with serving({"me/gguf": gguf, "me/gliner": gliner, "me/gliclass": gliclass}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        assert "me/gguf: not a DeBERTa on the Hub; it contains a GGUF model" in refusal("me/gguf")
        assert "me/gliner: a GLiNER model" in refusal("me/gliner")
        assert "a GLiClass model" in refusal("me/gliclass")
        assert not {"model.gguf", "pytorch_model.bin", "model.safetensors"} & set(hub.fetched())


def test_a_folder_of_many_files_is_searched_quickly(tmp_path):
    folder = write(tmp_path / "model", [f"part-{number}.npy" for number in range(3000)], CONFIG)
    np.save(folder / "part-0.npy", np.zeros(3))
    assert "no weights; expected" in refusal(folder)
