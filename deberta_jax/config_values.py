"""The values of a `config.json` or a `model_config.json`, checked and in the types of the config's fields."""

import itertools
import logging
import math
import re
import typing
from collections.abc import Iterator
from typing import Any, Literal

from deberta_jax.errors import InputError, list_names, shorten

# More labels than any classifier has: their names alone would fill the memory.
MAX_LABELS = 1_000_000
# The smallest values of fields, and the largest: larger sizes are errors before anything is computed from them.
_MINIMUM = {
    "vocab_size": 1,
    "hidden_size": 1,
    "num_hidden_layers": 1,
    "num_hidden_groups": 1,
    "num_attention_heads": 1,
    "intermediate_size": 1,
    "max_position_embeddings": 1,
    "embedding_size": 1,
    "attention_head_size": 1,
    "pooler_hidden_size": 1,
    "conv_groups": 1,
    "max_windows": 1,
    "sequence_length": 3,
    "type_vocab_size": 0,
    "pad_token_id": 0,
    "layer_norm_eps": 0,
    "initializer_range": 0,
}
_MAXIMUM = {
    **dict.fromkeys(("num_hidden_layers", "conv_kernel_size"), 10_000),
    **dict.fromkeys(("hidden_size", "embedding_size", "attention_head_size", "pooler_hidden_size"), 2**20),
    **dict.fromkeys(("num_attention_heads", "conv_groups"), 2**20),
    **dict.fromkeys(("vocab_size", "intermediate_size", "type_vocab_size"), 2**28),
    **dict.fromkeys(("max_position_embeddings", "max_relative_positions", "position_buckets"), 2**24),
    **dict.fromkeys(("max_windows", "sequence_length"), 2**24),
}
_WITH_PARAMETERS = "prelu", "xielu"
# The activation functions of `model.activation`: all of transformers but prelu and xielu, which have parameters.
ACTIVATIONS = (
    *("gelu", "gelu_new", "gelu_fast", "gelu_accurate", "gelu_python", "gelu_python_tanh", "gelu_pytorch_tanh"),
    *("gelu_10", "quick_gelu", "relu", "relu2", "relu6", "leaky_relu", "silu", "swish", "mish", "hardswish", "tanh"),
    *("sigmoid", "laplace", "sqrtsoftplus", "linear"),
)
# What a text classifier reads in place of the context pooler (`model.pooler`), and how the logits of the windows of a
# long text are combined (`ops.pooling`).
ClassifierPooling = Literal["cls", "mean", "max", "attention", "weighted-layers"]
WindowPooling = Literal["mean", "max", "attention"]
PROBLEM_TYPES = "regression", "single_label_classification", "multi_label_classification"
# Fields that version 1 does not have, and their values in its configs.
SINCE_V2 = {"position_buckets": -1, "share_att_key": False, "norm_rel_ebd": "none", "conv_kernel_size": 0}
MODEL_TYPES = "deberta", "deberta-v2"
_log = logging.getLogger(__name__)
# Microsoft's names of fields.
_MICROSOFT_NAMES = {"padding_idx": "pad_token_id"}
# The defaults of Microsoft's configuration class for keys that a `model_config.json` lacks.
_MICROSOFT_DEFAULTS = {"pos_att_type": "c2p", "type_vocab_size": 0, "position_biased_input": True}


def from_microsoft(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a `model_config.json` under Hugging Face's names, with the defaults of Microsoft's class."""
    values = {**_MICROSOFT_DEFAULTS, "relative_attention": False, **values, "model_type": "deberta-v2"}
    for microsoft_name, name in _MICROSOFT_NAMES.items():
        if microsoft_name in values:
            values[name] = values.pop(microsoft_name)
    pooling = values.pop("pooling", None) or {}
    if not isinstance(pooling, dict):
        raise InputError(f"config: pooling must be an object, not {shorten(repr(pooling))}")
    values["pooler_hidden_act"] = pooling.get("hidden_act", values.get("hidden_act", "gelu"))
    values["pooler_dropout"] = pooling.get("dropout", 0.0)
    return values


def typed_value(name: str, value: Any, declared: Any) -> Any:
    """A value of its field's type; files may contain an integer for a float."""
    types = typing.get_args(declared) or (declared,)
    if float in types and type(value) is int:
        return float(value)
    if type(value) not in types:
        raise InputError(f"config: {name} must be {types[0].__name__}, not {shorten(repr(value))}")
    return value


def score_terms(value: Any) -> tuple[str, ...]:
    """`pos_att_type` as a sorted tuple: "p2c|c2p" and ["c2p", "p2c"] are the same."""
    names = value.lower().split("|") if isinstance(value, str) else value or ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InputError(f"config: pos_att_type must be a string or a list of strings, not {shorten(repr(value))}")
    return tuple(sorted({name.strip() for name in names} - {"", "none"}))


def label_names(values: dict[str, Any]) -> tuple[str, ...]:
    """The names of a classifier's outputs, removed from `values`; `LABEL_0`… for those that a file does not name.

    As in transformers, a classifier has as many outputs as `id2label` has names, and the ids are their positions: a
    name with an id beyond them is not used, which is logged. A name that repeats an earlier one is numbered.
    """
    named, number = values.pop("id2label", None), values.pop("num_labels", None)
    values.pop("label2id", None)
    if named is None or named == {}:
        number = 2 if number is None else number
        if type(number) is not int or not 1 <= number <= MAX_LABELS:
            limit = f"an integer from 1 to {MAX_LABELS:,}"
            raise InputError(f"config: num_labels must be {limit}, not {shorten(repr(number))}")
        return tuple(f"LABEL_{index}" for index in range(number))
    if not isinstance(named, dict) or not named or not all(map(_is_id, named)):
        raise InputError(f"config: id2label must name labels by their ids, 0, 1, …, not {shorten(repr(named))}")
    names = {int(index): str(label) for index, label in named.items()}
    if len(names) > MAX_LABELS or len(names) < len(named):
        raise InputError(f"config: id2label must name at most {MAX_LABELS:,} labels, each by another id")
    if unused := sorted(names.keys() - range(len(names))):
        _log.warning(
            "config: id2label names the ids %s, but a classifier of %d labels has 0 to %d; as in transformers, outputs "
            "without a name are called LABEL_0, LABEL_1, …",
            list_names(unused),
            len(names),
            len(names) - 1,
        )
    return _distinct([names.get(index, f"LABEL_{index}") for index in range(len(names))])


def _distinct(labels: list[str]) -> tuple[str, ...]:
    """The labels, with a number in place of each that repeats an earlier one, which is logged."""
    distinct: dict[str, int] = {}
    repeated: list[str] = []
    names = set(labels)
    for index, label in enumerate(labels):
        unique = label
        if label in distinct:
            unique = next(name for end in itertools.count() if (name := f"LABEL_{index}" + "_" * end) not in names)
            names.add(unique)
            repeated.append(f"{shorten(label)} of id {index} is called {unique}")
        distinct[unique] = index
    if repeated:
        _log.warning("config: id2label repeats names: %s; rename them in the file", list_names(repeated))
    return tuple(distinct)


def _is_id(key: Any) -> bool:
    return re.fullmatch(r"-?[0-9]{1,18}", str(key)) is not None


def range_problem(config: Any) -> str | None:
    """The first number of a config that is too small, too large or not finite, as a message."""
    for name, minimum in _MINIMUM.items():
        if (value := getattr(config, name)) is not None and value < minimum:
            return f"{name} must be at least {minimum}, not {shorten(value)}"
    for name, maximum in _MAXIMUM.items():
        if (value := getattr(config, name)) is not None and value > maximum:
            return f"{name} must be at most {maximum:,}, not {shorten(value)}"
    for name, value in vars(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            return f"{name} must be a finite number, not {value}"
    return None


def problems(config: Any) -> Iterator[str]:
    """What is wrong with the values of a config, as messages."""
    if problem := range_problem(config):
        yield problem
        return
    if config.model_type not in MODEL_TYPES:
        yield f"model_type {shorten(repr(config.model_type))} is not 'deberta' or 'deberta-v2'"
    if "p2p" in config.pos_att_type:
        yield "pos_att_type p2p is not computed by any DeBERTa: use c2p, p2c or both"
    elif unknown := set(config.pos_att_type) - {"c2p", "p2c"}:
        yield f"pos_att_type may contain c2p and p2c, not {list_names(sorted(unknown))}"
    if config.hidden_size % config.num_attention_heads and not config.attention_head_size:
        yield f"hidden_size {config.hidden_size} is not divisible by num_attention_heads {config.num_attention_heads}"
    elif config.head_size * config.num_attention_heads != config.hidden_size:
        yield (
            f"attention_head_size {config.head_size} x num_attention_heads {config.num_attention_heads} must be "
            f"hidden_size {config.hidden_size}"
        )
    if config.num_hidden_groups and config.num_hidden_layers % config.num_hidden_groups:
        yield f"num_hidden_groups {config.num_hidden_groups} must divide num_hidden_layers {config.num_hidden_layers}"
    if config.problem_type not in (None, *PROBLEM_TYPES):
        problem_type = shorten(repr(config.problem_type))
        yield f"problem_type {problem_type} is not one of {', '.join(PROBLEM_TYPES)}, as in transformers; omit it"
    for name, values in (("classifier_pooling", ClassifierPooling), ("window_pooling", WindowPooling)):
        if (value := getattr(config, name)) not in (None, *typing.get_args(values)):
            yield f"{name} is {shorten(repr(value))}, expected one of {', '.join(typing.get_args(values))}"
    if config.window_pooling and not (config.max_windows and config.sequence_length):
        yield "window_pooling needs max_windows and sequence_length, the length of a window"
    if not config.labels or isinstance(config.labels, str) or len(config.labels) > MAX_LABELS:
        yield f"labels must name at least one class and at most {MAX_LABELS:,}, in a tuple or a list"
    for name in ("hidden_act", *(("conv_act",) if config.conv_kernel_size > 0 else ())):
        if (function := getattr(config, name)) in _WITH_PARAMETERS:
            yield f"{name} {function!r} has parameters of its own, which are not supported"
        elif function not in ACTIVATIONS:
            yield f"{name} is {shorten(repr(function))}, expected one of {', '.join(ACTIVATIONS)}"
    if set(config.norm_rel_ebd.split("|")) - {"none", "layer_norm"}:
        yield f"norm_rel_ebd is {shorten(repr(config.norm_rel_ebd))}, expected one of none, layer_norm"
    if config.position_buckets == 1 and config.relative_attention:
        yield "position_buckets 1 cannot represent a sign: use at least 2, or -1 for no buckets"
    if config.conv_kernel_size > 0 and config.conv_kernel_size % 2 == 0:
        yield f"conv_kernel_size {config.conv_kernel_size} must be odd, so that the sequence length is preserved"
    if config.conv_kernel_size > 0 and config.hidden_size % config.conv_groups:
        yield f"conv_groups {config.conv_groups} must divide hidden_size {config.hidden_size}"
    if config.model_type == "deberta":
        yield from (
            f"{name} needs model_type deberta-v2" for name in SINCE_V2 if getattr(config, name) != SINCE_V2[name]
        )
    if config.pad_token_id >= config.vocab_size:
        yield f"pad_token_id {config.pad_token_id} is not below vocab_size {config.vocab_size}"
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "pooler_dropout", "cls_dropout"):
        if not 0 <= (getattr(config, name) or 0) < 1:
            yield f"{name} must be in [0, 1), not {getattr(config, name)}"
