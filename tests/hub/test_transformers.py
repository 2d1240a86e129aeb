"""Models of transformers, loaded here; models saved here, loaded by transformers."""

import dataclasses
import json

import numpy as np
import pytest
from toy_folders import CONFIGS, toy_model

from deberta_jax.hub.heads import HEADS
from deberta_jax.hub.pretrained import load_pretrained, save_pretrained

LABELS = tuple("abcde")
pytestmark = pytest.mark.reference


def batch_of(config, batch_size=3, length=14):
    """Token ids, and an attention mask with padding, a gap and a full sequence."""
    random = np.random.default_rng(0)
    mask = np.ones((batch_size, length), np.int64)
    mask[0, 9:], mask[1, 4] = 0, 0
    return random.integers(1, config.vocab_size, (batch_size, length)), mask


def transformers_values(config):
    """A config as arguments of transformers, without the keys that only this library has."""
    values = config.to_dict()
    return {key: value for key, value in values.items() if key not in ("model_type", "clamp_distances")}


def class_names(name):
    """The classes of transformers for a config, by head."""
    version = "Deberta" if CONFIGS[name].model_type == "deberta" else "DebertaV2"
    known = {head: f"{version}{spec.architecture}" for head, spec in HEADS.items() if spec.architecture}
    return {head: kind for head, kind in known.items() if kind != "DebertaForMultipleChoice"}


ALL = [(name, head) for name in CONFIGS for head in class_names(name)]


def outputs_of(model, head, ids, mask):
    """The outputs of a head at real tokens; masks are filled from the last layer, as transformers does."""
    if head is None:
        return np.where(mask[..., None] == 1, model(ids, mask).last_hidden_state, 0)
    if head == "masked_lm":
        states = model.deberta(ids, mask).last_hidden_state
        return np.where(mask[..., None] == 1, model.head(states, model.deberta.embeddings.word.embedding[...]), 0)
    if head == "multiple_choice":
        return np.asarray(model(np.stack([ids, ids[::-1]], 1), np.stack([mask, mask[::-1]], 1)))
    output = model(ids, mask)
    if head == "question_answering":
        return np.where(mask == 1, output.start, 0)
    return np.where(mask[..., None] == 1, output, 0) if head == "token_classification" else np.asarray(output)


def reference_outputs(model, head, ids, mask):
    import torch

    if head == "multiple_choice":
        ids, mask = np.stack([ids, ids[::-1]], 1), np.stack([mask, mask[::-1]], 1)
    with torch.no_grad():
        output = model(torch.tensor(ids), attention_mask=torch.tensor(mask))[0].float().numpy()
    if head in (None, "masked_lm", "token_classification"):
        return np.where(mask[..., None] == 1, output, 0)
    return np.where(mask == 1, output, 0) if head == "question_answering" else output


def assert_agree(outputs, expected):
    np.testing.assert_allclose(outputs, expected, atol=1e-5 * max(1, expected.std()))


@pytest.mark.parametrize(("name", "head"), ALL)
@pytest.mark.parametrize("form", ["safetensors", "sharded", "bin", "bfloat16"])
def test_a_model_of_transformers_is_loaded_and_agrees(name, head, form, tmp_path, transformers):
    import torch

    config, kind = CONFIGS[name], class_names(name)[head]
    values = transformers_values(config) | {"initializer_range": 0.1, "attn_implementation": "eager"}
    torch.manual_seed(0)
    values |= {"num_labels": len(LABELS)} if HEADS[head].has_labels else {}
    values |= {"legacy": name == "biased"} if head == "masked_lm" else {}
    version = kind.partition("For")[0].removesuffix("Model")
    model = getattr(transformers, kind)(getattr(transformers, f"{version}Config")(**values)).eval()
    if form == "bfloat16":
        model = model.to(torch.bfloat16)
    model.save_pretrained(tmp_path, **({"max_shard_size": "20KB"} if form == "sharded" else {}))
    assert (tmp_path / "model.safetensors.index.json").exists() == (form == "sharded")
    if form == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    loaded = load_pretrained(tmp_path, head, require_tokenizer=False)[0]
    if head == "masked_lm":
        # transformers has no enhanced mask decoder: its files contain no positions, or positions of the input.
        assert loaded.decoder is None
    ids, mask = batch_of(config)
    assert_agree(outputs_of(loaded, head, ids, mask), reference_outputs(model.float(), head, ids, mask))


@pytest.mark.parametrize(("name", "head"), [(name, head) for name, head in ALL if name != "biased"])
def test_transformers_loads_a_saved_model_and_agrees(name, head, tmp_path, transformers):
    config = dataclasses.replace(CONFIGS[name], labels=LABELS if HEADS[head].has_labels else CONFIGS[name].labels)
    model = toy_model(config, head)
    save_pretrained(tmp_path, model, max_file_bytes=30_000)
    class_name = json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    assert class_name == class_names(name)[head]
    reference, report = getattr(transformers, class_name).from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert set(report["unexpected_keys"]) <= {"deberta.embeddings.position_embeddings.weight"}
    if config.labels == LABELS:
        assert reference.config.id2label == dict(enumerate(LABELS))
    ids, mask = batch_of(config)
    assert_agree(outputs_of(model, head, ids, mask), reference_outputs(reference.eval(), head, ids, mask))
