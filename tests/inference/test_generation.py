"""Text from a language model: the same tokens as by hand, in any batch, and the options of sampling."""

import functools

import jax
import numpy as np
import pytest
from inference_models import CONFIG, random_model

from deberta_jax.config import NEW_TOKENS_KEY, OBJECTIVE_KEY
from deberta_jax.errors import InputError
from deberta_jax.inference.buckets import Batching
from deberta_jax.inference.generation import generate, generate_pipeline, stop_ids
from deberta_jax.inference.pipelines import default_pipeline, predict
from deberta_jax.model.surgery import with_config

PROMPTS = ["The quick", "A", "The fox and the dog and", ""]
LENGTH = 32
NEW = 6


@functools.cache
def language_model(objective="clm"):
    model = random_model("masked_lm", max_position_embeddings=LENGTH)
    return with_config(model, extra={OBJECTIVE_KEY: objective})


@jax.jit
def logits_of(model, ids, order):
    return model(ids, order=order)


def by_hand(tokenizer, prompt, objective="clm"):
    """The most likely tokens after a prompt, from the whole sequence at each step."""
    model, end = language_model(objective), [tokenizer.sep_id] * (objective == "seq2seq")
    ids = [tokenizer.cls_id, *tokenizer.encode(prompt).tolist(), *end]
    prompt_length, allowed = len(ids), np.arange(CONFIG["vocab_size"]) < tokenizer.vocab_size
    allowed[[id_ for id_ in tokenizer.special_ids if id_ != tokenizer.sep_id]] = False
    total = 0.0
    while len(ids) < prompt_length + NEW:
        # Later tokens change nothing, so that all steps have one shape.
        row = np.pad(ids, (0, LENGTH - len(ids)))[None]
        order = np.arange(LENGTH)[None]
        if objective == "seq2seq":
            order = np.where(order < prompt_length, 0, order)
        logits = np.where(allowed, np.asarray(logits_of(model, row, order))[0, len(ids) - 1], -np.inf)
        total += float(jax.nn.log_softmax(logits).max())
        ids.append(int(logits.argmax()))
        if ids[-1] == tokenizer.sep_id:
            break
    return ids[prompt_length:], total


@pytest.mark.parametrize("objective", ["clm", "seq2seq"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_prompts_of_different_lengths_give_the_most_likely_tokens(objective, use_cache, tokenizer):
    texts = generate(language_model(objective), tokenizer, PROMPTS, max_new_tokens=NEW, use_cache=use_cache)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        ids, total = by_hand(tokenizer, prompt, objective)
        new = [id_ for id_ in ids if id_ != tokenizer.sep_id]
        assert text.tokens == len(ids) and text.is_complete == (tokenizer.sep_id in ids)
        assert text.log_probability == pytest.approx(total, rel=1e-4)
        if objective == "seq2seq":
            assert text.text == tokenizer.decode(new).strip()
        else:
            whole = tokenizer.decode([*tokenizer.encode(prompt), *new])
            assert tokenizer.decode(tokenizer.encode(prompt)) + text.text == whole


def test_samples_depend_on_prompt_and_seed_only(tokenizer):
    options = {"max_new_tokens": NEW, "temperature": 1.5, "top_k": 20, "top_p": 0.9}
    model = language_model()
    together = generate(model, tokenizer, PROMPTS, **options)
    small = Batching(batch_tokens=16)
    alone = [generate(model, tokenizer, [prompt], **options, batching=small)[0] for prompt in PROMPTS]
    assert [text.text for text in together] == [text.text for text in alone]
    others = generate(model, tokenizer, PROMPTS, **options, seed=1)
    assert [text.text for text in together] != [text.text for text in others]


def test_a_stop_token_ends_a_text(tokenizer):
    assert {tokenizer.token(id_) for id_ in stop_ids(tokenizer, ["the"])} == {"[SEP]", "▁the"}
    word = int(tokenizer.encode("the")[0])
    biased = language_model()
    biased.head.bias[...] = biased.head.bias[...].at[word].add(1000.0)
    for stop, tokens in ((["the"], 1), ([], NEW)):
        [text] = generate(biased, tokenizer, ["The quick"], max_new_tokens=NEW, stop=stop)
        assert (text.tokens, text.is_complete) == (tokens, bool(stop))
    assert text.text == " the" * NEW
    language_model.cache_clear()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_k": 3}, "set temperature above 0"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p is 0.0"),
        ({"temperature": 1.0, "top_k": 0}, "top_k"),
        ({"stop": "."}, "expected a list"),
        ({"stop": ["the quick brown"]}, "tokens of this vocabulary, expected one"),
        ({"max_new_tokens": 30}, "32 absolute positions"),
    ],
)
def test_options_that_make_no_sense_are_one_line(options, message, tokenizer):
    with pytest.raises(InputError, match=message):
        generate(language_model(), tokenizer, ["The"], **{"max_new_tokens": NEW} | options)


def test_the_default_length_leaves_half_of_the_absolute_positions_to_the_prompt(tokenizer):
    model = with_config(language_model(), extra={OBJECTIVE_KEY: "seq2seq", NEW_TOKENS_KEY: 512})
    assert generate_pipeline(model, tokenizer).max_length == LENGTH // 2
    with pytest.raises(InputError, match="max_new_tokens is 64"):
        generate_pipeline(model, tokenizer, max_new_tokens=64)


@pytest.mark.parametrize(("objective", "name"), [("clm", "generate"), ("seq2seq", "generate"), ("mt", "fill-mask")])
def test_a_model_that_was_trained_only_to_generate_text_generates(objective, name):
    assert default_pipeline("masked_lm", language_model(objective).config) == name
    assert default_pipeline("question_answering", language_model(objective).config) == "question-answering"


def test_predict_continues_prompts_with_a_language_model(tokenizer):
    assert predict(language_model(), tokenizer, ["The quick"])[0].tokens > 0
    with pytest.raises(InputError, match="continues single texts; omit pairs"):
        predict(language_model(), tokenizer, ["The quick"], ["brown fox"])


def test_other_models_and_prompts_that_are_too_long_are_errors(tokenizer, caplog):
    with pytest.raises(InputError, match='generate needs a model with the head "masked_lm"'):
        generate(random_model(None), tokenizer, ["The"])
    with pytest.raises(InputError, match="text 1: .* more than the limit of 26; shorten it"):
        generate(language_model(), tokenizer, ["The", "fox " * 40], max_new_tokens=NEW)
    generate(random_model("masked_lm", max_position_embeddings=LENGTH), tokenizer, ["The"], max_new_tokens=NEW)
    assert "does not say that it was trained to generate text" in caplog.text
