import dataclasses
import functools
import json
import re

import jax
import numpy as np
import pytest

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.hub.layout import export_tensors
from deberta_jax.hub.legacy_names import canonical
from deberta_jax.hub.load import import_tensors
from deberta_jax.hub.tensors import Made, as_tensor
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.heads import (
    EntityScoring,
    MultipleChoice,
    QuestionAnswering,
    ReplacedTokenDetection,
    SequenceClassification,
    TokenClassification,
)
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.shardings import shardings
from deberta_jax.presets import PRESETS
from deberta_jax.sharding import make_mesh

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


HEADS = {
    "masked_lm": MaskedLM,
    "sequence_classification": SequenceClassification,
    "multiple_choice": MultipleChoice,
    "token_classification": TokenClassification,
    "microsoft_tokens": functools.partial(TokenClassification, projected=True),
    "question_answering": QuestionAnswering,
    "replaced_token_detection": ReplacedTokenDetection,
    "entity_scoring": EntityScoring,
}


def random(build):
    """A model in which every parameter differs from every other, biases and norms too."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(build, jax.random.key(0)))
    random = np.random.default_rng(0)
    return jax.tree.unflatten(structure, [random.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])


def masked_lm(config):
    return random(lambda key: MaskedLM(config, key=key))


def read(build, config, tensors, **options):
    named = canonical({name: as_tensor(array) for name, array in tensors.items()}, config, source="file", **options)
    return import_tensors(build, config, named, source="file")[0]


def same(one, other):
    return all(
        (np.asarray(a) == np.asarray(b)).all()
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


@pytest.mark.parametrize("head", HEADS)
def test_export_then_import_is_the_identity(config, head):
    build = lambda key: HEADS[head](config, key=key)  # noqa: E731
    model = random(build)
    tensors = export_tensors(model, config)
    assert all(tensor.flags["C_CONTIGUOUS"] for tensor in tensors.values())
    assert same(model, read(build, config, tensors))


def test_the_older_names_of_the_masked_language_models_head_are_read(config):
    model = masked_lm(config)
    tensors = export_tensors(model, config, head="cls")
    assert "cls.predictions.transform.dense.weight" in tensors
    assert same(model, read(lambda key: MaskedLM(config, key=key), config, tensors))


def test_a_bare_model_reads_a_file_with_a_head_and_the_other_way_round(config):
    model, build = masked_lm(config), lambda key: Deberta(config, key=key)
    assert same(read(build, config, export_tensors(model, config)), model.deberta)
    without_prefix = export_tensors(model.deberta, config)
    assert not any(name.startswith("deberta.") for name in without_prefix)
    assert same(read(build, config, without_prefix), model.deberta)


@pytest.mark.parametrize("before", ["", "module."])
def test_names_of_old_files_are_read(config, before):
    model = masked_lm(config)
    old = {
        before
        + name.replace("deberta.", "bert.", 1)
        .replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in export_tensors(model, config).items()
    }
    assert same(read(lambda key: MaskedLM(config, key=key), config, old), model)


def later_form(config, tensors):
    """Version 1's tensors as Microsoft's later code names them: three projections, biases of zero on keys."""
    D, N = config.hidden_size, config.num_attention_heads
    later = {}
    for name, tensor in tensors.items():
        before, _, part = name.partition("attention.self.")
        before += "attention.self."
        if part == "in_proj.weight":
            for number, its in enumerate(("query", "key", "value")):
                later[f"{before}{its}_proj.weight"] = tensor.reshape(N, 3, D // N, D)[:, number].reshape(D, D)
            later[f"{before}key_proj.bias"] = later[f"{before}pos_key_proj.bias"] = np.zeros(D, np.float32)
        elif part:
            renamed = {
                "q_bias": "query_proj.bias",
                "v_bias": "value_proj.bias",
                "pos_proj.weight": "pos_key_proj.weight",
            }
            later[before + renamed.get(part, part.replace("pos_q_proj", "pos_query_proj"))] = tensor
        else:
            later[name] = tensor
    return later


def test_version_1_is_read_from_separate_projections_too():
    model = masked_lm(V1)
    later = later_form(V1, export_tensors(model, V1))
    build = lambda key: MaskedLM(V1, key=key)  # noqa: E731
    assert same(read(build, V1, later), model)
    later["deberta.encoder.layer.1.attention.self.key_proj.bias"] += 1
    with pytest.raises(
        InputError, match=r"no bias on keys, and these are not zero: \S+layer.1.attention.self.key_proj.b"
    ):
        read(build, V1, later)


def test_a_fused_projection_is_read_into_microsofts_later_form():
    second = dataclasses.replace(V1, model_type="deberta-v2")
    build = lambda key: MaskedLM(second, key=key)  # noqa: E731
    tensors = export_tensors(masked_lm(V1), V1)
    assert same(read(build, second, tensors), read(build, second, later_form(V1, tensors)))


def test_the_discriminator_of_a_pair_is_the_sum_of_two_tables():
    config = UNSHARED
    generator, discriminator = masked_lm(config), random(lambda key: ReplacedTokenDetection(config, key=key))
    mine, its = export_tensors(discriminator, config), export_tensors(generator, config)
    words = "deberta.embeddings.word_embeddings"
    difference = mine.pop(f"{words}.weight") - its[f"{words}.weight"]
    alone = mine | {f"{words}._weight": difference}
    build = lambda key: ReplacedTokenDetection(config, key=key)  # noqa: E731
    pair = {f"discriminator.{name}": x for name, x in alone.items()} | {
        f"generator.{name}": x for name, x in its.items()
    }
    beside = {name: as_tensor(x) for name, x in its.items()}
    for loaded in read(build, config, pair), read(build, config, alone, generator_tensors=lambda: beside):
        table = loaded.deberta.embeddings.word.embedding
        np.testing.assert_array_equal(table, difference + its[f"{words}.weight"])
        assert same(loaded.detector, discriminator.detector)
    assert same(read(lambda key: MaskedLM(config, key=key), config, pair, generator=True), generator)
    with pytest.raises(InputError, match="only the difference to a generator's tables for deberta.embeddings.word_emb"):
        read(build, config, alone)


def test_a_saved_sum_is_taken_where_no_generator_is_and_that_is_said(caplog):
    tensors = export_tensors(masked_lm(V2), V2)
    words = "deberta.embeddings.word_embeddings"
    model = read(lambda key: Deberta(V2, key=key), V2, tensors | {f"{words}._weight": tensors[f"{words}.weight"] * 0})
    assert same(model, masked_lm(V2).deberta)
    assert [record.getMessage() for record in caplog.records] == [
        f"file: {words}.weight is taken as it was saved, one step behind: no generator is beside it"
    ]


def test_the_fused_projection_of_version_1_interleaves_the_heads():
    model = Deberta(V1, key=jax.random.key(0))
    fused = export_tensors(model, V1)["encoder.layer.1.attention.self.in_proj.weight"]
    attention = model.encoder.layers.attention
    for head in range(2):
        for part, projection in enumerate((attention.query, attention.key, attention.value)):
            rows = slice(head * 18 + part * 6, head * 18 + part * 6 + 6)
            assert (fused[rows] == np.asarray(projection.kernel[1, :, head]).T).all()


def test_all_that_does_not_fit_is_listed_at_once_and_nothing_is_read(config):
    tensors = {name: as_tensor(tensor) for name, tensor in export_tensors(masked_lm(config), config).items()}
    untouched = Made((1,), np.dtype("float32"), lambda: pytest.fail("a tensor was read"))
    tensors = {name: dataclasses.replace(untouched, shape=tensor.shape) for name, tensor in tensors.items()}
    del tensors["deberta.embeddings.LayerNorm.bias"]
    tensors["deberta.encoder.layer.1.output.dense.weight"] = dataclasses.replace(untouched, shape=(3, 3))
    tensors["deberta.encoder.layer.1.output.dense.bias"] = dataclasses.replace(
        tensors["deberta.encoder.layer.1.output.dense.bias"], dtype=np.dtype("int64")
    )
    tensors["deberta.encoder.surprise"] = untouched
    with pytest.raises(InputError) as caught:
        import_tensors(lambda key: MaskedLM(config, key=key), config, tensors, source="model.safetensors")
    message = str(caught.value)
    assert message.startswith("model.safetensors: 4 tensors do not fit the model: ")
    assert "deberta.embeddings.LayerNorm.bias is missing" in message
    assert "dense.weight has shape (3, 3), (12, 20) in the model" in message
    assert "layer.1.output.dense.bias is of type int64, a floating one is wanted" in message
    assert "deberta.encoder.surprise is not known" in message


def test_a_tensor_under_two_names_is_refused():
    tensors = export_tensors(masked_lm(V2), V2)
    tensors["bert.embeddings.LayerNorm.gamma"] = tensors["deberta.embeddings.LayerNorm.weight"] + 1
    with pytest.raises(
        InputError, match=r"under two names: deberta.embeddings.LayerNorm.weight and bert.embeddings.Lay"
    ):
        read(lambda key: MaskedLM(V2, key=key), V2, tensors)


def test_what_is_not_known_in_a_head_is_refused_where_that_head_is_built():
    model = random(lambda key: SequenceClassification(V2, key=key))
    tensors = export_tensors(model, V2) | {"classifier.out_proj.weight": np.zeros(3, np.float32)}
    assert same(read(lambda key: Deberta(V2, key=key), V2, tensors), model.deberta)
    with pytest.raises(InputError, match="1 tensors do not fit the model: classifier.out_proj.weight is not known"):
        read(lambda key: SequenceClassification(V2, key=key), V2, tensors)


def test_projections_that_cannot_be_fused_are_refused_by_their_own_names():
    later = later_form(V1, export_tensors(masked_lm(V1), V1))
    name = "deberta.encoder.layer.1.attention.self."
    del later[f"{name}key_proj.weight"]
    later[f"{name}value_proj.weight"] = np.zeros(3, np.float32)
    with pytest.raises(InputError) as caught:
        read(lambda key: MaskedLM(V1, key=key), V1, later)
    assert f"{name}key_proj.weight is missing" in str(caught.value)
    assert f"{name}value_proj.weight has shape (3,), (12, 12) in the model" in str(caught.value)


def test_a_tied_copy_that_differs_is_refused(config):
    model, build = masked_lm(config), lambda key: MaskedLM(config, key=key)
    tensors = export_tensors(model, config, head="cls")
    words = tensors["deberta.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.weight"] = words
    assert same(read(build, config, tensors), model)
    tensors["cls.predictions.decoder.weight"] = words + 1
    with pytest.raises(InputError, match=r"decoder.weight differs from deberta.embeddings.word_embeddings.weight"):
        read(build, config, tensors)
    # The encoder alone has no use for it.
    assert same(read(lambda key: Deberta(config, key=key), config, tensors), model.deberta)


def test_a_head_that_a_file_has_not_is_made_by_a_key_and_named(config):
    tensors = {name: as_tensor(x) for name, x in export_tensors(masked_lm(config), config).items()}
    build = lambda key: SequenceClassification(config, key=key)  # noqa: E731
    named = canonical(tensors, config, source="file")
    model, new = import_tensors(build, config, named, source="file", key=jax.random.key(3))
    assert sorted(new) == ["classifier.bias", "classifier.weight", "pooler.dense.bias", "pooler.dense.weight"]
    assert same(model.deberta, masked_lm(config).deberta)
    np.testing.assert_allclose(model.pooler.dense.kernel, build(jax.random.key(3)).pooler.dense.kernel, rtol=1e-6)
    partly = named | {"classifier.bias": as_tensor(np.zeros(2, np.float32))}
    with pytest.raises(InputError, match=r"1 tensors do not fit the model: classifier.weight is missing"):
        import_tensors(build, config, partly, source="file", key=jax.random.key(3))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_go_to_their_places_on_a_mesh(config, dtype):
    build, mesh = (lambda key: MaskedLM(config, key=key)), make_mesh(data=2, fsdp=2, tensor=2)
    model = masked_lm(config)
    tensors = canonical({n: as_tensor(x) for n, x in export_tensors(model, config).items()}, config, source="file")
    places = shardings(jax.eval_shape(build, jax.random.key(0)), mesh)
    placed, _ = import_tensors(build, config, tensors, source="file", shardings=places, dtype=np.dtype(dtype))
    assert same(placed, jax.tree.map(lambda x: x.astype(dtype), model))
    for leaf, place in zip(jax.tree.leaves(placed), jax.tree.leaves(places), strict=True):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)
        assert leaf.dtype == dtype


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
    # Shapes only: a broadcast zero takes no memory, however large the model.
    zeros = lambda leaf: np.broadcast_to(np.int8(0), leaf.shape)  # noqa: E731
    model = jax.tree.map(zeros, jax.eval_shape(build, jax.random.key(0)))
    ours = {name: list(tensor.shape) for name, tensor in export_tensors(model, config).items()}
    assert ours == {name: shape for name, shape in listed.items() if "position_ids" not in name}
