"""Folders in the forms of released models, small and with random weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from toy_tokenizers import write_byte_pair, write_unigram

from deberta_jax.config import DebertaConfig
from deberta_jax.hub.layout import export_tensors
from deberta_jax.model.heads import ReplacedTokenDetection, SequenceClassification
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.torch_format.file import write_torch_file

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
V3 = DebertaConfig(
    vocab_size=384,
    **SIZES,
    max_position_embeddings=128,
    position_buckets=16,
    norm_rel_ebd="layer_norm",
    share_att_key=True,
)
NLI = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")


def random(build):
    draw = np.random.default_rng(0)
    abstract = jax.eval_shape(build, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.3, x.shape), x.dtype), abstract)


def write(folder, config, *models):
    """Microsoft's file on the hub, with the heads of all these models, beside Hugging Face's config."""
    folder.mkdir(parents=True)
    tensors = {name: x for model in models for name, x in export_tensors(model, config).items()}
    write_torch_file(folder / "pytorch_model.bin", tensors.items())
    values = config.to_dict() | {"pos_att_type": "p2c|c2p"}
    (folder / "config.json").write_text(json.dumps(values))


def released(root):
    """`owner/name` of three released models, and a folder made in the form of each."""
    masked = DebertaConfig(**{**V3.__dict__, "conv_kernel_size": 3, "conv_act": "gelu"})
    write(root / "v2", masked, random(lambda key: MaskedLM(masked, key=key)))
    pair = random(lambda key: MaskedLM(V3, key=key)), random(lambda key: ReplacedTokenDetection(V3, key=key))
    write(root / "v3", V3, *pair)
    first = DebertaConfig(model_type="deberta", vocab_size=420, **SIZES, max_position_embeddings=128, labels=NLI)
    write(root / "mnli", first, random(lambda key: SequenceClassification(first, key=key)))
    write_unigram(root / "v2")
    write_unigram(root / "v3")
    write_byte_pair(root / "mnli")
    return {
        "microsoft/deberta-v2-xlarge": root / "v2",
        "microsoft/deberta-v3-base": root / "v3",
        "microsoft/deberta-base-mnli": root / "mnli",
    }
