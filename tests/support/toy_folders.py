"""Small models with random weights, and folders in the forms of released models."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from toy_tokenizers import write_byte_pair, write_unigram

from deberta_jax.config import DebertaConfig
from deberta_jax.hub.heads import HEADS
from deberta_jax.hub.layout import export_tensors
from deberta_jax.torch_format.file import write_torch_file

# One geometry for all models, so that tests share compiled programs.
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_SMALL = {**SIZES, "vocab_size": 67, "max_position_embeddings": 32}
V3 = DebertaConfig(**_SMALL, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True)
V2 = dataclasses.replace(V3, conv_kernel_size=3, conv_act="gelu", conv_groups=2)
V1 = DebertaConfig(**_SMALL, model_type="deberta")
BIASED = DebertaConfig(**_SMALL, position_buckets=8, position_biased_input=True, type_vocab_size=2, embedding_size=20)
CONFIGS = {"v1": V1, "v2": V2, "v3": V3, "biased": BIASED}
# With the vocabulary of `toy_tokenizers.write_unigram`, and room for whole sentences.
READING = dataclasses.replace(V3, vocab_size=384, max_position_embeddings=128, position_buckets=16)
NLI = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
WORDS = "deberta.embeddings.word_embeddings"


def random_model(build):
    """A model in which all parameters differ from each other, biases and norms too."""
    random = np.random.default_rng(0)
    abstract = jax.eval_shape(build, jax.random.key(0))
    # Converted by numpy, so that nothing is compiled.
    return jax.tree.map(lambda x: jnp.asarray(random.normal(0, 0.3, x.shape).astype(x.dtype), x.dtype), abstract)


@functools.cache
def toy_model(config, head="masked_lm", **options):
    return random_model(lambda key: HEADS[head].model(config, key=key, **options))


@functools.cache
def toy_tensors(config, head="masked_lm", **options):
    """The tensors of `toy_model` by their names in files; copy the dict before changing it."""
    return export_tensors(toy_model(config, head, **options), config)


def same_parameters(model, other):
    """Whether two models have equal parameters; their configs may keep different unknown keys."""
    pairs = zip(jax.tree.leaves_with_path(model), jax.tree.leaves_with_path(other), strict=True)
    return all(
        path == other_path and np.array_equal(np.asarray(leaf), np.asarray(other_leaf))
        for (path, leaf), (other_path, other_leaf) in pairs
    )


def microsoft_values(config):
    """`model_config.json` as Microsoft's training writes it."""
    values = config.to_dict() | {"padding_idx": config.pad_token_id, "pos_att_type": "|".join(config.pos_att_type)}
    return {key: value for key, value in values.items() if key not in ("model_type", "clamp_distances")}


def write_microsoft_folder(folder, tensors, config, name="pytorch_model.bin"):
    """A folder as Microsoft's training writes it."""
    folder.mkdir(exist_ok=True)
    write_torch_file(folder / name, tensors.items())
    (folder / "model_config.json").write_text(json.dumps(microsoft_values(config)))
    return folder


def write_hosted_folder(folder, config, *heads):
    """A Microsoft model as the Hub hosts it: one file with all these heads, and a config in Hugging Face's form."""
    folder.mkdir(parents=True)
    tensors = {name: x for head in heads for name, x in toy_tensors(config, head).items()}
    write_torch_file(folder / "pytorch_model.bin", tensors.items())
    values = config.to_dict() | {"pos_att_type": "p2c|c2p"}
    (folder / "config.json").write_text(json.dumps(values))


def released(root):
    """`owner/name` of three released models, and a folder in the form of each."""
    write_hosted_folder(root / "v2", dataclasses.replace(READING, conv_kernel_size=3, conv_act="gelu"), "masked_lm")
    write_hosted_folder(root / "v3", READING, "masked_lm", "replaced_token_detection")
    mnli = DebertaConfig(model_type="deberta", vocab_size=420, **SIZES, max_position_embeddings=128, labels=NLI)
    write_hosted_folder(root / "mnli", mnli, "sequence_classification")
    write_unigram(root / "v2")
    write_unigram(root / "v3")
    write_byte_pair(root / "mnli")
    return {
        "microsoft/deberta-v2-xlarge": root / "v2",
        "microsoft/deberta-v3-base": root / "v3",
        "microsoft/deberta-base-mnli": root / "mnli",
    }
