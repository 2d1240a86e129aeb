"""Folders of models that other tools read: how each is recognized, and what to do with it.

A new kind needs one entry in `_FOLDERS`, or in `_MODEL_TYPES` if `config.json` names it.
"""

import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax.errors import InputError, list_names

# Files of a folder beyond this number are not looked at.
_MAX_FILES = 2000
_EXPORTED = "or load the model that it was exported from"


class _Kind(NamedTuple):
    """A kind of folder: a pattern of its files' paths, what it is, and which tool reads it."""

    pattern: str
    name: str
    advice: str


# Models around a DeBERTa, by a file that only they have; they are recognized even beside weights that could be read.
_APPLICATIONS = {
    "gliner_config.json": ("a GLiNER model", "load it with the package gliner: `GLiNER.from_pretrained(…)`"),
    "span_marker_config.json": ("a SpanMarker model", "load it with the package span-marker"),
}
# Kinds that are recognized if a folder has no weights that can be read; the first match is reported.
_FOLDERS = (
    _Kind(r"zero_to_fp32\.py|(.*/)?.*_optim_states\.pt", "a DeepSpeed checkpoint", "run `zero_to_fp32.py` in it"),
    _Kind(
        r"(.*/)?(__\d+_\d+\.distcp|\.metadata)",
        "a distributed PyTorch checkpoint",
        "merge it with `accelerate merge-weights`",
    ),
    _Kind(r".*\.gguf", "a GGUF model", f"run it with llama.cpp, {_EXPORTED}"),
    _Kind(
        r"(.*/)?openvino_.*\.xml",
        "an OpenVINO model",
        f"run it with OpenVINO or optimum-intel (`OVModel…`), {_EXPORTED}",
    ),
    _Kind(r"(.*/)?.*\.onnx", "an ONNX model", f"run it with ONNX Runtime or optimum (`ORTModel…`), {_EXPORTED}"),
    _Kind(
        r"tf_model.*\.h5|(.*/)?saved_model\.pb|.*ckpt.*\.index",
        "TensorFlow weights",
        "convert them with transformers 4: `AutoModel.from_pretrained(…, from_tf=True).save_pretrained(…)`",
    ),
    _Kind(
        r"flax_model.*\.msgpack(\.index\.json)?",
        "Flax weights of transformers",
        "convert them with transformers 4: `AutoModel.from_pretrained(…, from_flax=True).save_pretrained(…)`",
    ),
    _Kind(r"(.*/)?.*(\.weights\.h5|\.keras)", "a Keras model", f"load it with KerasHub, {_EXPORTED}"),
    _Kind(r"rust_model\.ot", "weights of rust-bert", "load them with rust-bert, or download the PyTorch weights"),
    _Kind(r"(.*/)?.*\.pdparams", "a PaddlePaddle model", f"load it with PaddleNLP, {_EXPORTED}"),
    _Kind(r"(.*/)?.*\.(mlpackage|mlmodel|mlmodelc)(/.*)?", "a Core ML model", f"run it with coremltools, {_EXPORTED}"),
    _Kind(r"(.*/)?.*\.tflite", "a TensorFlow Lite model", f"run it with LiteRT, {_EXPORTED}"),
    _Kind(r"(.*/)?.*\.(engine|plan|trt)", "a TensorRT engine", f"run it with TensorRT, {_EXPORTED}"),
    _Kind(r"weights.*\.npz", "an MLX model", f"load it with MLX, {_EXPORTED}"),
    _Kind(r"config\.cfg", "a spaCy pipeline", "load it with `spacy.load(…)`"),
    _Kind(
        r"pytorch_adapter\.bin|pytorch_model_head\.bin",
        "an adapter of the package adapters",
        "load it there with its base model, merge it and save the model",
    ),
    _Kind(
        r".*\.(joblib|pkl|pickle)",
        "a pickled Python object",
        "load it with the program that wrote it, and save `model.state_dict()`",
    ),
)
# `model_type` in `config.json`.
_MODEL_TYPES = {
    "gliclass": ("a GLiClass model", "load it with the package gliclass: `GLiClassModel.from_pretrained(…)`"),
    "gliner": _APPLICATIONS["gliner_config.json"],
    "extractor": ("a GLiNER2 model", "load it with the package gliner2: `GLiNER2.from_pretrained(…)`"),
    "span-marker": _APPLICATIONS["span_marker_config.json"],
    "encoder-decoder": (
        "an encoder-decoder model",
        "load it with transformers, and save its encoder with `model.encoder.save_pretrained(…)`",
    ),
    "vision-text-dual-encoder": ("a model of images and texts", "load it with transformers"),
}
_OTHER_NAMES = re.compile(r".*\.(safetensors|bin|pt|pth|ckpt)")
# Files of these kinds that have no weights of a model.
_NO_WEIGHTS = re.compile(
    r"(optimizer|scheduler|scaler|rng_state.*|training_args|bpe_encoder|openvino.*|adapter_model)\.(pt|pth|bin)|"
    r"adapter_model\.safetensors"
)
_IN_SUBFOLDER = re.compile(r"([^.].*)/(model(-.*)?\.safetensors|pytorch_model(-.*)?\.bin)")
_CHECKPOINT = re.compile(r"(checkpoint-\d+)/(model.*\.safetensors|pytorch_model.*\.bin)")


def check_application(where: str | Path, has_file: Callable[[str], bool]) -> None:
    """Raise InputError if the files are those of a model around a DeBERTa, such as GLiNER, which other tools read."""
    for file, (name, advice) in _APPLICATIONS.items():
        if has_file(file):
            raise InputError(f"{where}: {name}, not a DeBERTa alone; {advice}")


def check_model_type(path: str | Path, values: Mapping[str, Any]) -> None:
    """Raise InputError if the values of a `config.json` are those of a model that another tool reads."""
    model_type = str(values.get("model_type", "")).lower()
    if model_type in _MODEL_TYPES:
        name, advice = _MODEL_TYPES[model_type]
        raise InputError(f"{path}: {name}, not a DeBERTa alone; {advice}")
    if "keras" in str(values.get("registered_name", "")) + str(values.get("module", "")):
        raise InputError(f"{path}: a Keras model; load it with KerasHub, {_EXPORTED}")


def folder_files(folder: Path) -> list[str]:
    """The paths of the files of a folder and of its subfolders, relative to it; of a large folder only some."""
    walk = os.walk(folder)
    paths = (Path(parent, name) for parent, _, names in itertools.islice(walk, _MAX_FILES) for name in names)
    return [path.relative_to(folder).as_posix() for path in itertools.islice(paths, _MAX_FILES)]


def other_weights(files: Iterable[str]) -> str:
    """What the files of a folder without weights are, and what to do; empty if nothing is recognized."""
    files = sorted(files)
    checkpoints = sorted({match[1] for file in files if (match := _CHECKPOINT.fullmatch(file))})
    if checkpoints:
        return f"it contains training checkpoints; name one of them: {list_names(checkpoints)}"
    if folders := sorted({match[1] for file in files if (match := _IN_SUBFOLDER.fullmatch(file))}):
        return (
            f"its weights are in a subfolder ({list_names(folders)}); name that folder, or its copy if it is on the hub"
        )
    for kind in _FOLDERS:
        if any(re.fullmatch(kind.pattern, file) for file in files):
            return f"it contains {kind.name}; {kind.advice}"
    named = [file for file in files if _OTHER_NAMES.fullmatch(file) and not _NO_WEIGHTS.fullmatch(Path(file).name)]
    if named:
        name = "model.safetensors" if named[0].endswith(".safetensors") else "pytorch_model.bin"
        return f"it contains {list_names(named)}; if these are the weights of the model, name the file {name}"
    return ""
