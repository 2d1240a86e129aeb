"""The released models, and two small ones, by name."""

from typing import Any

from deberta_jax.config import DebertaConfig


def _v1(**fields: Any) -> DebertaConfig:
    return DebertaConfig(model_type="deberta", vocab_size=50265, **fields)


def _v2(**fields: Any) -> DebertaConfig:
    return DebertaConfig(position_buckets=256, norm_rel_ebd="layer_norm", share_att_key=True, **fields)


_LARGE: dict[str, Any] = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}
_V2_WIDTH: dict[str, Any] = {"hidden_size": 1536, "num_attention_heads": 24, "intermediate_size": 6144}
_CONVOLUTION: dict[str, Any] = {"conv_kernel_size": 3, "conv_act": "gelu"}
_XSMALL: dict[str, Any] = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
_TINY: dict[str, Any] = {
    "vocab_size": 8192,
    "position_buckets": 32,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}

PRESETS: dict[str, DebertaConfig] = {
    # For CPU. Initial weights grow as the width shrinks, so that activations are as large as in the base model: with
    # 0.02 a narrow model starts close to the identity, and a discriminator learns nothing for hundreds of steps. Models
    # this small do not overfit text that they read once, so they have no dropout.
    "tiny": DebertaConfig(
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=128,
        initializer_range=0.05,
        **_TINY,
    ),
    "mini": DebertaConfig(
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=256,
        initializer_range=0.035,
        **_TINY,
    ),
    # Released models.
    "v1-base": _v1(),
    "v1-large": _v1(num_hidden_layers=24, **_LARGE),
    "v1-xlarge": _v1(num_hidden_layers=48, **_LARGE),
    "v2-xlarge": _v2(num_hidden_layers=24, **_V2_WIDTH, **_CONVOLUTION),
    "v2-xxlarge": _v2(num_hidden_layers=48, **_V2_WIDTH, **_CONVOLUTION),
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
