import dataclasses
import json

import jax
import numpy as np
import pytest

from deberta_jax.config import PRESETS, DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.hub.layout import export_tensors, import_tensors
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.masked_lm import MaskedLM

SMALL = {"vocab_size": 31, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
V2 = DebertaConfig(
    **SMALL, position_buckets=4, norm_rel_ebd="layer_norm", share_att_key=True, conv_kernel_size=3, conv_groups=2
)
V1 = DebertaConfig(**SMALL, model_type="deberta", max_position_embeddings=16)
UNSHARED = DebertaConfig(**SMALL, position_buckets=4, max_position_embeddings=16)
BIASED = dataclasses.replace(UNSHARED, position_biased_input=True, type_vocab_size=2, embedding_size=8)
CONFIGS = {"v1": V1, "v2": V2, "unshared": UNSHARED, "biased": BIASED}


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def masked_lm(config):
    """A model in which every parameter differs from every other, biases and norms too."""
    model = MaskedLM(config, key=jax.random.key(0))
    leaves, structure = jax.tree.flatten(model)
    random = np.random.default_rng(0)
    return jax.tree.unflatten(structure, [random.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])


def same(one, other):
    return all(
        (np.asarray(a) == np.asarray(b)).all()
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


@pytest.mark.parametrize("head", ["lm_predictions", "cls"])
def test_export_then_import_is_the_identity(config, head):
    model = masked_lm(config)
    tensors = export_tensors(model, config, head=head)
    assert all(tensor.flags["C_CONTIGUOUS"] for tensor in tensors.values())
    assert same(model, import_tensors(jax.eval_shape(lambda: model), config, tensors, source="file"))


def test_a_bare_model_reads_a_file_with_a_head_and_the_other_way_round(config):
    model = masked_lm(config)
    tensors = export_tensors(model, config)
    bare = import_tensors(model.deberta, config, tensors, source="file")
    assert same(bare, model.deberta)
    with_prefix = {f"deberta.{name}": tensor for name, tensor in export_tensors(bare, config).items()}
    assert same(import_tensors(bare, config, with_prefix, source="file"), bare)


def test_names_of_old_files_are_read(config):
    model = masked_lm(config)
    old = {
        name.replace("deberta.", "bert.", 1)
        .replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in export_tensors(model, config).items()
    }
    assert same(import_tensors(model, config, old, source="file"), model)


def test_the_fused_projection_of_version_1_interleaves_the_heads():
    model = Deberta(V1, key=jax.random.key(0))
    fused = export_tensors(model, V1)["encoder.layer.1.attention.self.in_proj.weight"]
    attention = model.encoder.layers.attention
    for head in range(2):
        for part, projection in enumerate((attention.query, attention.key, attention.value)):
            rows = slice(head * 18 + part * 6, head * 18 + part * 6 + 6)
            assert (fused[rows] == np.asarray(projection.kernel[1, :, head]).T).all()


def test_all_that_does_not_fit_is_listed_at_once(config):
    model = masked_lm(config)
    tensors = export_tensors(model, config)
    del tensors["deberta.embeddings.LayerNorm.bias"]
    tensors["deberta.encoder.layer.1.output.dense.weight"] = np.zeros((3, 3), np.float32)
    tensors["deberta.encoder.surprise"] = np.zeros(3, np.float32)
    with pytest.raises(InputError) as caught:
        import_tensors(model, config, tensors, source="model.safetensors")
    message = str(caught.value)
    assert message.startswith("model.safetensors: 3 tensors do not fit the model: ")
    assert "deberta.embeddings.LayerNorm.bias is missing" in message
    assert "dense.weight has shape (3, 3), (12, 20) in the model" in message
    assert "deberta.encoder.surprise is not known" in message


def test_a_tied_copy_that_differs_is_refused(config):
    model = masked_lm(config)
    tensors = export_tensors(model, config, head="cls")
    words = tensors["deberta.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.weight"] = words
    assert same(import_tensors(model, config, tensors, source="file"), model)
    tensors["cls.predictions.decoder.weight"] = words + 1
    with pytest.raises(InputError, match=r"decoder.weight differs from deberta.embeddings.word_embeddings.weight"):
        import_tensors(model, config, tensors, source="file")


LISTED = {
    "v1/DebertaModel": PRESETS["v1-base"],
    "v1/DebertaForMaskedLM(legacy=False)": PRESETS["v1-base"],
    "v3/DebertaV2Model": PRESETS["v3-base"],
    "v3/DebertaV2ForMaskedLM(legacy=False)": PRESETS["v3-base"],
    "v2-xlarge-like/DebertaV2Model": PRESETS["v2-xlarge"],
    "v3-noshare/DebertaV2Model": dataclasses.replace(PRESETS["v3-base"], share_att_key=False),
    "size/v3-xsmall": PRESETS["v3-xsmall"],
    "size/v3-small": PRESETS["v3-small"],
    "size/v3-base": PRESETS["v3-base"],
    "size/v3-large": PRESETS["v3-large"],
    "size/v3-mdeberta": PRESETS["mdeberta-v3-base"],
}


@pytest.mark.shared
@pytest.mark.parametrize("case", LISTED)
def test_released_geometries_have_the_names_and_shapes_of_transformers(case, shared):
    listed = json.loads((shared / "reference" / "hf_params.json").read_text())[case]["state_dict"]
    config = LISTED[case]
    if "MaskedLM" in case:
        build = lambda key: MaskedLM(config, enhanced_mask_decoder=False, key=key)  # noqa: E731
    else:
        build = lambda key: Deberta(config, key=key)  # noqa: E731
    # Shapes only: a broadcast zero takes no memory, however large the model.
    zeros = lambda leaf: np.broadcast_to(np.int8(0), leaf.shape)  # noqa: E731
    model = jax.tree.map(zeros, jax.eval_shape(build, jax.random.key(0)))
    ours = {name: list(tensor.shape) for name, tensor in export_tensors(model, config).items()}
    assert ours == {name: shape for name, shape in listed.items() if "position_ids" not in name}
