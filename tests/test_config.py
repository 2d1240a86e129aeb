import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from deberta_jax.config import DebertaConfig, read_rtd_pair
from deberta_jax.errors import InputError
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.presets import PRESETS

SIZES = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1}


def count(build) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(build, jax.random.key(0))))


# Parameters of the bare model, of the model with the positions of the enhanced mask decoder, and of the masked language
# model head. v1 with positions has the released layout: Microsoft's current code adds two biases to every layer.
COUNTS = {
    "v1-base": (138_601_728, 139_013_376 - 12 * 2 * 768, None),
    "v1-large": (405_163_008, 405_736_448 - 24 * 2 * 1024, None),
    "v1-xlarge": (757_804_032, 758_426_624 - 48 * 2 * 1024, None),
    "v2-xlarge": (884_593_152, 885_379_584, 2_492_004),
    "v2-xxlarge": (1_564_549_632, 1_565_336_064, 2_492_004),
    "v3-xsmall": (70_682_112, 70_878_720, 276_708),
    "v3-small": (141_304_320, 141_697_536, 720_228),
    "v3-base": (183_831_552, 184_224_768, 720_228),
    "v3-large": (434_012_160, 434_536_448, 1_179_748),
    "mdeberta-v3-base": (278_218_752, 278_611_968, 843_128),
    "v3-xsmall-generator": (None, 60_231_936, 276_708),
    "v3-small-generator": (None, 120_433_920, 720_228),
    "v3-base-generator": (None, 141_697_536, 720_228),
    "v3-large-generator": (None, 283_381_760, 1_179_748),
}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_the_parameters_of_the_released_model(name):
    config = PRESETS[name]
    bare = count(lambda key: Deberta(config, key=key))
    whole = jax.eval_shape(lambda key: MaskedLM(config, key=key), jax.random.key(0))
    head = sum(leaf.size for leaf in jax.tree.leaves(whole.head))
    encoder = sum(leaf.size for leaf in jax.tree.leaves(whole)) - head
    if name in ("tiny", "mini"):
        assert bare < 10_000_000
        return
    for number, expected in zip((bare, encoder, head), COUNTS[name], strict=True):
        assert expected is None or number == expected


def test_a_config_of_v1_is_read():
    config = DebertaConfig.from_dict({"model_type": "deberta", "relative_attention": True, "pos_att_type": "c2p|p2c"})
    assert (config.vocab_size, config.hidden_size, config.pos_att_type) == (50265, 768, ("c2p", "p2c"))
    assert config.position_biased_input
    assert config.relative_span == 512


def test_terms_are_read_from_a_string_or_a_list_in_any_order():
    values = {"model_type": "deberta-v2", "relative_attention": True}
    for terms in ("p2c|c2p", "c2p | P2C", ["p2c", "c2p"]):
        assert DebertaConfig.from_dict({**values, "pos_att_type": terms}).pos_att_type == ("c2p", "p2c")
    for terms in ("none", None, []):
        assert DebertaConfig.from_dict({**values, "pos_att_type": terms}).pos_att_type == ()


def test_missing_fields_take_the_defaults_of_the_files_origin():
    config = DebertaConfig.from_dict({"model_type": "deberta-v2"})
    assert (config.hidden_size, config.relative_attention, config.pos_att_type) == (1536, False, ())
    assert not config.clamp_distances
    microsoft = DebertaConfig.from_dict({"vocab_size": 100, "padding_idx": 3, "hidden_act": "relu"})
    assert (microsoft.hidden_size, microsoft.pos_att_type, microsoft.pad_token_id) == (768, ("c2p",), 3)
    assert microsoft.pooler_hidden_act == "relu"
    assert microsoft.clamp_distances


def test_unknown_keys_are_preserved_and_configs_round_trip():
    read = {"model_type": "deberta-v2", "relative_attention": True, "id2label": {"0": "no"}, "my_key": [1, 2]}
    config = DebertaConfig.from_dict(read)
    again = config.to_dict()
    assert again["my_key"] == [1, 2]
    assert again["id2label"] == {"0": "no"}
    assert DebertaConfig.from_dict(json.loads(json.dumps(again))).to_dict() == again
    for preset in PRESETS.values():
        assert DebertaConfig.from_dict(json.loads(json.dumps(preset.to_dict()))) == preset


# A valid value of each field that is not the default; some need further fields.
OTHER_VALUES = {
    "model_type": {"model_type": "deberta", "vocab_size": 50265},
    "vocab_size": {"vocab_size": 1000},
    "hidden_size": {"hidden_size": 384},
    "num_hidden_layers": {"num_hidden_layers": 3},
    "num_attention_heads": {"num_attention_heads": 6},
    "intermediate_size": {"intermediate_size": 100},
    "hidden_act": {"hidden_act": "relu"},
    "hidden_dropout_prob": {"hidden_dropout_prob": 0.0},
    "attention_probs_dropout_prob": {"attention_probs_dropout_prob": 0.2},
    "max_position_embeddings": {"max_position_embeddings": 100},
    "type_vocab_size": {"type_vocab_size": 2},
    "initializer_range": {"initializer_range": 0.05},
    "layer_norm_eps": {"layer_norm_eps": 1e-6},
    "relative_attention": {"relative_attention": False},
    "max_relative_positions": {"max_relative_positions": 200},
    "position_buckets": {"position_buckets": 256},
    "pos_att_type": {"pos_att_type": ("p2c",)},
    "norm_rel_ebd": {"norm_rel_ebd": "layer_norm"},
    "share_att_key": {"share_att_key": True},
    "position_biased_input": {"position_biased_input": True},
    "conv_kernel_size": {"conv_kernel_size": 3},
    "conv_groups": {"conv_groups": 2},
    "num_hidden_groups": {"num_hidden_groups": 1},
    "classifier_pooling": {"classifier_pooling": "weighted-layers"},
    "window_pooling": {"window_pooling": "attention", "max_windows": 4, "sequence_length": 128},
    "max_windows": {"max_windows": 4},
    "sequence_length": {"sequence_length": 1536},
    "conv_act": {"conv_act": "gelu"},
    "embedding_size": {"embedding_size": 128},
    "attention_head_size": {"attention_head_size": 64},
    "pad_token_id": {"pad_token_id": 1},
    "pooler_hidden_size": {"pooler_hidden_size": 768},
    "pooler_dropout": {"pooler_dropout": 0.1},
    "pooler_hidden_act": {"pooler_hidden_act": "tanh"},
    "cls_dropout": {"cls_dropout": 0.3},
    "labels": {"labels": ("no", "yes", "maybe")},
    "problem_type": {"problem_type": "regression"},
    "clamp_distances": {"clamp_distances": False},
    "extra": {"extra": {"my_key": [1, 2]}},
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(DebertaConfig)])
def test_a_config_with_another_value_of_any_field_round_trips(name):
    config = DebertaConfig(**OTHER_VALUES[name])
    again = DebertaConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert (again, hash(again)) == (config, hash(config))
    assert (again != DebertaConfig()) == (name not in ("attention_head_size", "pooler_hidden_size", "extra"))


@given(st.lists(st.sampled_from(sorted(OTHER_VALUES)), max_size=8), st.booleans())
def test_configs_with_several_other_values_round_trip(names, is_first_version):
    version = {"model_type": "deberta"} if is_first_version else {}
    fields = {name: value for key in names for name, value in OTHER_VALUES[key].items()} | version
    try:
        config = DebertaConfig(**fields)
    except InputError:
        reject()
    assert DebertaConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_one_architecture_is_one_config_however_it_is_written():
    config = DebertaConfig()
    written = DebertaConfig(
        embedding_size=768, attention_head_size=64, pooler_hidden_size=768, pos_att_type=("p2c", "c2p"), extra={"a": 1}
    )
    assert (written, hash(written)) == (config, hash(config))
    assert written.to_dict() == config.to_dict() | {"a": 1}


def test_a_model_with_preserved_keys_has_the_tree_of_a_fresh_one():
    config = DebertaConfig(**SIZES)
    read = DebertaConfig.from_dict(config.to_dict() | {"architectures": ["DebertaV2Model"], "torch_dtype": "float32"})
    fresh, loaded = (Deberta(each, key=jax.random.key(seed)) for seed, each in enumerate((config, read)))
    traces = []

    @jax.jit
    def parameter_sum(model):
        traces.append(model)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(model))

    total = parameter_sum(fresh) + parameter_sum(loaded)
    assert len(traces) == 1
    mean = jax.tree.map(lambda a, b: (a + b) / 2, fresh, loaded)
    assert 2 * float(parameter_sum(mean)) == pytest.approx(float(total), rel=1e-4)
    assert loaded.config.to_dict()["architectures"] == ["DebertaV2Model"]


def test_a_pair_for_replaced_token_detection_is_read(tmp_path):
    inner = {"vocab_size": 100, "relative_attention": True, "pos_att_type": "p2c|c2p", "position_buckets": 256}
    path = tmp_path / "model_config.json"
    path.write_text(json.dumps({"embedding_sharing": "gdes", "generator": inner, "discriminator": inner}))
    generator, discriminator, sharing = read_rtd_pair(path)
    assert (generator, sharing) == (discriminator, "gdes")
    with pytest.raises(InputError, match="read_rtd_pair"):
        DebertaConfig.from_file(path)
    for name, sharing in {"ES": "es", "nes": "none"}.items():
        path.write_text(json.dumps({"embedding_sharing": name, "generator": inner, "discriminator": inner}))
        assert read_rtd_pair(path)[2] == sharing
    path.write_text(json.dumps({"embedding_sharing": "all", "generator": inner, "discriminator": inner}))
    with pytest.raises(InputError, match="embedding_sharing is 'all'; it must be one of gdes, es, nes, none"):
        read_rtd_pair(path)
    path.write_text("{}")
    with pytest.raises(InputError, match="section generator and discriminator"):
        read_rtd_pair(path)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"pos_att_type": ("c2p", "p2p")}, "p2p"),
        ({"pos_att_type": ("c2c",)}, "may contain c2p and p2c, not c2c"),
        ({"num_attention_heads": 7}, "768 is not divisible by num_attention_heads 7"),
        ({"attention_head_size": 32}, "must be hidden_size 768"),
        ({"model_type": "deberta", "conv_kernel_size": 3}, "conv_kernel_size needs"),
        ({"model_type": "deberta", "position_buckets": 256}, "position_buckets needs"),
        ({"model_type": "deberta", "share_att_key": True}, "share_att_key needs"),
        ({"model_type": "deberta", "norm_rel_ebd": "layer_norm"}, "norm_rel_ebd needs"),
        ({"conv_kernel_size": 4}, "must be odd"),
        ({"conv_kernel_size": 3, "conv_groups": 5}, "conv_groups 5"),
        ({"position_buckets": 1}, "position_buckets 1 cannot represent a sign"),
        ({"hidden_dropout_prob": 1.5}, "must be in"),
        ({"num_hidden_layers": 0}, "at least 1"),
        ({"hidden_act": "foo"}, "hidden_act is 'foo', expected one of gelu, gelu_new, gelu_fast"),
        ({"conv_act": "foo", "conv_kernel_size": 3}, "conv_act is 'foo', expected one of gelu"),
        ({"norm_rel_ebd": "foo"}, "norm_rel_ebd is 'foo', expected one of none, layer_norm"),
        ({"labels": ()}, "labels must name at least one class"),
    ],
)
def test_impossible_combinations_are_errors_with_the_reason(fields, reason):
    with pytest.raises(InputError, match=reason):
        DebertaConfig(**fields)


def test_other_models_are_an_error():
    with pytest.raises(InputError, match="'bert' is not a DeBERTa"):
        DebertaConfig.from_dict({"model_type": "bert"})
    with pytest.raises(InputError, match="talking_head"):
        DebertaConfig.from_dict({"model_type": "deberta", "talking_head": True})


def test_values_are_read_with_their_declared_type():
    config = DebertaConfig.from_dict({"model_type": "deberta-v2", "pooler_dropout": 0, "hidden_dropout_prob": 0})
    assert (type(config.pooler_dropout), type(config.hidden_dropout_prob)) == (float, float)
    for name, value in (("hidden_size", "768"), ("num_hidden_layers", 2.5), ("relative_attention", 1)):
        with pytest.raises(InputError, match=f"{name} must be (int|bool), not"):
            DebertaConfig.from_dict({"model_type": "deberta-v2", name: value})


def test_a_broken_file_is_named_in_the_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        DebertaConfig.from_file(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json: not valid JSON"):
        DebertaConfig.from_file(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_position_embeddings": 0}, "max_position_embeddings must be at least 1, not 0"),
        ({"embedding_size": -3}, "embedding_size must be at least 1, not -3"),
        ({"type_vocab_size": -1}, "type_vocab_size must be at least 0, not -1"),
        ({"pad_token_id": 200_000}, "pad_token_id 200000 is not below vocab_size 128100"),
        ({"layer_norm_eps": -1e-7}, "layer_norm_eps must be at least 0"),
        ({"cls_dropout": 2.0}, r"cls_dropout must be in \[0, 1\), not 2.0"),
        ({"conv_kernel_size": 3, "conv_groups": 0}, "conv_groups must be at least 1, not 0"),
    ],
)
def test_values_out_of_range_are_errors(fields, message):
    with pytest.raises(InputError, match=message):
        DebertaConfig(**fields)


def test_unusual_values_in_files():
    with pytest.raises(InputError, match="pos_att_type must be a string or a list of strings, not 7"):
        DebertaConfig.from_dict({"model_type": "deberta-v2", "pos_att_type": 7})
    assert DebertaConfig.from_dict({"pooling": None, "hidden_act": "relu"}).pooler_hidden_act == "relu"
    # v1 ignores the keys of v2 and exports them unchanged.
    first = {"model_type": "deberta", "position_buckets": 256, "share_att_key": True}
    config = DebertaConfig.from_dict(first)
    assert config.position_buckets == -1
    assert config.to_dict().items() >= first.items()
