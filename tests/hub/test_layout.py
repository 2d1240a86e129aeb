import dataclasses
import functools
import json
import re

import jax
import numpy as np
import pytest
from toy_folders import V1, same_parameters, toy_model, toy_tensors

from deberta_jax.hub.heads import HEADS
from deberta_jax.hub.layout import export_tensors, file_tensors, with_lm_prefix
from deberta_jax.hub.legacy_names import canonical_tensors
from deberta_jax.hub.load import load_model
from deberta_jax.hub.tensors import as_tensor
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.heads import (
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.multiple_choice import MultipleChoice
from deberta_jax.presets import PRESETS


def read(config, tensors, head="masked_lm", **options):
    """A model from tensors by their names in a file."""
    named = canonical_tensors({name: as_tensor(x) for name, x in tensors.items()}, config, source="file")
    return load_model(lambda key: HEADS[head].model(config, key=key, **options), config, named, source="file")


@pytest.mark.parametrize(
    ("head", "options"), [*((head, {}) for head in HEADS if head), ("token_classification", {"projected": True})]
)
def test_export_then_import_is_the_identity(config, head, options):
    tensors = toy_tensors(config, head, **options)
    assert all(tensor.flags["C_CONTIGUOUS"] for tensor in tensors.values())
    assert same_parameters(read(config, tensors, head, **options), toy_model(config, head, **options))


def test_both_forms_of_the_masked_lm_head_are_read(config):
    tensors = export_tensors(toy_model(config), config, lm_prefix="cls")
    assert "cls.predictions.transform.dense.weight" in tensors
    assert same_parameters(toy_model(config), read(config, tensors))
    assert {with_lm_prefix(name, "lm_predictions") for name in tensors} == toy_tensors(config).keys()
    assert {with_lm_prefix(name, "cls") for name in toy_tensors(config)} == tensors.keys()


def test_a_bare_model_is_read_from_files_with_and_without_a_head(config):
    model = toy_model(config)
    assert same_parameters(read(config, toy_tensors(config), None), model.deberta)
    without_prefix = export_tensors(model.deberta, config)
    assert not any(name.startswith("deberta.") for name in without_prefix)
    assert same_parameters(read(config, without_prefix, None), model.deberta)


def test_the_fused_projection_of_version_1_interleaves_the_heads():
    fused = toy_tensors(V1)["deberta.encoder.layer.1.attention.self.in_proj.weight"]
    attention = toy_model(V1).deberta.encoder.layers.attention
    N, H = V1.num_attention_heads, V1.head_size
    for head in range(N):
        for part, projection in enumerate((attention.query, attention.key, attention.value)):
            start = (head * 3 + part) * H
            assert (fused[start : start + H] == np.asarray(projection.kernel[1, :, head]).T).all()


TASKS = "SequenceClassification", "TokenClassification", "QuestionAnswering"
LISTED = {
    "v1/DebertaModel": PRESETS["v1-base"],
    "v1/DebertaForMaskedLM(legacy=False)": PRESETS["v1-base"],
    **{f"v1/DebertaFor{head}": PRESETS["v1-base"] for head in TASKS},
    **{f"v3/DebertaV2For{head}": PRESETS["v3-base"] for head in (*TASKS, "MultipleChoice")},
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
    kinds = {
        "ForMaskedLM(legacy=False)": functools.partial(MaskedLM, enhanced_mask_decoder=False),
        "ForSequenceClassification": SequenceClassification,
        "ForTokenClassification": TokenClassification,
        "ForQuestionAnswering": QuestionAnswering,
        "ForMultipleChoice": MultipleChoice,
    }
    kind = kinds.get(re.sub(r".*/Deberta(V2)?", "", case), Deberta)
    build = lambda key: kind(config, key=key)  # noqa: E731
    # A broadcast zero has a shape but takes no memory, however large the model.
    zeros = lambda leaf: np.broadcast_to(np.int8(0), leaf.shape)  # noqa: E731
    model = jax.tree.map(zeros, jax.eval_shape(build, jax.random.key(0)))
    shapes = {name: list(tensor.shape) for name, tensor in file_tensors(model, config).items()}
    assert shapes == {name: shape for name, shape in listed.items() if "position_ids" not in name}
