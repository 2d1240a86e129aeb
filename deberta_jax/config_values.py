"""The values of a `config.json` or a `model_config.json`, checked and in the types of the config's fields."""

import typing
from typing import Any

from deberta_jax.errors import InputError

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
        raise InputError(f"config: pooling must be an object, not {pooling!r}")
    values["pooler_hidden_act"] = pooling.get("hidden_act", values.get("hidden_act", "gelu"))
    values["pooler_dropout"] = pooling.get("dropout", 0.0)
    return values


def typed_value(name: str, value: Any, declared: Any) -> Any:
    """A value of its field's type; files may contain an integer for a float."""
    types = typing.get_args(declared) or (declared,)
    if float in types and type(value) is int:
        return float(value)
    if type(value) not in types:
        raise InputError(f"config: {name} must be {types[0].__name__}, not {value!r}")
    return value


def score_terms(value: Any) -> tuple[str, ...]:
    """`pos_att_type` as a sorted tuple: "p2c|c2p" and ["c2p", "p2c"] are the same."""
    names = value.lower().split("|") if isinstance(value, str) else value or ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InputError(f"config: pos_att_type must be a string or a list of strings, not {value!r}")
    return tuple(sorted({name.strip() for name in names} - {"", "none"}))


def label_names(values: dict[str, Any]) -> tuple[str, ...]:
    """The names of a classifier's outputs, removed from `values`; `LABEL_0`… if a file only gives their number."""
    named, number = values.pop("id2label", None), values.pop("num_labels", None)
    values.pop("label2id", None)
    if named is None:
        number = 2 if number is None else number
        if type(number) is not int or number < 1:
            raise InputError(f"config: num_labels must be a positive integer, not {number!r}")
        return tuple(f"LABEL_{index}" for index in range(number))
    numbered = isinstance(named, dict) and {str(key) for key in named} == {str(index) for index in range(len(named))}
    if not named or not numbered or (number or len(named)) != len(named):
        raise InputError(f"config: id2label must name the labels 0, 1, … up to num_labels, not {named!r}")
    return tuple(str(label) for _, label in sorted(named.items(), key=lambda pair: int(pair[0])))
