"""The adapters of a LoRA model, exported as a PEFT folder, give the same model when they are loaded."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from toy_folders import CONFIGS, random_model, toy_model
from toy_tokenizers import write_unigram

from deberta_jax.errors import InputError
from deberta_jax.finetuning.adapter import save_adapter
from deberta_jax.finetuning.config import LoraConfig
from deberta_jax.finetuning.lora import LoraModel, merge_lora
from deberta_jax.hub.config_file import load_config
from deberta_jax.hub.heads import HEADS
from deberta_jax.hub.pretrained import load_pretrained, save_pretrained
from deberta_jax.model.surgery import parameters, with_config


def lora_model(config, head, **options):
    """A trained LoRA model: its adapters and its head differ from those of the base, `toy_model`."""
    base = toy_model(config, head)
    model = random_model(
        lambda key: LoraModel(HEADS[head].model(config, key=key), LoraConfig(rank=3), key=key, **options)
    )
    encoder = "base" if head is None else "base.deberta"
    base_paths = [path for path in parameters(model) if path.startswith(f"{encoder}.")]
    values = {f"base.{path}": leaf for path, leaf in parameters(base).items()}
    leaves = [values[path] if path in base_paths else leaf for path, leaf in parameters(model).items()]
    return jax.tree.unflatten(jax.tree.structure(model), leaves)


def assert_merged(folder, head, model):
    loaded, _ = load_pretrained(folder, head, require_tokenizer=False)
    expected = parameters(jax.jit(merge_lora)(model))
    for path, leaf in parameters(loaded).items():
        np.testing.assert_allclose(leaf, expected[path], atol=1e-5, err_msg=path)


TARGETS = ("attention.query", "attention.value", "attention.output", "up", "down")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("head", ["sequence_classification", None])
def test_a_saved_adapter_is_loaded_as_the_merged_model(name, head, tmp_path):
    config = CONFIGS[name]
    model = lora_model(config, head, targets=TARGETS)
    save_pretrained(tmp_path / "base", toy_model(config, head))
    save_adapter(tmp_path / "adapter", model, base=tmp_path / "base")
    assert_merged(tmp_path / "adapter", head, model)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(tmp_path / "base")
    assert settings["modules_to_save"] == (["classifier", "pooler"] if head else None)
    assert settings["task_type"] == ("SEQ_CLS" if head else "FEATURE_EXTRACTION")
    assert settings["rank_pattern"] == ({"attention.self.in_proj": 6} if name == "v1" else {})


def test_the_tokenizer_and_the_labels_are_saved_with_the_adapter(tmp_path):
    config = dataclasses.replace(CONFIGS["v3"], labels=("O", "B", "I"))
    model = lora_model(config, "token_classification", targets=["attention.key"])
    # The base has no head and no labels.
    save_pretrained(tmp_path / "base", with_config(model.base.deberta, labels=CONFIGS["v3"].labels))
    save_adapter(tmp_path / "adapter", model, write_unigram(tmp_path), base=tmp_path / "base")
    assert (tmp_path / "adapter" / "spm.model").is_file()
    assert_merged(tmp_path / "adapter", "token_classification", model)
    assert load_config(tmp_path / "adapter").labels == ("O", "B", "I")


def test_a_head_that_transformers_lacks_is_refused(tmp_path):
    model = lora_model(CONFIGS["v3"], "entity_scoring", targets=["up"])
    with pytest.raises(InputError, match="no class for the head 'entity_scoring', so PEFT cannot load it"):
        save_adapter(tmp_path / "adapter", model, base="x")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("head", ["sequence_classification", "token_classification", None])
def test_peft_loads_a_saved_adapter_and_agrees(name, head, tmp_path):
    peft = pytest.importorskip("peft")
    import torch

    model = lora_model(CONFIGS[name], head, targets=TARGETS)
    save_pretrained(tmp_path / "base", model.base)
    save_adapter(tmp_path / "adapter", model, base=tmp_path / "base")
    kinds = {"sequence_classification": "SequenceClassification", "token_classification": "TokenClassification"}
    kind = getattr(peft, f"AutoPeftModelFor{kinds.get(head, 'FeatureExtraction')}")
    reference = kind.from_pretrained(tmp_path / "adapter").eval()
    ids = np.random.default_rng(0).integers(1, CONFIGS[name].vocab_size, (2, 10))
    with torch.no_grad():
        expected = reference(input_ids=torch.tensor(ids), attention_mask=torch.ones(ids.shape))[0].numpy()
    output = model(ids.astype(np.int32))
    output = output.last_hidden_state if head is None else output
    np.testing.assert_allclose(output, expected, atol=1e-5 * max(1, expected.std()))
