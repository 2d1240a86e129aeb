"""Runs that are initialized from model files: a pair, one model of a pair, and the folders of Microsoft's trainer."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mock_hub import serving
from toy_configs import toy_config
from toy_tokenizers import TEXT

from deberta_jax.errors import InputError
from deberta_jax.hub.layout import export_tensors
from deberta_jax.hub.pretrained import save_pretrained
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.replaced_token_detection import ReplacedTokenDetection
from deberta_jax.model.tree import replace_parts
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.config import RtdConfig
from deberta_jax.pretraining.corpus import find_tokenizer
from deberta_jax.pretraining.initial import find_initial_pair, initial_config
from deberta_jax.pretraining.mlm import MASKED_LM
from deberta_jax.pretraining.objective_spec import ModelOptions
from deberta_jax.pretraining.rtd import REPLACED_TOKEN_DETECTION
from deberta_jax.sharding import make_mesh
from deberta_jax.tokenizers.train import train_tokenizer
from deberta_jax.torch_format.file import write_torch_file
from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.state import abstract_state, initial_state, model_key

CONFIG = toy_config(vocab_size=448, num_attention_heads=2)
WORDS, POSITIONS = "deberta.embeddings.word_embeddings", "deberta.embeddings.position_embeddings"
# Kinds of sharing, each with a step that supports it.
RTD = {
    "gdes": RtdConfig(),
    "es": RtdConfig(sharing="es", step="joint"),
    "none": RtdConfig(sharing="none"),
}


@functools.cache
def random_model(kind, config=CONFIG):
    rng = np.random.default_rng(1 if kind is MaskedLM else 2)
    shapes = jax.eval_shape(lambda key: kind(config, key=key), jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype), shapes)


GENERATOR, DISCRIMINATOR = random_model(MaskedLM), random_model(ReplacedTokenDetection)
NO_WORDS = {"deberta.embeddings.word": None}


def same(model, expected):
    pairs = zip(jax.tree.leaves_with_path(model), jax.tree.leaves_with_path(expected), strict=True)
    return all(path == expected_path and (leaf == other).all() for (path, leaf), (expected_path, other) in pairs)


def words(model):
    return np.asarray(model.deberta.embeddings.word.embedding)


def equal_up_to_rounding(value, expected, *terms):
    """Whether a value differs from the expected one by no more than the rounding of a float32 sum and difference."""
    error = 2 * np.finfo("float32").eps * sum(abs(term) for term in (expected, *terms))
    return (abs(value - expected) <= error).all()


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer):
    """The folders of a discriminator and a generator, as a run exports them."""
    root = tmp_path_factory.mktemp("pair")
    save_pretrained(root / "discriminator", DISCRIMINATOR, tokenizer)
    save_pretrained(root / "generator", GENERATOR, tokenizer)
    return root


@pytest.fixture
def logged(caplog):
    """The messages logged so far."""
    return lambda: [record.getMessage() for record in caplog.records]


def find_pair(init_from=None, generator=None):
    return find_initial_pair(init_from and str(init_from), generator and str(generator))


def load_pair(tokenizer, init_from=None, generator=None, sharing="gdes"):
    """Load a pair on a mesh of all devices and check its shardings."""
    files = find_pair(init_from, generator)
    options = ModelOptions(initial_config(files, CONFIG, tokenizer, "tiny"), "float32", "none")
    mesh = make_mesh(data=1, fsdp=8)
    pair = REPLACED_TOKEN_DETECTION.load_files(files, options, RTD[sharing], model_key(0), mesh)
    method = method_of(sharing)
    abstract = abstract_state(method.build, method.optimizer, 0, mesh).model
    assert jax.tree.structure(pair) == jax.tree.structure(abstract)
    layouts = [[(leaf.shape, leaf.dtype, leaf.sharding) for leaf in jax.tree.leaves(tree)] for tree in (pair, abstract)]
    assert layouts[0] == layouts[1]
    kernel = pair.discriminator.deberta.encoder.layers.up.kernel
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 4, 64)
    return pair


@functools.cache
def method_of(sharing):
    options = ModelOptions(CONFIG, "float32", "none")
    return REPLACED_TOKEN_DETECTION.method(options, TrainingConfig(steps=10), RTD[sharing])


@pytest.mark.parametrize("sharing", RTD)
def test_a_pair_is_loaded_from_two_folders(sharing, folders, tokenizer, logged):
    pair = load_pair(tokenizer, folders / "discriminator", folders / "generator", sharing)
    assert same(pair.generator, GENERATOR)
    assert same(replace_parts(pair.detector(), NO_WORDS), replace_parts(DISCRIMINATOR, NO_WORDS))
    table = words(pair.detector())
    if sharing == "gdes":
        np.testing.assert_array_equal(words(pair.discriminator), words(DISCRIMINATOR) - words(GENERATOR))
        assert equal_up_to_rounding(table, words(DISCRIMINATOR), words(GENERATOR))
    else:
        np.testing.assert_array_equal(table, words(GENERATOR if sharing == "es" else DISCRIMINATOR))
    warning = f"{folders / 'discriminator'}: embeddings replaced by the generator's (rtd.sharing es)"
    assert logged() == ([warning] if sharing == "es" else [])


def test_no_warning_is_logged_if_both_models_have_the_same_embeddings(folders, tmp_path, tokenizer, logged):
    table = DISCRIMINATOR.deberta.embeddings.word
    save_pretrained(tmp_path, replace_parts(GENERATOR, {"deberta.embeddings.word": table}))
    pair = load_pair(tokenizer, folders / "discriminator", tmp_path, "es")
    assert same(pair.detector(), DISCRIMINATOR)
    assert logged() == []


def test_the_generator_file_beside_a_released_discriminator_is_used(tmp_path, tokenizer):
    write_torch_file(tmp_path / "pytorch_model.bin", export_tensors(DISCRIMINATOR, CONFIG).items())
    write_torch_file(tmp_path / "pytorch_model.generator.bin", export_tensors(GENERATOR, CONFIG).items())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    tokenizer.save(tmp_path)
    for generator in None, tmp_path:
        pair = load_pair(tokenizer, tmp_path, generator)
        assert same(pair.generator, GENERATOR)
        assert equal_up_to_rounding(words(pair.detector()), words(DISCRIMINATOR), words(GENERATOR))


def test_a_pair_on_the_hub_is_downloaded_with_its_generator(folders, tmp_path, tokenizer, monkeypatch):
    pair = tmp_path / "pair"
    save_pretrained(pair, DISCRIMINATOR, tokenizer)
    write_torch_file(pair / "pytorch_model.generator.bin", export_tensors(GENERATOR, CONFIG).items())
    hosted = {"me/pair": pair, "me/alone": folders / "discriminator", "me/generator": folders / "generator"}
    tensors = export_tensors(GENERATOR, CONFIG)
    with serving(hosted) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        for names in [("me/pair", None), ("me/alone", "me/generator"), ("me/alone", "me/pair")]:
            read = find_pair(*names).generator.tensors
            assert all((read[name].read() == array).all() for name, array in tensors.items() if name in read)
            assert f"{WORDS}.weight" in read
        with pytest.raises(InputError, match="^me/alone: no generator in this folder .* add --generator NAME"):
            find_pair("me/alone")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for names in [("me/pair", None), ("me/alone", "me/generator")]:
        assert find_pair(*names).generator is not None
    with pytest.raises(InputError, match="^me/alone: no such folder"):
        find_pair("me/alone")


@pytest.mark.parametrize("sharing", RTD)
def test_a_fresh_generator_starts_with_the_embeddings_of_the_discriminator(sharing, folders, tokenizer, logged):
    pair = load_pair(tokenizer, folders / "discriminator", "fresh", sharing)
    assert same(pair.detector(), DISCRIMINATOR)
    np.testing.assert_array_equal(words(pair.generator), words(DISCRIMINATOR))
    if sharing == "gdes":
        assert not words(pair.discriminator).any()
    kernel, other = (model.deberta.encoder.layers.up.kernel for model in (pair.generator, DISCRIMINATOR))
    assert np.isclose(np.std(kernel), CONFIG.initializer_range, rtol=0.05)
    assert not (np.asarray(kernel) == np.asarray(other)).any()
    message = "the layers of the generator are initialized randomly, its embeddings from this file"
    assert logged() == [f"{folders / 'discriminator'}: {message}"]
    if sharing == "none":
        # The state takes over the memory of the model, so no two parameters may share an array.
        method = method_of(sharing)
        state = initial_state(method.build, method.optimizer, 0, make_mesh(data=1, fsdp=8), pair)
        assert same(state.model.detector(), DISCRIMINATOR)


@pytest.mark.parametrize("sharing", RTD)
def test_a_new_discriminator_starts_with_the_embeddings_of_the_generator(sharing, folders, tokenizer, logged):
    pair = load_pair(tokenizer, None, folders / "generator", sharing)
    assert same(pair.generator, GENERATOR)
    np.testing.assert_array_equal(words(pair.detector()), words(GENERATOR))
    if sharing == "gdes":
        assert not words(pair.discriminator).any()
    message = "the layers of the discriminator are initialized randomly, its embeddings from this file"
    assert logged() == [f"{folders / 'generator'}: {message}"]


def test_masked_language_modeling_is_initialized_from_a_model(folders, tokenizer):
    files = MASKED_LM.find_files(str(folders / "generator"), None)
    options = ModelOptions(initial_config(files, CONFIG, tokenizer, "tiny"), "float32", "none")
    assert same(MASKED_LM.load_files(files, options, RtdConfig(), model_key(0), make_mesh()), GENERATOR)


def test_the_embedding_table_has_the_size_of_the_files(folders, tokenizer):
    smaller = dataclasses.replace(CONFIG, vocab_size=384)
    for names in (folders / "discriminator", "fresh"), (None, folders / "generator"):
        assert initial_config(find_pair(*names), smaller, tokenizer, "tiny").vocab_size == 448
    assert initial_config(find_pair(), smaller, tokenizer, "tiny") == smaller


def write_microsoft_run(root, tokenizer, *, stale=True, steps=("000100", "000090")):
    """The folders of Microsoft's trainer: the discriminator has E_Δ, and if `stale` also a sum that is one step old."""
    discriminator, generator = export_tensors(DISCRIMINATOR, CONFIG), export_tensors(GENERATOR, CONFIG)
    difference = discriminator.pop(f"{WORDS}.weight") * np.float32(0.01)
    discriminator |= {f"{WORDS}._weight": difference, f"{POSITIONS}._weight": generator[f"{POSITIONS}.weight"] * 0}
    if stale:
        discriminator |= {f"{name}.weight": generator[f"{name}.weight"] + 1 for name in (WORDS, POSITIONS)}
    values = CONFIG.to_dict() | {"pos_att_type": "p2c|c2p"}
    values = {key: value for key, value in values.items() if key not in ("model_type", "clamp_distances")}
    for name, tensors in {"discriminator": discriminator, "generator": generator}.items():
        (root / name).mkdir()
        newest, *others = steps
        write_torch_file(root / name / f"pytorch.model-{newest}.bin", tensors.items())
        for step in others:
            write_torch_file(root / name / f"pytorch.model-{step}.bin", [("another", np.zeros(1, "f"))])
        (root / name / "model_config.json").write_text(json.dumps(values))
        tokenizer.save(root / name)
    return difference


@pytest.mark.parametrize("stale", [True, False])
def test_the_embedding_difference_of_microsofts_trainer_is_used(stale, tmp_path, tokenizer, logged):
    # The later step is not the later name in alphabetical order.
    difference = write_microsoft_run(tmp_path, tokenizer, stale=stale, steps=("1000000", "999999"))
    pair = load_pair(tokenizer, tmp_path / "discriminator", tmp_path / "generator")
    assert same(pair.generator, GENERATOR)
    assert equal_up_to_rounding(words(pair.discriminator), difference, words(GENERATOR))
    np.testing.assert_array_equal(words(pair.detector()), words(GENERATOR) + difference)
    assert same(pair.detector().detector, DISCRIMINATOR.detector)
    assert logged() == []


def test_a_microsoft_config_file_may_describe_both_models(tmp_path, tokenizer):
    difference = write_microsoft_run(tmp_path, tokenizer, steps=("000100",))
    for name in "discriminator", "generator":
        path = tmp_path / name / "model_config.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps({"embedding_sharing": "gdes", "generator": values, "discriminator": values}))
    pair = load_pair(tokenizer, tmp_path / "discriminator", tmp_path / "generator")
    assert equal_up_to_rounding(words(pair.discriminator), difference, words(GENERATOR))


def test_a_sum_that_is_one_step_old_is_logged_once_when_it_is_used(tmp_path, tokenizer, logged):
    write_microsoft_run(tmp_path, tokenizer)
    pair = load_pair(tokenizer, tmp_path / "discriminator", "fresh")
    np.testing.assert_array_equal(words(pair.detector()), words(GENERATOR) + 1)
    messages = [line.partition(": ")[2] for line in logged()]
    assert len(messages) == 2
    assert f"{WORDS}.weight" in messages[0] and "one step" in messages[0]
    assert messages[1] == "the layers of the generator are initialized randomly, its embeddings from this file"


def test_a_discriminator_without_a_generator_is_refused(folders, tmp_path, tokenizer):
    save_pretrained(tmp_path / "alone", DISCRIMINATOR, tokenizer)
    both_ways = (
        "alone: no generator in this folder .pytorch_model.generator.bin.; add --generator NAME, or --generator fresh"
    )
    with pytest.raises(InputError, match=both_ways):
        find_pair(tmp_path / "alone")
    # The folder of a run contains both; the message names the other.
    with pytest.raises(InputError, match=f"add --generator {folders / 'generator'}, or"):
        find_pair(folders / "discriminator")
    with pytest.raises(InputError, match="discriminator/model.safetensors: "):
        find_pair(folders / "discriminator", folders / "discriminator")


def test_files_that_do_not_fit_the_model_or_the_tokenizer_are_refused(folders, tmp_path, tokenizer):
    pair = find_pair(folders / "discriminator", folders / "generator")
    with pytest.raises(
        InputError, match="not mini: hidden_size is 32, expected 256; num_hidden_layers is 2, expected 4; "
    ):
        initial_config(pair, PRESETS["mini"], tokenizer, "mini")

    def refuse(files, message, tokenizer=tokenizer):
        with pytest.raises(InputError, match=message):
            initial_config(files, CONFIG, tokenizer, "tiny")

    wide = random_model(MaskedLM, dataclasses.replace(CONFIG, vocab_size=512))
    save_pretrained(tmp_path / "wide", wide, tokenizer)
    files = find_pair(folders / "discriminator", tmp_path / "wide")
    refuse(files, "wide: not the generator of tiny: vocab_size is 512, expected 448")
    save_pretrained(
        tmp_path / "small", random_model(ReplacedTokenDetection, dataclasses.replace(CONFIG, vocab_size=256))
    )
    refuse(find_pair(tmp_path / "small", "fresh"), "small: 256 tokens, but the tokenizer")
    another = train_tokenizer([TEXT.upper()] * 10, tmp_path / "another" / "spm.model", 350)
    refuse(pair, "discriminator: its tokenizer differs from", another)


@pytest.mark.parametrize(
    ("fields", "advice"),
    [
        ({"num_hidden_groups": 1}, "num_hidden_groups is 1, expected None; set --num-hidden-groups 1$"),
        ({"position_biased_input": True}, "expected False; set --absolute-positions input$"),
        ({"num_hidden_groups": 1, "hidden_act": "relu"}, "use the recipe of this model$"),
    ],
)
def test_the_options_of_an_initial_model_are_named(fields, advice, folders, tokenizer):
    files = find_pair(folders / "discriminator", folders / "generator")
    other = files.model._replace(config=dataclasses.replace(files.model.config, **fields))
    with pytest.raises(InputError, match=advice):
        initial_config(files._replace(model=other), CONFIG, tokenizer, "tiny")


def test_the_tokenizer_is_the_named_one_or_that_of_the_model(folders, tmp_path, tokenizer):
    sha256 = tokenizer.sha256
    assert find_tokenizer(folders / "generator", None, None, None).sha256 == sha256
    assert find_tokenizer(None, str(folders / "discriminator"), None, None).sha256 == sha256
    assert find_tokenizer(None, None, None, None) is None
    save_pretrained(tmp_path / "bare", GENERATOR)
    for names, message in [
        ((str(tmp_path / "bare"), None, None), "bare: no tokenizer in this folder; add --tokenizer"),
        ((None, "here", None), "here: a generator without --init-from needs its tokenizer; add --tokenizer"),
        ((None, None, tmp_path), "shards need the tokenizer they were made with; add --tokenizer"),
        ((str(tmp_path / "nowhere"), "fresh", None), "nowhere"),
    ]:
        with pytest.raises(InputError, match=message):
            find_tokenizer(None, *names)
