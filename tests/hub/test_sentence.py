"""sentence-transformers folders: `embed` applies their modules, and saved folders keep them."""

import json

import jax
import numpy as np
import pytest
from sentence_folders import (
    IDENTITY,
    NEW_TYPES,
    TEXTS,
    dense,
    dense_tensors,
    write_json,
    write_sentence_folder,
)
from toy_folders import READING, same_parameters, toy_model

from deberta_jax.errors import InputError
from deberta_jax.hub.config_file import load_config
from deberta_jax.hub.pretrained import load_pretrained, save_pretrained
from deberta_jax.inference.embeddings import embed
from deberta_jax.inference.pipelines import predict
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.sentence import SentenceEncoder
from deberta_jax.model.surgery import first_layers, with_config
from deberta_jax.sharding import make_mesh
from deberta_jax.tokenizers.tokenizer import Tokenizer

D = READING.hidden_size
MEAN = {"word_embedding_dimension": D, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
CLS = {"word_embedding_dimension": D, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def refused(match, folder, **options):
    """Check that loading a folder raises an InputError of one line."""
    with pytest.raises(InputError, match=match) as raised:
        load_pretrained(folder, **options)
    assert "\n" not in str(raised.value)


def test_embed_applies_pooling_and_normalization_of_the_folder(tmp_path):
    model, tokenizer = load_pretrained(write_sentence_folder(tmp_path / "st", CLS, "Normalize"))
    assert isinstance(model, SentenceEncoder) and isinstance(model, Deberta)
    states = embed(model, tokenizer, TEXTS, pooling="cls")
    np.testing.assert_allclose(embed(model, tokenizer, TEXTS), unit(states), atol=1e-6)
    np.testing.assert_array_equal(predict(model, tokenizer, TEXTS), embed(model, tokenizer, TEXTS))
    # Called as a model, it returns the states of a plain encoder.
    batch = tokenizer(TEXTS)
    run = jax.jit(lambda model, ids, mask: model(ids, mask).last_hidden_state)
    plain = run(toy_model(READING, None), batch.input_ids, batch.attention_mask)
    np.testing.assert_array_equal(run(model, batch.input_ids, batch.attention_mask), plain)
    assert embed(model, tokenizer, []).shape == (0, D)


def test_dense_layers_follow_the_pooling_in_order(tmp_path):
    folder = write_sentence_folder(tmp_path / "st", MEAN, dense(D, 12), "Normalize", dense(12, 6, False, IDENTITY))
    model, tokenizer = load_pretrained(folder)
    first, second = dense_tensors(D, 12), dense_tensors(12, 6, False)
    x = embed(model, tokenizer, TEXTS, pooling="mean")
    x = unit(np.tanh(x @ first["linear.weight"].T + first["linear.bias"]))
    np.testing.assert_allclose(embed(model, tokenizer, TEXTS), x @ second["linear.weight"].T, atol=1e-5)
    assert embed(model, tokenizer, []).shape == (0, 6)
    mesh = make_mesh(data=1, fsdp=-1)
    sharded, _ = load_pretrained(folder, mesh=mesh, param_dtype="bfloat16")
    assert {leaf.sharding.mesh for leaf in jax.tree.leaves(sharded)} == {mesh}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(sharded)} == {"bfloat16"}


@pytest.mark.parametrize(
    ("pooling", "types", "modes"),
    [
        (CLS | {"pooling_mode_max_tokens": True, "pooling_mode_mean_sqrt_len_tokens": True}, {}, 3),
        ({"embedding_dimension": D, "pooling_mode": ["cls", "max", "mean_sqrt_len_tokens"]}, {"types": NEW_TYPES}, 3),
        ({"embedding_dimension": D, "pooling_mode": "cls"}, {"types": NEW_TYPES}, 1),
    ],
)
def test_vectors_of_several_ways_of_pooling_are_concatenated(pooling, types, modes, tmp_path):
    model, tokenizer = load_pretrained(write_sentence_folder(tmp_path / "st", pooling, **types))
    ways = ("cls", "max", "mean_sqrt_len")[:modes]
    expected = np.concatenate([embed(model, tokenizer, TEXTS, pooling=way) for way in ways], 1)
    np.testing.assert_allclose(embed(model, tokenizer, TEXTS), expected, atol=1e-6)


def test_the_default_prompt_precedes_each_text_and_another_one_can_be_chosen(tmp_path):
    settings = {"prompts": {"query": "the fox: ", "passage": "a dog: "}, "default_prompt_name": "query"}
    model, tokenizer = load_pretrained(write_sentence_folder(tmp_path / "st", MEAN, settings=settings))

    def written(prompt):
        return embed(model, tokenizer, [prompt + text for text in TEXTS], prompt="")

    np.testing.assert_array_equal(embed(model, tokenizer, TEXTS), written("the fox: "))
    np.testing.assert_array_equal(embed(model, tokenizer, TEXTS, prompt="passage"), written("a dog: "))
    np.testing.assert_array_equal(embed(model, tokenizer, TEXTS, prompt="my dog: "), written("my dog: "))
    with pytest.raises(InputError, match="no prompt named 'pasage' \\(it has query, passage\\)"):
        embed(model, tokenizer, TEXTS, prompt="pasage")


def test_a_prompt_that_is_not_included_is_not_pooled(tmp_path):
    settings = {"prompts": {"query": "the fox: "}, "default_prompt_name": "query"}
    folder = write_sentence_folder(tmp_path / "st", MEAN | {"include_prompt": False}, settings=settings)
    model, tokenizer = load_pretrained(folder)
    batch = tokenizer(["the fox: " + text for text in TEXTS])
    states = np.asarray(model(**batch).last_hidden_state)
    start = len(tokenizer.encode("the fox: ")) + 1
    expected = [x[start : mask.sum()].mean(0) for x, mask in zip(states, batch.attention_mask, strict=True)]
    np.testing.assert_allclose(embed(model, tokenizer, TEXTS), expected, atol=2e-5)


def test_texts_are_shortened_and_lower_cased_as_the_folder_says(tmp_path, caplog):
    lengths = {"max_seq_length": 6, "do_lower_case": True}
    model, tokenizer = load_pretrained(write_sentence_folder(tmp_path / "st", MEAN, lengths=lengths))
    assert model.sentence.max_length == 6
    vectors = embed(model, tokenizer, ["THE QUICK BROWN FOX JUMPS", "A"])
    assert "1 of 2 texts were truncated to 6 tokens" in caplog.text
    np.testing.assert_array_equal(vectors, embed(model, tokenizer, ["the quick brown fox jumps", "a"]))


def test_a_folder_without_its_pooling_config_takes_the_mean_and_logs_it(tmp_path, caplog):
    model, tokenizer = load_pretrained(write_sentence_folder(tmp_path / "st", None, path="0_Transformer"))
    assert "1_Pooling/config.json: no such file" in caplog.text
    np.testing.assert_array_equal(embed(model, tokenizer, TEXTS), embed(model, tokenizer, TEXTS, pooling="mean"))


def test_the_transformer_may_be_in_a_subfolder(tmp_path):
    folder = write_sentence_folder(tmp_path / "st", CLS, path="0_Transformer")
    model, _ = load_pretrained(folder)
    assert same_parameters(model, toy_model(READING, None))
    assert load_config(folder) == READING
    assert Tokenizer.from_pretrained(folder).path == folder / "0_Transformer"
    with_head, _ = load_pretrained(folder, "masked_lm", key=jax.random.key(0))
    assert type(with_head.deberta) is Deberta


@pytest.mark.parametrize("path", ["", "0_Transformer"])
def test_a_saved_folder_keeps_modules_prompts_and_settings(path, tmp_path):
    settings = {"prompts": {"query": "q: "}, "default_prompt_name": "query", "similarity_fn_name": "dot"}
    lengths = {"max_seq_length": 20, "do_lower_case": True}
    pooling = CLS | {"pooling_mode_max_tokens": True, "include_prompt": False}
    folder = write_sentence_folder(
        tmp_path / "st", pooling, dense(2 * D, 6, False), "Normalize", path=path, settings=settings, lengths=lengths
    )
    model, tokenizer = load_pretrained(folder)
    save_pretrained(tmp_path / "saved", model, tokenizer)
    again, tokenizer_again = load_pretrained(tmp_path / "saved")
    assert again.sentence == model.sentence
    assert again.sentence.extra == {"similarity_fn_name": "dot"}
    assert same_parameters(again, model)
    np.testing.assert_array_equal(embed(again, tokenizer_again, TEXTS), embed(model, tokenizer, TEXTS))
    modules = json.loads((tmp_path / "saved" / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Dense", "3_Normalize"]
    assert all((tmp_path / "saved" / module["path"]).is_dir() for module in modules)
    # A model of another kind in the same folder is not read as a sentence encoder.
    save_pretrained(tmp_path / "saved", toy_model(READING, None), tokenizer)
    assert type(load_pretrained(tmp_path / "saved")[0]) is Deberta


def test_an_order_of_pooling_that_old_keys_cannot_express_is_kept(tmp_path):
    pooling = {"embedding_dimension": D, "pooling_mode": ["mean", "cls"]}
    model, tokenizer = load_pretrained(write_sentence_folder(tmp_path / "st", pooling, types=NEW_TYPES))
    save_pretrained(tmp_path / "saved", model, tokenizer)
    assert load_pretrained(tmp_path / "saved")[0].sentence.pooling == ("mean", "cls")


def test_a_sentence_encoder_can_be_changed_as_other_models(tmp_path):
    model, tokenizer = load_pretrained(write_sentence_folder(tmp_path / "st", MEAN, dense(D, 6)))
    short = first_layers(with_config(model, hidden_dropout_prob=0.0), 1)
    assert isinstance(short, SentenceEncoder) and short.config.num_hidden_layers == 1
    assert embed(short, tokenizer, TEXTS).shape == (3, 6)


def test_a_folder_of_another_kind_of_model_gives_a_plain_encoder(tmp_path):
    settings = {"model_type": "CrossEncoder"}
    folder = write_sentence_folder(tmp_path / "cross", MEAN, settings=settings)
    assert type(load_pretrained(folder)[0]) is Deberta


def test_unsupported_modules_and_settings_are_refused_by_name(tmp_path):
    folder = write_sentence_folder(tmp_path / "st", MEAN, "sentence_transformers.models.LSTM")
    refused("the module sentence_transformers.models.LSTM is not supported", folder)
    folder = write_sentence_folder(tmp_path / "custom", MEAN, "my_code.Normalize")
    refused("the module my_code.Normalize is not supported", folder)
    folder = write_sentence_folder(tmp_path / "act", MEAN, dense(D, 6, activation="os.system"))
    refused("activation_function is 'os.system', expected one of", folder)
    folder = write_sentence_folder(tmp_path / "size", MEAN, dense(D + 1, 6))
    refused(f"dense layer 1 takes {D + 1} features, but its input has {D}", folder)
    folder = write_sentence_folder(tmp_path / "pool", {"pooling_mode": "median"})
    refused("pooling_mode is \\['median'\\]", folder)
    folder = write_sentence_folder(tmp_path / "prompt", MEAN, settings={"default_prompt_name": "query"})
    refused("the default prompt 'query' is not one of the prompts", folder)
    folder = write_sentence_folder(tmp_path / "path", MEAN)
    for path in ("../other", "/etc", "a/../../b"):
        write_json(folder / "modules.json", [{"type": "sentence_transformers.models.Transformer", "path": path}])
        refused("is outside the folder", folder)
    for content in ("[]", "{}", '[{"type": 1, "path": ""}]', "[" * 100000):
        (folder / "modules.json").write_text(content)
        refused("modules.json", folder)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_sentence_transformers_loads_a_saved_folder_and_agrees(mode, include_prompt, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    settings = {"prompts": {"query": "the fox: "}, "default_prompt_name": "query"}
    pooling = {"pooling_mode": mode, "include_prompt": include_prompt}
    layers = dense(D, 12), "Normalize", dense(12, 6, False, IDENTITY)
    lengths = {"max_seq_length": 12}
    folder = write_sentence_folder(tmp_path / "st", pooling, *layers, settings=settings, lengths=lengths)
    model, tokenizer = load_pretrained(folder)
    save_pretrained(tmp_path / "saved", model, tokenizer)
    reference = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(embed(model, tokenizer, TEXTS), reference.encode(TEXTS), atol=1e-5)
    expected = reference.encode(TEXTS, prompt="")
    np.testing.assert_allclose(embed(model, tokenizer, TEXTS, prompt=""), expected, atol=1e-5)
