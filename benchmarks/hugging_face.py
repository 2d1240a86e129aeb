"""DeBERTa-v3 in transformers, the peer of several benchmarks. Needs the extra `reference`."""

from typing import Any

from transformers import DebertaV2Config


def v3_config(layers: int, **options: Any) -> DebertaV2Config:
    """The config of v3-small (6 layers) or v3-base (12 layers)."""
    return DebertaV2Config(
        vocab_size=128100,
        hidden_size=768,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=3072,
        relative_attention=True,
        position_buckets=256,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
        **options,
    )
