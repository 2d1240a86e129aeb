import dataclasses
import json

import numpy as np
import pytest
from mock_hub import serving
from toy_folders import V3, toy_tensors

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.hub.config_file import config_text, read_config, with_labels
from deberta_jax.hub.tensors import as_tensor

NLI = ("contradiction", "neutral", "entailment")
CLASSIFIER = dataclasses.replace(V3, labels=NLI, problem_type="multi_label_classification")
TENSORS = {name: as_tensor(x) for name, x in toy_tensors(CLASSIFIER, "sequence_classification").items()}
HEAD = "sequence_classification"


def test_the_config_names_the_class_of_transformers(config):
    version = "" if config.model_type == "deberta" else "V2"
    values = json.loads(config_text(config, "masked_lm", dtype="float32"))
    assert values["architectures"] == [f"Deberta{version}ForMaskedLM"]
    assert (values["model_type"], values["legacy"], values["dtype"]) == (config.model_type, True, "float32")
    values = json.loads(config_text(config, None, dtype="bfloat16"))
    assert values["architectures"] == [f"Deberta{version}Model"]
    assert "legacy" not in values


def test_a_projected_token_classification_is_named_as_the_encoder():
    values = json.loads(config_text(V3, "token_classification", projected=True, dtype="float32"))
    assert values["architectures"] == ["DebertaV2Model"]


def test_a_config_that_was_written_is_read_again(config, tmp_path):
    (tmp_path / "config.json").write_text(config_text(config, None, dtype="float32"))
    assert dataclasses.replace(read_config(tmp_path), extra={}).to_dict() == config.to_dict()


def test_errors_of_a_config_name_the_file(tmp_path):
    with pytest.raises(InputError, match="config.json: no such file; a model folder needs it, or model_config.json"):
        read_config(tmp_path)
    for name in ("pytorch.model-000100.bin", "pytorch_model.bin"):
        (tmp_path / name).touch()
        with pytest.raises(
            InputError, match=f"config.json: no such file; copy the config of .* {name}, into this folder$"
        ):
            read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "deberta-v2"')
    with pytest.raises(InputError, match="config.json: not valid JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "deberta-v2", "vocab_size": 0}')
    with pytest.raises(InputError, match=rf"^{tmp_path}/config.json: vocab_size must be at least 1"):
        read_config(tmp_path)


def test_labels_of_the_file_are_kept_in_its_order():
    assert with_labels(CLASSIFIER, TENSORS, HEAD, None) == (CLASSIFIER, TENSORS)
    assert with_labels(CLASSIFIER, TENSORS, HEAD, NLI[::-1]) == (CLASSIFIER, TENSORS)


def test_labels_name_the_outputs_of_an_unnamed_classifier():
    unnamed = dataclasses.replace(V3, labels=("LABEL_0", "LABEL_1", "LABEL_2"))
    config, tensors = with_labels(unnamed, TENSORS, HEAD, NLI)
    assert (config.labels, tensors) == (NLI, TENSORS)


def test_a_classifier_with_other_labels_is_removed():
    config, tensors = with_labels(CLASSIFIER, TENSORS, HEAD, ["x", "y"])
    assert (config.labels, config.problem_type) == (("x", "y"), None)
    assert TENSORS.keys() - tensors.keys() == {"classifier.weight", "classifier.bias"}


def test_a_head_without_labels_keeps_a_classifier_with_a_single_score_only():
    config, tensors = with_labels(CLASSIFIER, TENSORS, "multiple_choice", None)
    assert (config.labels, config.problem_type) == (V3.labels, None)
    assert TENSORS.keys() - tensors.keys() == {"classifier.weight", "classifier.bias"}
    single = TENSORS | {"classifier.weight": as_tensor(np.zeros((1, 32)))}
    assert with_labels(CLASSIFIER, single, "multiple_choice", None) == (config, single)
    with pytest.raises(InputError, match="labels are for classification heads; the head is 'masked_lm'"):
        with_labels(CLASSIFIER, TENSORS, "masked_lm", ("a",))


@pytest.mark.parametrize("labels", ["yes", (), ("a", "a")])
def test_labels_that_are_not_distinct_names_are_refused(labels):
    with pytest.raises(InputError, match=r"labels must (be a list of names|differ from each other)"):
        with_labels(CLASSIFIER, TENSORS, HEAD, labels)


def test_a_config_is_read_without_weights(config, tmp_path):
    (tmp_path / "config.json").write_text(config_text(config, None, dtype="float32"))
    assert DebertaConfig.from_pretrained(tmp_path) == DebertaConfig.from_pretrained(str(tmp_path)) == config
    with pytest.raises(InputError, match="only the weights give the depth of its generator; load it with from_pretra"):
        DebertaConfig.from_pretrained(tmp_path, generator=True)


def test_a_config_of_the_hub_is_read_without_its_weights(v3_folder, tmp_path, monkeypatch):
    with serving({"me/tiny": v3_folder}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        assert DebertaConfig.from_pretrained("me/tiny") == DebertaConfig.from_file(v3_folder / "config.json")
        assert hub.fetched() == ["config.json"]
        with pytest.raises(InputError, match="no revision v9"):
            DebertaConfig.from_pretrained("me/tiny", revision="v9")


def test_a_config_of_a_pair_is_read_for_each_model(tmp_path):
    sections = {"generator": {"num_hidden_layers": 2}, "discriminator": {"num_hidden_layers": 4}}
    (tmp_path / "model_config.json").write_text(json.dumps(sections))
    assert DebertaConfig.from_pretrained(tmp_path).num_hidden_layers == 4
    assert DebertaConfig.from_pretrained(tmp_path, generator=True).num_hidden_layers == 2
