"""The architecture of a model, with the field names of Hugging Face's `config.json`."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from deberta_jax.config_values import SINCE_V2, from_microsoft, label_names, problems, score_terms, typed_value
from deberta_jax.errors import InputError, list_names, shorten
from deberta_jax.files import read_json

# What the backward pass computes again: nothing that costs a matrix product, the attention scores too, or everything.
Remat = Literal["none", "dots", "full"]
# How float32 matrices are multiplied on GPU and TPU: in float32, or faster (`ops.precision`).
Precision = Literal["float32", "tf32"]
# How attention is computed (docs/attention.md): `ops.attention.IMPLEMENTATIONS`, or the default for device and shape.
AttentionName = Literal["auto", "xla", "xla_per_head", "cudnn", "pallas_gpu", "pallas_tpu"]
# How the states of the tokens of a text become one vector (`ops.pooling`).
Pooling = Literal["mean", "cls", "max", "mean_sqrt_len", "weighted_mean", "last"]
# How a discriminator shares the embeddings of its generator.
Sharing = Literal["gdes", "es", "none"]
# How a discriminator shares its generator's tables: Microsoft's names and ours.
_SHARING: dict[str, Sharing] = {"gdes": "gdes", "es": "es", "nes": "none", "none": "none"}
_HUGGING_FACE_DEFAULTS = {
    "deberta": {"vocab_size": 50265},
    "deberta-v2": {
        "vocab_size": 128100,
        "hidden_size": 1536,
        "num_hidden_layers": 24,
        "num_attention_heads": 24,
        "intermediate_size": 6144,
    },
}
# Keys of `config.json` of this library: what a language model was trained for, and how long the texts it writes are.
OBJECTIVE_KEY, NEW_TOKENS_KEY = OWN_KEYS = "deberta_jax_objective", "deberta_jax_max_new_tokens"
# Objectives (`DebertaConfig.objective`) of models that predict any text from left to right.
LEFT_TO_RIGHT = "clm", "mt"


@dataclasses.dataclass(frozen=True)
class DebertaConfig:
    """The architecture of an encoder; field names are those of Hugging Face's `config.json`.

    Configs that differ only in `extra` are equal, so a jitted function may return a model with the `extra` of an equal
    config. transformers ignores the fields from `classifier_pooling` to `sequence_length`.

    Attributes:
        model_type: "deberta" is v1 (no key bias, no position-key bias); "deberta-v2" is v2, v3 and Microsoft's code.
        vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: V, D, L, N and F.
        hidden_act, layer_norm_eps, initializer_range: activation, epsilon of norms, standard deviation of new weights.
        hidden_dropout_prob, attention_probs_dropout_prob: rates of dropout of states and of attention.
        max_position_embeddings: number of absolute positions, and the usual maximum length in tokens.
        position_biased_input: add absolute positions to the input; such a model has no enhanced mask decoder.
        type_vocab_size, embedding_size, attention_head_size: number of token types, width E of words, and H.
        relative_attention, pos_att_type: whether there are relative terms, and which: "c2p" and "p2c".
        position_buckets, max_relative_positions: number of buckets (-1 for none), and maximum distance M in tokens (-1
            for `max_position_embeddings`).
        clamp_distances: True is Microsoft's rule for tokens further apart than M (clamp to M - 1, then bucket), False
            Hugging Face's (buckets without bound; docs/numerics.md, "Relative positions and buckets").
        norm_rel_ebd, share_att_key: "layer_norm" or "none" of the relative table; projections shared with content.
        conv_kernel_size, conv_groups, conv_act: the convolution of v2; 0 for none.
        num_hidden_groups: groups of consecutive layers that share their parameters, as in ALBERT (Lan et al. 2020,
            section 3.1); None for no sharing.
        pad_token_id: the id of [PAD].
        labels, problem_type: names of a classifier's C outputs in order (`id2label` in a file), and its problem.
        pooler_hidden_size, pooler_dropout, pooler_hidden_act, cls_dropout: the pooler, and dropout before a classifier.
        classifier_pooling: what a text classifier reads; None for the context pooler.
        window_pooling, max_windows: how windows of a long text are combined (None truncates it), and how many.
        sequence_length: length of a window, or of longer sequences that a model was fine-tuned on, in tokens.
        extra: the keys of a `config.json` that do not describe the architecture, for export.

    Raises:
        InputError: impossible combinations, all listed in one message.

    Example:
        >>> import deberta_jax as dj
        >>> config = dj.DebertaConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)
        >>> config.head_size, config.to_dict()["model_type"]
        (32, 'deberta-v2')
    """

    model_type: str = "deberta-v2"
    vocab_size: int = 128100
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-7
    relative_attention: bool = True
    max_relative_positions: int = -1
    position_buckets: int = -1
    pos_att_type: tuple[str, ...] = ("c2p", "p2c")
    norm_rel_ebd: str = "none"
    share_att_key: bool = False
    position_biased_input: bool = False
    conv_kernel_size: int = 0
    conv_groups: int = 1
    conv_act: str = "tanh"
    embedding_size: int | None = None
    attention_head_size: int | None = None
    pad_token_id: int = 0
    pooler_hidden_size: int | None = None
    pooler_dropout: float = 0.0
    pooler_hidden_act: str = "gelu"
    cls_dropout: float | None = None
    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")
    problem_type: str | None = None
    clamp_distances: bool = True
    num_hidden_groups: int | None = None
    classifier_pooling: str | None = None
    window_pooling: str | None = None
    max_windows: int | None = None
    sequence_length: int | None = None
    extra: Mapping[str, object] = dataclasses.field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.labels, list):
            object.__setattr__(self, "labels", tuple(self.labels))
        mistakes = list(problems(self))
        if mistakes:
            raise InputError("config: " + list_names(mistakes, "; "))
        # Equal architectures are equal configs, however they are written.
        object.__setattr__(self, "pos_att_type", tuple(sorted(set(self.pos_att_type))))
        derived = {"embedding_size": self.hidden_size, "pooler_hidden_size": self.hidden_size}
        derived["attention_head_size"] = self.hidden_size // self.num_attention_heads
        derived["num_hidden_groups"] = self.num_hidden_layers
        for name, value in derived.items():
            if getattr(self, name) == value:
                object.__setattr__(self, name, None)

    @property
    def head_size(self) -> int:
        """H, the width of an attention head."""
        return self.attention_head_size or self.hidden_size // self.num_attention_heads

    @property
    def word_size(self) -> int:
        """Width of the word and position tables (E)."""
        return self.embedding_size or self.hidden_size

    @property
    def objective(self) -> str | None:
        """What a language model of this library was trained for: "clm", "mt" or "seq2seq"; None if a file says nothing.

        It is one of the keys in `extra`.
        """
        value = self.extra.get(OBJECTIVE_KEY)
        return value if isinstance(value, str) else None

    @property
    def max_new_tokens(self) -> int | None:
        """The largest number of tokens that a sequence-to-sequence model was trained to write; a key in `extra`."""
        value = self.extra.get(NEW_TOKENS_KEY)
        return value if type(value) is int and value > 0 else None

    @property
    def num_groups(self) -> int:
        """The number of layers with parameters of their own."""
        return self.num_hidden_groups or self.num_hidden_layers

    def group_of(self, layer: int) -> int:
        """The index of the parameters of a layer, both from 0."""
        return layer * self.num_groups // self.num_hidden_layers

    @property
    def max_distance(self) -> int:
        """M: distances from -(M - 1) to M - 1 have their own row or bucket."""
        return self.max_relative_positions if self.max_relative_positions >= 1 else self.max_position_embeddings

    @property
    def relative_span(self) -> int:
        """k: the relative table has 2k rows, row k is distance 0."""
        return self.position_buckets if self.position_buckets > 0 else self.max_distance

    @property
    def active_terms(self) -> tuple[str, ...]:
        """The relative terms that are computed; the scale counts `pos_att_type` even without `relative_attention`."""
        return self.pos_att_type if self.relative_attention else ()

    def with_depth(self, layers: int) -> "DebertaConfig":
        """The same architecture with another number of layers, and at most as many groups that share parameters."""
        groups = None if self.num_hidden_groups is None else math.gcd(self.num_hidden_groups, layers)
        return dataclasses.replace(self, num_hidden_layers=layers, num_hidden_groups=groups)

    def has_parameters_of(self, other: "DebertaConfig") -> bool:
        """Whether two architectures have the same parameters and use them alike, regardless of the vocabulary size."""
        ignored = {"extra", "labels", "problem_type", "vocab_size", "max_windows", "sequence_length"}
        ignored |= {"clamp_distances", "initializer_range"}
        names = [field.name for field in dataclasses.fields(self) if field.name not in ignored]
        names = [name for name in names if "dropout" not in name and "pool" not in name]
        return all(getattr(self, name) == getattr(other, name) for name in names)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "DebertaConfig":
        """Read a Hugging Face `config.json` or, without `model_type`, a Microsoft `model_config.json`.

        A Microsoft file without `pooling` takes the pooler's activation from `hidden_act`. `read_rtd_pair` reads the
        two configs of a replaced-token detection file. Raises InputError for wrong types and unknown models.
        """
        if "generator" in values and "discriminator" in values:
            raise InputError(
                "config: a replaced-token detection file contains two configs: read it with read_rtd_pair, or pass its "
                "'discriminator' or 'generator' section"
            )
        values = dict(values)
        model_type = values.setdefault("model_type", "microsoft")
        if model_type == "microsoft":
            values = from_microsoft(values)
        elif isinstance(model_type, str) and model_type in _HUGGING_FACE_DEFAULTS:
            defaults = {"relative_attention": False, "position_biased_input": True, "pos_att_type": None}
            values = {**defaults, **_HUGGING_FACE_DEFAULTS[model_type], **values}
            values.setdefault("clamp_distances", False)
        else:
            raise InputError(
                f"config: model_type {shorten(repr(model_type))} is not a DeBERTa ('deberta' or 'deberta-v2')"
            )
        if values.pop("talking_head", False):
            raise InputError("config: talking_head is not supported (no released model uses it)")
        values["pos_att_type"] = score_terms(values["pos_att_type"])
        values["labels"] = label_names(values)
        # Hugging Face's class of version 1 ignores these keys: they are preserved, not used.
        unused = {} if model_type != "deberta" else {key: values.pop(key) for key in SINCE_V2 if key in values}
        unused = {key: value for key, value in unused.items() if value != SINCE_V2[key]}
        fields = {field.name: field.type for field in dataclasses.fields(cls) if field.name != "extra"}
        known: dict[str, Any] = {
            key: value if key in ("pos_att_type", "labels") else typed_value(key, value, fields[key])
            for key, value in values.items()
            if key in fields and value is not None
        }
        unknown = {key: value for key, value in values.items() if key not in fields} | unused
        return cls(**known, extra=unknown)

    @classmethod
    def from_file(cls, path: str | Path) -> "DebertaConfig":
        """Read `config.json` or `model_config.json`."""
        return cls.from_dict(read_json(path))

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, revision: str | None = None, token: str | None = None, generator: bool = False
    ) -> "DebertaConfig":
        """The config of a folder or of a model on the Hugging Face Hub; the weights are neither read nor downloaded.

        `revision` (a branch, tag or commit) and the access token `token` are for the Hub. `generator` selects the
        generator's section of a Microsoft file that describes a pair. Raises InputError for a name that is neither a
        folder nor a model on the Hub, and for an invalid config.
        """
        from deberta_jax.hub.config_file import load_config

        return load_config(name, revision=revision, token=token, generator=generator)

    def to_dict(self) -> dict[str, object]:
        """The content of this model's `config.json`, including the unknown keys it was read with."""
        omitted = "extra", "labels"
        values = {key: x for key, x in dataclasses.asdict(self).items() if key not in omitted and x is not None}
        values["pos_att_type"] = list(self.pos_att_type)
        values["pooler_hidden_size"] = self.pooler_hidden_size or self.hidden_size
        if self.labels != DebertaConfig.labels:
            values["id2label"] = {str(index): label for index, label in enumerate(self.labels)}
            values["label2id"] = {label: index for index, label in enumerate(self.labels)}
        return {**values, **self.extra}


def read_rtd_pair(path: str | Path) -> tuple[DebertaConfig, DebertaConfig, Sharing]:
    """Read Microsoft's replaced-token detection file: generator, discriminator and `embedding_sharing`."""
    values = read_json(path)
    missing = [name for name in ("generator", "discriminator") if not isinstance(values.get(name), dict)]
    if missing:
        raise InputError(f"{path}: a replaced-token detection config needs a section {' and '.join(missing)}")
    generator = DebertaConfig.from_dict(values["generator"])
    discriminator = DebertaConfig.from_dict(values["discriminator"])
    sharing = _SHARING.get(str(values.get("embedding_sharing", "none")).lower())
    if sharing is None:
        known = ", ".join(_SHARING)
        raise InputError(
            f"{path}: embedding_sharing is {shorten(repr(values['embedding_sharing']))}; it must be one of {known}"
        )
    return generator, discriminator, sharing
