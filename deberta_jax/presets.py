"""The released models, and two small ones, by name."""

from typing import Any

from deberta_jax.config import DebertaConfig


def _v1(**fields: Any) -> DebertaConfig:
    return DebertaConfig(model_type="deberta", vocab_size=50265, **fields)


def _v2(position_buckets: int = 256, **fields: Any) -> DebertaConfig:
    return DebertaConfig(position_buckets=position_buckets, norm_rel_ebd="layer_norm", share_att_key=True, **fields)


def _width(width: int) -> dict[str, Any]:
    """Heads are 64 wide in all models, and the feed-forward layer is four times as wide as the model."""
    return {"hidden_size": width, "num_attention_heads": width // 64, "intermediate_size": 4 * width}


def _small(width: int, num_hidden_layers: int, initializer_range: float) -> DebertaConfig:
    return _v2(
        position_buckets=32,
        vocab_size=8192,
        num_hidden_layers=num_hidden_layers,
        max_position_embeddings=width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=initializer_range,
        **_width(width),
    )


_XSMALL, _LARGE = _width(384), _width(1024)
_V2 = {**_width(1536), "conv_kernel_size": 3, "conv_act": "gelu"}

PRESETS: dict[str, DebertaConfig] = {
    # For CPU. Initial weights grow as the width shrinks, so that activations are as large as in the base model: with
    # 0.02 a narrow model starts close to the identity, and a discriminator learns nothing for hundreds of steps. Models
    # this small do not overfit text that they read once, so they have no dropout.
    "tiny": _small(128, num_hidden_layers=2, initializer_range=0.05),
    "mini": _small(256, num_hidden_layers=4, initializer_range=0.035),
    # Released models.
    "v1-base": _v1(),
    "v1-large": _v1(num_hidden_layers=24, **_LARGE),
    "v1-xlarge": _v1(num_hidden_layers=48, **_LARGE),
    "v2-xlarge": _v2(num_hidden_layers=24, **_V2),
    "v2-xxlarge": _v2(num_hidden_layers=48, **_V2),
    "v3-xsmall": _v2(num_hidden_layers=12, **_XSMALL),
    "v3-small": _v2(num_hidden_layers=6),
    "v3-base": _v2(),
    "v3-large": _v2(num_hidden_layers=24, **_LARGE),
    "mdeberta-v3-base": _v2(vocab_size=251000),
    # Generators of v3: as wide as their discriminators, with half as many layers.
    "v3-xsmall-generator": _v2(num_hidden_layers=6, **_XSMALL),
    "v3-small-generator": _v2(num_hidden_layers=3),
    "v3-base-generator": _v2(num_hidden_layers=6),
    "v3-large-generator": _v2(num_hidden_layers=12, **_LARGE),
}
"""Configs by name: `tiny` and `mini`, two small ones; the released models `v1-base`, `v1-large`, `v1-xlarge`,
`v2-xlarge`, `v2-xxlarge`, `v3-xsmall`, `v3-small`, `v3-base`, `v3-large` and `mdeberta-v3-base`; and the generators
of v3, `v3-xsmall-generator` to `v3-large-generator`.

Example:
    >>> import deberta_jax as dj
    >>> dj.PRESETS["v3-base"].num_hidden_layers
    12
"""
