"""Outputs that are not finite numbers are an error of their text, with what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inference_models import examples_for, random_model

from deberta_jax.errors import InputError
from deberta_jax.hub.heads import HEADS
from deberta_jax.hub.pretrained import load_pretrained, save_pretrained
from deberta_jax.inference.classification import classify
from deberta_jax.inference.pipelines import pipeline, predict
from deberta_jax.inference.stream import stream

ADVICE = "float16 has overflowed; load the model with dtype bfloat16 or float32"


def in_float16(head, factor, tmp_path):
    """A model that computes in float16, with larger weights in one layer."""

    def enlarge(path, leaf):
        return leaf * factor if "up.kernel" in jax.tree_util.keystr(path, simple=True, separator=".") else leaf

    save_pretrained(tmp_path, jax.tree.map_with_path(enlarge, random_model(head)))
    return load_pretrained(tmp_path, head, dtype="float16", require_tokenizer=False)[0]


@pytest.mark.parametrize("head", HEADS)
def test_an_overflow_in_float16_is_reported_for_every_head(head, tokenizer, tmp_path):
    examples = examples_for(head, ["A man eats.", "The quick brown fox"])
    results = list(stream(pipeline(in_float16(head, 1e6, tmp_path), tokenizer), examples))
    assert len(results) == 2 and all(isinstance(result, InputError) and ADVICE in str(result) for result in results)
    fine = list(stream(pipeline(in_float16(head, 1.0, tmp_path), tokenizer), examples))
    assert not any(isinstance(result, InputError) for result in fine)


def test_the_first_text_that_overflows_is_named(tokenizer, tmp_path):
    model = in_float16("sequence_classification", 1.0, tmp_path)
    # The embedding of one word is not finite in float16.
    word = int(tokenizer(["fox"]).input_ids[0, 1])
    table = model.deberta.embeddings.word.embedding
    table.set_value(jnp.asarray(np.where(np.arange(len(table[...]))[:, None] == word, 1e6, table[...]), jnp.float32))
    texts = ["A man eats.", "fox", "A woman", "fox"]
    for function in (classify, predict):
        with pytest.raises(InputError, match=f"^text 1: 'fox' gives outputs that are not finite numbers: {ADVICE}"):
            function(model, tokenizer, texts)
    results = list(stream(pipeline(model, tokenizer), [(text,) for text in texts]))
    assert [isinstance(result, InputError) for result in results] == [False, True, False, True]


def test_a_damaged_model_is_reported_in_float32(tokenizer):
    model = jax.tree.map(lambda leaf: leaf * jnp.nan, random_model("sequence_classification"))
    with pytest.raises(InputError, match=r"text 0: 'A' gives .*: the model, which computes in float32, may be damaged"):
        classify(model, tokenizer, ["A"])
