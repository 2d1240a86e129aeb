"""Representations of models."""

import dataclasses
import io
from contextlib import redirect_stdout

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from small_models import V3, bare, masked_lm

from deberta_jax.errors import InputError
from deberta_jax.finetuning.config import LoraConfig
from deberta_jax.finetuning.lora import LoraModel
from deberta_jax.hub.pretrained import save_pretrained
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.encoder import Encoder
from deberta_jax.model.heads import SequenceClassification
from deberta_jax.model.pair import initial_pair
from deberta_jax.model.surgery import first_layers, layer, resized, with_config


# treescope uses a class that numpy deprecates.
@pytest.mark.filterwarnings("ignore:The chararray class is deprecated:DeprecationWarning")
def test_a_model_is_printed_in_one_line():
    import treescope

    line = "MaskedLM(deberta-v2, 3 layers, hidden size 16, vocabulary 61, "
    for text in (repr(masked_lm("v3")), str(masked_lm("v3")), treescope.render_to_text(masked_lm("v3"))):
        assert text.startswith(line) and "\n" not in text
    assert repr(bare("v1")).endswith("parameters of float32)")
    output = io.StringIO()
    with redirect_stdout(output):
        nnx.display(bare("v3"))
    assert output.getvalue().count("\n") == 1


def test_combined_models_are_printed_in_one_line_and_name_their_parts(unchecked_shapes):
    key = jax.random.key(0)
    pair, lora = jax.eval_shape(
        lambda: (initial_pair(V3, V3, key=key), LoraModel(Deberta(V3, key=key), LoraConfig(rank=2), key=key))
    )
    assert repr(pair).startswith("ReplacedTokenPair(gdes, MaskedLM(deberta-v2, 3 layers, ") and "\n" not in str(pair)
    assert repr(lora).startswith("LoraModel(rank 2, targets attention.query, attention.key, attention.value, Deberta(")
    assert "\n" not in str(lora)
    for model, parts in ((lora, r"pass merge_lora\(model\)"), (pair, r"pass pair.detector\(\) or pair.generator")):
        message = f"{type(model).__name__} is not a single model: {parts}"
        for function in (
            lambda model: save_pretrained("folder", model),
            lambda model: with_config(model, hidden_dropout_prob=0.0),
            lambda model: resized(model, 70, key=key),
            lambda model: first_layers(model, 1),
            lambda model: layer(model, 0),
            lambda model: LoraModel(model, LoraConfig(rank=2), key=key),
        ):
            with pytest.raises(InputError, match=message):
                function(model)


def test_options_of_all_models_are_checked(unchecked_shapes):
    pair = jax.eval_shape(lambda key: initial_pair(V3, V3, param_dtype="bfloat16", key=key), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(pair)} == {jnp.dtype("bfloat16")}
    for option in ("dtype", "param_dtype"):
        with pytest.raises(InputError, match=f"{option} is 'int8'; expected a floating-point type"):
            Deberta(V3, **{option: "int8"}, key=jax.random.key(0))
    with pytest.raises(InputError, match="remat is 'foo', expected one of none, dots, full"):
        Encoder(V3, remat="foo", key=jax.random.key(0))
    with pytest.raises(InputError, match="unknown activation 'gelo'"):
        SequenceClassification(dataclasses.replace(V3, pooler_hidden_act="gelo"), key=jax.random.key(0))


def test_parts_of_a_model_are_printed_without_the_config():
    text = repr(bare("v2").encoder)
    assert "kernel" in text and "vocab_size" not in text
