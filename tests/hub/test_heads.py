import dataclasses

import pytest
from toy_folders import CONFIGS, V1, V3, toy_tensors

from deberta_jax.errors import InputError
from deberta_jax.hub.heads import (
    HEADS,
    architecture,
    head_of_file,
    head_of_model,
    head_options,
    head_spec,
    heads_in_file,
    named_head,
)
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.pair import ReplacedTokenPair

NAMES = [head for head in HEADS if head]
ONE_LABEL = dataclasses.replace(V3, labels=("LABEL_0",))


def with_architecture(name):
    return dataclasses.replace(V3, extra={"architectures": [name]})


@pytest.mark.parametrize("head", NAMES)
def test_a_head_is_found_in_the_file_that_it_is_written_to(head):
    names = toy_tensors(V3, head).keys()
    assert head in heads_in_file(names)
    config = ONE_LABEL if head == "entity_scoring" else V3
    # A file of multiple choice has the tensors of a classifier: only its config tells them apart.
    expected = "sequence_classification" if head == "multiple_choice" else head
    assert head_of_file(config, names) == expected


def test_a_file_of_an_encoder_contains_no_head():
    assert heads_in_file(toy_tensors(V3, None)) == []
    assert head_of_file(V3, toy_tensors(V3, None)) is None


def test_the_head_that_the_config_names_takes_precedence_if_the_file_contains_it():
    names = [*toy_tensors(V3), *toy_tensors(V3, "replaced_token_detection")]
    assert head_of_file(V3, names) == "replaced_token_detection"
    assert head_of_file(with_architecture("DebertaV2ForMaskedLM"), names) == "masked_lm"
    assert head_of_file(with_architecture("DebertaV2ForQuestionAnswering"), names) == "replaced_token_detection"
    choices = toy_tensors(V3, "multiple_choice")
    assert head_of_file(with_architecture("DebertaV2ForMultipleChoice"), choices) == "multiple_choice"


def test_a_projected_classifier_of_several_labels_classifies_tokens():
    names = toy_tensors(V3, "token_classification", projected=True)
    assert head_of_file(V3, names) == "token_classification"
    assert head_options("token_classification", names) == {"projected": True}
    assert head_options("token_classification", toy_tensors(V3, "token_classification")) == {"projected": False}


def test_the_mask_decoder_is_built_if_the_file_contains_its_positions():
    assert head_options("masked_lm", toy_tensors(V3)) == {"enhanced_mask_decoder": True}
    assert head_options("masked_lm", toy_tensors(V3, None)) == {"enhanced_mask_decoder": False}


@pytest.mark.parametrize("config", [V1, V3])
@pytest.mark.parametrize("head", [head for head in NAMES if HEADS[head].architecture])
def test_the_architecture_names_the_head(config, head):
    if head == "multiple_choice" and config is V1:
        assert architecture(config, head) == "DebertaModel"
    else:
        assert named_head(with_architecture(architecture(config, head))) == head


@pytest.mark.parametrize("config", CONFIGS.values())
@pytest.mark.parametrize("head", ["replaced_token_detection", "entity_scoring", None])
def test_a_head_that_transformers_does_not_have_is_named_as_the_encoder(config, head):
    version = "" if config.model_type == "deberta" else "V2"
    assert architecture(config, head) == f"Deberta{version}Model"
    assert named_head(with_architecture(architecture(config, head))) is None


@pytest.mark.parametrize("head", HEADS)
def test_the_class_of_a_head_names_the_head(head):
    assert head_of_model(HEADS[head].model) == head


def test_a_model_without_a_known_head_is_refused():
    assert head_of_model(MaskedLM) == "masked_lm"
    assert head_of_model(Deberta) is None
    with pytest.raises((InputError, TypeError)):
        head_of_model(ReplacedTokenPair)


def test_the_error_of_an_unknown_head_lists_the_heads():
    assert head_spec("masked_lm").model is MaskedLM
    with pytest.raises(InputError, match=rf"unknown head 'fill-mask'; the heads are {', '.join(NAMES)}, and None"):
        head_spec("fill-mask")
