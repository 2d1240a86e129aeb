"""PEFT adapters are merged into their base model, which is named or given."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest
from adapter_folders import LAYER, PREFIX, matrices, merged, write_adapter
from mock_hub import serving
from toy_folders import READING, V1, V3, same_parameters, toy_model, toy_tensors
from toy_tokenizers import write_unigram

from deberta_jax.errors import InputError
from deberta_jax.hub.layout import export_tensors
from deberta_jax.hub.pretrained import from_pretrained, load_pretrained, save_pretrained
from deberta_jax.model.deberta import Deberta
from deberta_jax.torch_format.file import write_torch_file

HEAD = "sequence_classification"
LABELED = dataclasses.replace(V3, labels=("no", "yes", "maybe"))
D = V3.hidden_size
MODULES = [LAYER.format(0) + "query_proj", LAYER.format(1) + "value_proj"]
ADAPTERS = {module: matrices(module, D, D, seed=seed) for seed, module in enumerate(MODULES)}
TENSORS = {name: x for parts in ADAPTERS.values() for name, x in parts.items()}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A saved classifier; tests must not change it."""
    folder = tmp_path_factory.mktemp("base")
    save_pretrained(folder, toy_model(LABELED, HEAD))
    return folder


def load(folder, head=HEAD, **options):
    return load_pretrained(folder, head, require_tokenizer=False, **options)[0]


def assert_tensors(model, expected):
    tensors = export_tensors(model, model.config)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        np.testing.assert_allclose(tensor, expected[name], atol=1e-6, err_msg=name)


def refused(match, folder, **options):
    """Check that loading a folder raises an InputError of one line."""
    with pytest.raises(InputError, match=match) as raised:
        load(folder, **options)
    assert "\n" not in str(raised.value)


def test_the_product_of_the_matrices_is_added_to_the_weights(base, tmp_path):
    model = load(write_adapter(tmp_path / "adapter", TENSORS, base))
    assert_tensors(model, merged(LABELED, HEAD, ADAPTERS, 3.0))
    assert model.config.labels == LABELED.labels


def test_rslora_divides_by_the_root_of_the_rank(base, tmp_path):
    model = load(write_adapter(tmp_path / "adapter", TENSORS, base, use_rslora=True, fan_in_fan_out=True))
    assert_tensors(model, merged(LABELED, HEAD, ADAPTERS, 6 / math.sqrt(2)))


def test_patterns_give_modules_another_rank_and_alpha(base, tmp_path):
    wide = {MODULES[0]: matrices(MODULES[0], D, D, rank=4), MODULES[1]: ADAPTERS[MODULES[1]]}
    tensors = {name: x for parts in wide.values() for name, x in parts.items()}
    patterns = {"rank_pattern": {"query_proj": 4}, "alpha_pattern": {r"layer\.\d+\.attention\.self\.query_proj": 20}}
    model = load(write_adapter(tmp_path / "adapter", tensors, base, **patterns))
    expected = merged(LABELED, HEAD, {MODULES[0]: wide[MODULES[0]]}, 5.0)
    other = merged(LABELED, HEAD, {MODULES[1]: wide[MODULES[1]]}, 3.0)
    assert_tensors(model, expected | {f"{MODULES[1]}.weight": other[f"{MODULES[1]}.weight"]})


def test_the_fused_projection_of_version_1_is_adapted_as_a_whole(tmp_path):
    save_pretrained(tmp_path / "base", toy_model(V1, HEAD))
    module = LAYER.format(1) + "in_proj"
    adapters = {module: matrices(module, 3 * D, D)}
    model = load(write_adapter(tmp_path / "adapter", adapters[module], tmp_path / "base"))
    assert_tensors(model, merged(V1, HEAD, adapters, 3.0))


def test_embeddings_and_convolutions_are_adapted(tmp_path):
    config = dataclasses.replace(V3, conv_kernel_size=3, conv_act="gelu")
    save_pretrained(tmp_path / "base", toy_model(config, None))
    random = np.random.default_rng(0)
    words, convolution = "deberta.embeddings.word_embeddings", "deberta.encoder.conv.conv"
    a, b = random.normal(size=(2, config.vocab_size)), random.normal(size=(D, 2))
    conv_a, conv_b = random.normal(size=(2, D, 3)), random.normal(size=(D, 2, 1))
    tensors = {
        f"{PREFIX}embeddings.word_embeddings.lora_embedding_A": a,
        f"{PREFIX}embeddings.word_embeddings.lora_embedding_B": b,
        f"{PREFIX}encoder.conv.conv.lora_A.weight": conv_a,
        f"{PREFIX}encoder.conv.conv.lora_B.weight": conv_b,
    }
    tensors = {name: x.astype(np.float32) for name, x in tensors.items()}
    model = load(write_adapter(tmp_path / "adapter", tensors, tmp_path / "base"), None)
    base = toy_tensors(config, None)
    kernel = np.einsum("or,rik->oik", conv_b[..., 0], conv_a)
    expected = base | {
        f"{words.removeprefix('deberta.')}.weight": base["embeddings.word_embeddings.weight"] + 3 * (b @ a).T,
        f"{convolution.removeprefix('deberta.')}.weight": base["encoder.conv.conv.weight"] + 3 * kernel,
    }
    for name, tensor in export_tensors(model, config).items():
        np.testing.assert_allclose(tensor, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_parts_that_were_trained_as_a_whole_replace_those_of_the_base(base, tmp_path):
    random = np.random.default_rng(0)
    whole = {"pooler.dense.weight": (D, D), "pooler.dense.bias": (D,), "classifier.weight": (5, D)}
    whole |= {"classifier.bias": (5,), f"{MODULES[0]}.bias": (D,)}
    values = {name: random.normal(size=shape).astype(np.float32) for name, shape in whole.items()}
    names = {f"{MODULES[0]}.bias": f"{MODULES[0]}.base_layer.bias"}
    tensors = TENSORS | {PREFIX + names.get(name, name): x for name, x in values.items()}
    copies = {f"{PREFIX}pooler.modules_to_save.default.dense.bias": values["pooler.dense.bias"]}
    copies[f"{PREFIX}pooler.original_module.dense.bias"] = np.ones(D, np.float32)
    model = load(write_adapter(tmp_path / "adapter", tensors | copies, base, bias="all"))
    assert_tensors(model, merged(LABELED, HEAD, ADAPTERS, 3.0) | values)
    assert model.config.labels == tuple(f"LABEL_{index}" for index in range(5))
    # A config beside the adapter names the labels.
    labels = {"id2label": {str(index): name for index, name in enumerate("abcde")}}
    (tmp_path / "adapter" / "config.json").write_text(json.dumps(LABELED.to_dict() | labels))
    assert load(tmp_path / "adapter").config.labels == tuple("abcde")


def test_an_adapter_in_a_bin_file_and_of_a_bare_encoder_is_read(tmp_path):
    save_pretrained(tmp_path / "base", toy_model(V3, None))
    folder = write_adapter(tmp_path / "adapter", {}, "../base", task_type="FEATURE_EXTRACTION")
    (folder / "adapter_model.safetensors").unlink()
    bare = {name.replace("deberta.", "").replace("weight", "default.weight"): x for name, x in TENSORS.items()}
    write_torch_file(folder / "adapter_model.bin", bare.items())
    model = load(folder, None)
    assert type(model) is Deberta
    adapters = {module.removeprefix("deberta."): parts for module, parts in ADAPTERS.items()}
    assert_tensors(model, merged(V3, None, adapters, 3.0))


def test_the_base_may_be_given_or_beside_the_adapter_or_on_the_hub(base, tmp_path, monkeypatch):
    expected = load(write_adapter(tmp_path / "adapter", TENSORS, base))
    shutil.copytree(base, tmp_path / "sibling")
    assert same_parameters(load(write_adapter(tmp_path / "relative", TENSORS, "../sibling")), expected)
    missing = write_adapter(tmp_path / "missing", TENSORS, "no/such-model")
    assert same_parameters(load(missing, base=base), expected)
    with serving({"me/base": base, "me/adapter": write_adapter(tmp_path / "hosted", TENSORS, "me/base")}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        model, _ = from_pretrained("me/adapter", HEAD, require_tokenizer=False)
        assert same_parameters(model, expected)
        assert "adapter_model.safetensors" in hub.fetched() and "model.safetensors" in hub.fetched()
    # Both are in the cache.
    assert same_parameters(from_pretrained("me/adapter", HEAD, require_tokenizer=False)[0], expected)


def test_an_adapter_without_its_base_says_how_to_give_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    how = r"a PEFT adapter without its base model; pass base=FOLDER \(--base FOLDER\): "
    refused(how + "me/nowhere: no such folder here", write_adapter(tmp_path / "hub", TENSORS, "me/nowhere"))
    refused(how + "'/no/such': no such folder", write_adapter(tmp_path / "folder", TENSORS, "/no/such"))
    refused("whose config names no base model; pass base=FOLDER", write_adapter(tmp_path / "none", TENSORS))


def test_a_base_is_only_for_adapters(base):
    refused("not a PEFT adapter", base, base=base)


def test_the_tokenizer_is_that_of_the_adapter_else_that_of_the_base(tmp_path):
    save_pretrained(tmp_path / "base", toy_model(READING, None))
    write_unigram(tmp_path / "base")
    folder = write_adapter(tmp_path / "adapter", TENSORS, tmp_path / "base")
    assert load_pretrained(folder)[1].path == tmp_path / "base"
    write_unigram(folder)
    assert load_pretrained(folder)[1].path == folder


def test_adapters_that_are_not_supported_are_refused(base, tmp_path):
    for settings, match in (
        ({"peft_type": "IA3"}, "peft_type is 'IA3', only LORA is supported"),
        ({"use_dora": True}, "use_dora is not supported; merge the adapter with peft"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"lora_alpha": "8"}, "lora_alpha of .* is '8', expected a number"),
        ({"rank_pattern": {"(": 3}}, "rank_pattern contains an invalid pattern"),
        ({"r": 0}, "the rank of .* is 0"),
        ({"r": 4}, "4 tensors|2 tensors do not fit the base model: .*with rank 4"),
        ({"base_model_name_or_path": 3}, "names no base model"),
    ):
        refused(match, write_adapter(tmp_path / "adapter", TENSORS, base, **settings))
    refused("incomplete or unknown adapters", write_adapter(tmp_path / "half", dict([*TENSORS.items()][:1]), base))
    refused("contains no adapter", write_adapter(tmp_path / "empty", {}, base))
    folder = write_adapter(tmp_path / "file", TENSORS, base)
    (folder / "adapter_model.safetensors").unlink()
    refused("adapter_config.json without weights; expected adapter_model.safetensors or adapter_model.bin", folder)


def test_tensors_that_the_base_lacks_are_listed_at_most_20_of_them(base, tmp_path):
    modules = [LAYER.format(layer) + "query_proj" for layer in range(2, 40)]
    tensors = {name: x for module in modules for name, x in matrices(module, D, D).items()}
    folder = write_adapter(tmp_path / "adapter", tensors, base)
    refused("38 tensors do not fit the base model: .*layer.2.attention.*; and 18 more$", folder)


def test_saving_the_merged_model_over_the_adapter_replaces_it(base, tmp_path):
    folder = write_adapter(tmp_path / "adapter", TENSORS, base)
    model = load(folder)
    save_pretrained(folder, model)
    assert not (folder / "adapter_config.json").exists()
    assert same_parameters(load(folder), model)


def test_parts_that_were_not_saved_are_logged(base, tmp_path, caplog):
    load(write_adapter(tmp_path / "adapter", TENSORS, base, modules_to_save=["pooler", "score"]))
    assert "modules_to_save in adapter_config.json lists pooler, which is not in the file" in caplog.text


def test_a_bfloat16_base_is_merged_in_float32(tmp_path):
    model = jax.tree.map(lambda x: x.astype("bfloat16"), toy_model(LABELED, HEAD))
    save_pretrained(tmp_path / "base", model)
    merged_model = load(write_adapter(tmp_path / "adapter", TENSORS, tmp_path / "base"))
    name = f"{MODULES[0]}.weight"
    a, b = ADAPTERS[MODULES[0]].values()
    rounded = export_tensors(model, LABELED)[name].astype(np.float32)
    np.testing.assert_allclose(export_tensors(merged_model, LABELED)[name], rounded + 3 * (b @ a), atol=1e-6)


def test_a_table_with_new_words_replaces_that_of_the_base(base, tmp_path):
    words = np.random.default_rng(0).normal(size=(V3.vocab_size + 5, D)).astype(np.float32)
    name = "deberta.embeddings.word_embeddings.weight"
    model = load(write_adapter(tmp_path / "adapter", TENSORS | {f"{PREFIX}{name}": words}, base))
    assert model.config.vocab_size == V3.vocab_size + 5
    assert_tensors(model, merged(LABELED, HEAD, ADAPTERS, 3.0) | {name: words})
    refused(
        "word_embeddings.weight has shape", write_adapter(tmp_path / "wide", {f"{PREFIX}{name}": words[:, 1:]}, base)
    )
