"""Toy models in released forms, under the names of released models that the pages have."""

import contextlib
import dataclasses
from pathlib import Path

from mock_hub import serving
from toy_folders import READING, SIZES, released, toy_tensors, write_hosted_folder
from toy_tokenizers import write_byte_pair, write_unigram

from deberta_jax.config import DebertaConfig
from deberta_jax.hub.download import GENERATOR_FILE
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.config import generator_config
from deberta_jax.torch_format.file import write_torch_file

# A training step without disentangled attention and without dropout compiles faster.
FAST = {
    "max_position_embeddings": 512,
    "relative_attention": False,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
V1 = DebertaConfig(model_type="deberta", vocab_size=420, **SIZES, **FAST)
V2 = dataclasses.replace(READING, conv_kernel_size=3, conv_act="gelu", **FAST)
V3 = dataclasses.replace(READING, **FAST)
# A model of the same version in place of each preset.
TOY_PRESETS = {name: {"v1": V1, "v2": V2}.get(name[:2], V3) for name in PRESETS}
HOSTED = {
    V1: ("deberta-base", "deberta-large"),
    V2: ("deberta-v2-xxlarge",),
    V3: ("deberta-v3-xsmall", "deberta-v3-small", "deberta-v3-large", "mdeberta-v3-base"),
}


def write_models(root):
    """`owner/name` of the released models of the pages, and a toy folder in the form of each."""
    folders = released(root)
    for config, names in HOSTED.items():
        folder = root / names[0]
        heads = ("masked_lm", "replaced_token_detection") if config is V3 else ("masked_lm",)
        write_hosted_folder(folder, config, *heads)
        (write_byte_pair if config is V1 else write_unigram)(folder)
        folders |= {f"microsoft/{name}": folder for name in names}
    generator = generator_config(V3)
    write_torch_file(root / HOSTED[V3][0] / GENERATOR_FILE, toy_tensors(generator, "masked_lm").items())
    return folders


def write_saved_model(folder, config, head, **fields):
    """Write a model folder as the commands save it."""
    folder = Path(folder)
    write_hosted_folder(folder, dataclasses.replace(config, **fields), head)
    write_unigram(folder)


@contextlib.contextmanager
def hub_and_folder(models, folder, monkeypatch):
    """A mock hub with these models, and an empty current folder."""
    with serving(models) as hub:
        hub.use(monkeypatch, folder / "cache")
        (folder / "work").mkdir()
        monkeypatch.chdir(folder / "work")
        yield hub
