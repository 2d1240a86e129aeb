"""Pretraining that goes on from models: whole ones, those of Microsoft's training, one of a pair alone."""

import dataclasses
import functools
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mock_hub import serving

from deberta_jax.cli.main import main
from deberta_jax.errors import InputError
from deberta_jax.hub.layout import export_tensors
from deberta_jax.hub.pretrained import load_pretrained, save_pretrained
from deberta_jax.hub.tensors import read_tensors
from deberta_jax.model.heads import ReplacedTokenDetection
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.initial import check_start, config_with_start, first_model
from deberta_jax.pretraining.recipes import recipe
from deberta_jax.pretraining.replaced_tokens import RtdConfig
from deberta_jax.sharding import make_mesh
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.tokenizers.train import train_tokenizer
from deberta_jax.torch_format.file import write_torch_file
from deberta_jax.training.state import abstract_state, initial_state

TEXT = """The quick brown fox jumps over the lazy dog, and eats what it finds there, every day of the year.
Fine offices flow from first efforts; it's 1/2 of what they'd said (in 2021) to be enough - or 12% more than that.
She sells sea shells on the sea shore; the shells she sells are sea shells, she's sure of it, isn't she?
"""
TINY = dataclasses.replace(PRESETS["tiny"], vocab_size=448)
WORDS, POSITIONS = "deberta.embeddings.word_embeddings", "deberta.embeddings.position_embeddings"
# Sharing of embeddings, and the steps that can be with it.
STEPS = {"gdes": "decoupled", "es": "joint", "none": "decoupled"}


def random(build, seed):
    draw = np.random.default_rng(seed)
    abstract = jax.eval_shape(build, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.3, x.shape), x.dtype), abstract)


@functools.cache
def made(kind, config=TINY):
    return random(lambda key: kind(config, key=key), seed=1 if kind is MaskedLM else 2)


def same(one, other):
    pairs = zip(jax.tree.leaves_with_path(one), jax.tree.leaves_with_path(other), strict=True)
    return all(path == its_path and (leaf == its_leaf).all() for (path, leaf), (its_path, its_leaf) in pairs)


def words(model):
    return np.asarray(model.deberta.embeddings.word.embedding)


def without_words(model):
    copy = jax.tree.map(lambda leaf: leaf, model)
    copy.deberta.embeddings.word = None
    return copy


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer([TEXT] * 10, tmp_path_factory.mktemp("vocabulary") / "spm.model", 320)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer):
    """A discriminator and a generator, as a run of ours leaves them."""
    root = tmp_path_factory.mktemp("pair")
    save_pretrained(root / "discriminator", made(ReplacedTokenDetection), tokenizer)
    save_pretrained(root / "generator", made(MaskedLM), tokenizer)
    return root


@pytest.fixture
def said(caplog, monkeypatch):
    """What is logged, whatever command ran before."""
    monkeypatch.setattr(logging.getLogger("deberta_jax"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records]


def config_of(start=None, generator=None, *, objective="rtd", sharing="gdes", **fields):
    names = {"start": start and str(start), "generator": generator and str(generator)}
    rtd = RtdConfig(sharing=sharing, step=STEPS[sharing])
    return dataclasses.replace(recipe("tiny", objective), **names, rtd=rtd, **fields)


def loaded(config, tokenizer, mesh=None):
    check_start(config)
    return first_model(config, config_with_start(config, tokenizer), mesh or make_mesh())


def is_rounded(sum_of_two, wanted, *terms):
    """Whether a sum and a difference of float32 are all that lies between."""
    error = 2 * np.finfo("float32").eps * sum(abs(term) for term in (wanted, *terms))
    return (abs(sum_of_two - wanted) <= error).all()


@pytest.mark.parametrize("sharing", STEPS)
def test_a_pair_goes_on_from_two_folders(sharing, folders, tokenizer, said):
    config = config_of(folders / "discriminator", folders / "generator", sharing=sharing)
    pair = loaded(config, tokenizer)
    detector, generator = made(ReplacedTokenDetection), made(MaskedLM)
    assert same(pair.generator, generator)
    assert same(without_words(pair.detector()), without_words(detector))
    found = words(pair.detector())
    if sharing == "gdes":
        np.testing.assert_array_equal(words(pair.discriminator), words(detector) - words(generator))
        assert is_rounded(found, words(detector), words(generator))
    else:
        np.testing.assert_array_equal(found, words(generator if sharing == "es" else detector))
    lost = "its embeddings differ from the generator's, which are both models' from now on"
    assert said() == ([f"{config.start}: {lost}"] if sharing == "es" else [])


def test_of_equal_embeddings_none_are_lost_and_nothing_is_said(folders, tmp_path, tokenizer, said):
    generator = made(MaskedLM)
    generator = jax.tree.map(lambda leaf: leaf, generator)
    generator.deberta.embeddings.word = made(ReplacedTokenDetection).deberta.embeddings.word
    save_pretrained(tmp_path, generator)
    pair = loaded(config_of(folders / "discriminator", tmp_path, sharing="es"), tokenizer)
    assert same(pair.detector(), made(ReplacedTokenDetection))
    assert said() == []


def test_the_generator_is_found_beside_a_released_discriminator(tmp_path, tokenizer):
    mine, its = (export_tensors(made(kind), TINY) for kind in (ReplacedTokenDetection, MaskedLM))
    write_torch_file(tmp_path / "pytorch_model.bin", mine.items())
    write_torch_file(tmp_path / "pytorch_model.generator.bin", its.items())
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_dict()))
    tokenizer.save(tmp_path)
    for generator in None, tmp_path:
        pair = loaded(config_of(tmp_path, generator), tokenizer)
        assert same(pair.generator, made(MaskedLM))
        assert is_rounded(words(pair.detector()), words(made(ReplacedTokenDetection)), words(made(MaskedLM)))


def test_a_pair_on_the_hub_is_fetched_whole_and_a_generator_there_too(folders, tmp_path, tokenizer, monkeypatch):
    pair = tmp_path / "pair"
    save_pretrained(pair, made(ReplacedTokenDetection), tokenizer)
    write_torch_file(pair / "pytorch_model.generator.bin", export_tensors(made(MaskedLM), TINY).items())
    hosted = {"me/pair": pair, "me/alone": folders / "discriminator", "me/generator": folders / "generator"}
    with serving(hosted) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        for start, generator in [("me/pair", None), ("me/alone", "me/generator"), ("me/alone", "me/pair")]:
            assert same(loaded(config_of(start, generator), tokenizer).generator, made(MaskedLM))
        with pytest.raises(InputError, match="^me/alone: no generator is beside it .* name one with --generator NAME"):
            check_start(config_of("me/alone"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for start, generator in [("me/pair", None), ("me/alone", "me/generator")]:
        check_start(config_of(start, generator))
    with pytest.raises(InputError, match="^me/alone: no such folder here, not whole in the cache"):
        check_start(config_of("me/alone"))


@pytest.mark.parametrize("sharing", STEPS)
def test_a_fresh_generator_begins_with_the_discriminators_embeddings(sharing, folders, tokenizer, said):
    config = config_of(folders / "discriminator", "fresh", sharing=sharing)
    mesh = make_mesh(data=1, fsdp=8)
    pair = loaded(config, tokenizer, mesh)
    detector = made(ReplacedTokenDetection)
    assert same(pair.detector(), detector)
    np.testing.assert_array_equal(words(pair.generator), words(detector))
    if sharing == "gdes":
        assert not words(pair.discriminator).any()
    new, other = (x.deberta.encoder.layers.up.kernel for x in (pair.generator, detector))
    assert np.isclose(np.std(new), TINY.initializer_range, rtol=0.05)
    assert not (np.asarray(new) == np.asarray(other)).any()
    assert said() == [f"{config.start}: goes on with a new generator, which begins with its embeddings"]
    if sharing == "none":
        # The state takes the model's memory over: no two parameters may be one array.
        method = config.method(config_with_start(config, tokenizer))
        state = initial_state(method.build, method.optimizer, 0, mesh, pair)
        assert same(state.model.detector(), detector)


@pytest.mark.parametrize("sharing", STEPS)
def test_a_discriminator_of_a_generator_alone_begins_with_its_embeddings(sharing, folders, tokenizer, said):
    config = config_of(None, folders / "generator", sharing=sharing, tokenizer=folders / "generator")
    pair = loaded(config, tokenizer)
    assert same(pair.generator, made(MaskedLM))
    np.testing.assert_array_equal(words(pair.detector()), words(made(MaskedLM)))
    if sharing == "gdes":
        assert not words(pair.discriminator).any()
    assert said() == [f"{config.generator}: goes on with a new discriminator, which begins with its embeddings"]


def test_masked_language_modelling_goes_on_from_a_model(folders, tokenizer):
    model = loaded(config_of(folders / "generator", objective="mlm"), tokenizer)
    assert same(model, made(MaskedLM))


@pytest.mark.parametrize("given", [("discriminator", "generator"), ("discriminator", "fresh"), (None, "generator")])
def test_parameters_are_split_over_devices_as_those_of_the_state(given, folders, tokenizer):
    start, generator = (name if name in (None, "fresh") else folders / name for name in given)
    config = config_of(start, generator, tokenizer=folders / "generator")
    mesh = make_mesh(data=1, fsdp=8)
    pair = loaded(config, tokenizer, mesh)
    method = config.method(config_with_start(config, tokenizer))
    abstract = abstract_state(method.build, method.optimizer, 0, mesh).model
    assert jax.tree.structure(pair) == jax.tree.structure(abstract)
    places = [(x.shape, x.dtype, x.sharding) for x in jax.tree.leaves(pair)]
    assert places == [(x.shape, x.dtype, x.sharding) for x in jax.tree.leaves(abstract)]
    kernel = pair.discriminator.deberta.encoder.layers.up.kernel
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 16, 512)


def test_the_table_of_words_is_as_long_as_the_models(folders, tokenizer):
    both, alone = (folders / "discriminator", "fresh"), (None, folders / "generator")
    for start, generator in both, alone:
        config = config_of(start, generator, tokenizer=folders / "generator")
        assert config_with_start(config, tokenizer).vocab_size == 448
        assert config.model_config(tokenizer.vocab_size).vocab_size == 384


def trained_by_microsoft(root, tokenizer, *, stale=True, steps=("000100", "000090")):
    """What its training leaves: E_Δ, and beside it a sum that is one step old; a config and a vocabulary in each."""
    mine, its = (export_tensors(made(kind), TINY) for kind in (ReplacedTokenDetection, MaskedLM))
    difference = mine.pop(f"{WORDS}.weight") * np.float32(0.01)
    mine |= {f"{WORDS}._weight": difference, f"{POSITIONS}._weight": its[f"{POSITIONS}.weight"] * 0}
    if stale:
        mine |= {f"{name}.weight": its[f"{name}.weight"] + 1 for name in (WORDS, POSITIONS)}
    values = TINY.to_dict() | {"pos_att_type": "p2c|c2p"}
    values = {key: value for key, value in values.items() if key not in ("model_type", "clamp_distances")}
    for name, tensors in {"discriminator": mine, "generator": its}.items():
        (root / name).mkdir()
        newest, *others = steps
        write_torch_file(root / name / f"pytorch.model-{newest}.bin", tensors.items())
        for step in others:
            write_torch_file(root / name / f"pytorch.model-{step}.bin", [("another", np.zeros(1, "f"))])
        (root / name / "model_config.json").write_text(json.dumps(values))
        tokenizer.save(root / name)
    return difference


@pytest.mark.parametrize("stale", [True, False])
def test_microsofts_training_goes_on_with_its_own_difference_of_embeddings(stale, tmp_path, tokenizer, said):
    # Six digits and more: the later step is not the later name.
    difference = trained_by_microsoft(tmp_path, tokenizer, stale=stale, steps=("1000000", "999999"))
    pair = loaded(config_of(tmp_path / "discriminator", tmp_path / "generator"), tokenizer)
    generator = made(MaskedLM)
    assert same(pair.generator, generator)
    assert is_rounded(words(pair.discriminator), difference, words(generator))
    np.testing.assert_array_equal(words(pair.detector()), words(generator) + difference)
    assert same(pair.detector().detector, made(ReplacedTokenDetection).detector)
    assert said() == []


def test_one_config_for_both_of_microsofts_models_will_do(tmp_path, tokenizer):
    difference = trained_by_microsoft(tmp_path, tokenizer, steps=("000100",))
    for name in "discriminator", "generator":
        path = tmp_path / name / "model_config.json"
        one = json.loads(path.read_text())
        path.write_text(json.dumps({"embedding_sharing": "gdes", "generator": one, "discriminator": one}))
    pair = loaded(config_of(tmp_path / "discriminator", tmp_path / "generator"), tokenizer)
    assert is_rounded(words(pair.discriminator), difference, words(made(MaskedLM)))


def test_a_sum_that_is_a_step_old_is_said_once_where_it_is_taken(tmp_path, tokenizer, said):
    trained_by_microsoft(tmp_path, tokenizer)
    config = config_of(tmp_path / "discriminator", "fresh")
    check_start(config)
    assert said() == []
    pair = loaded(config, tokenizer)
    np.testing.assert_array_equal(words(pair.detector()), words(made(MaskedLM)) + 1)
    assert [line.partition(": ")[2] for line in said()] == [
        f"no generator; {WORDS}.weight is used as saved, one step older than the other weights",
        "goes on with a new generator, which begins with its embeddings",
    ]


def refused(capsys, tmp_path, *options):
    """The one line that is said, before anything is written."""
    run, text = tmp_path / "run", tmp_path / "text.txt"
    text.write_text(TEXT)
    words = ["pretrain", "tiny", "--objective", "rtd", "--folder", run, "--data.files", text, *options]
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert not run.exists()
    return error


def test_a_discriminator_alone_is_refused_with_both_ways_out(folders, tmp_path, tokenizer, capsys):
    save_pretrained(tmp_path / "alone", made(ReplacedTokenDetection), tokenizer)
    assert (
        "alone: no generator is beside it as pytorch_model.generator.bin; name one with --generator NAME, or begin a "
        "new one with --generator fresh"
    ) in refused(capsys, tmp_path, "--start", tmp_path / "alone")
    # Where a run of ours left both, the other is named.
    assert f"--generator {folders / 'generator'}, or" in refused(capsys, tmp_path, "--start", folders / "discriminator")


def test_what_does_not_go_together_is_refused_before_anything_is_written(folders, tmp_path, tokenizer, capsys):
    refuse = functools.partial(refused, capsys, tmp_path)
    both = "--start", folders / "discriminator", "--generator", folders / "generator"
    assert "is not mini: hidden_size 128, wanted 256; num_hidden_layers 2, wanted 4; " in refuse(
        *both, "--model", "mini"
    )
    assert "generator: a generator without --start needs its tokenizer: --tokenizer" in refuse(*both[2:])
    assert "discriminator/model.safetensors: a discriminator without its generator" in refuse(
        *both[:2], "--generator", folders / "discriminator"
    )
    assert "nowhere" in refuse("--start", tmp_path / "nowhere", "--generator", "fresh")

    other = dataclasses.replace(TINY, vocab_size=512)
    save_pretrained(tmp_path / "wide", made(MaskedLM, other), tokenizer)
    assert "wide: is not the generator of tiny: vocab_size 512, wanted 448" in refuse(
        *both[:2], "--generator", tmp_path / "wide"
    )
    small = dataclasses.replace(TINY, vocab_size=256)
    save_pretrained(tmp_path / "small", made(ReplacedTokenDetection, small))
    named = "--tokenizer", folders / "generator"
    assert "small: has 256 tokens, the tokenizer" in refuse(
        "--start", tmp_path / "small", "--generator", "fresh", *named
    )
    assert "small: holds no tokenizer; name the model's own with --tokenizer" in refuse(
        "--start", tmp_path / "small", "--generator", "fresh"
    )
    another = train_tokenizer([TEXT.upper()] * 10, tmp_path / "another" / "spm.model", 300)
    assert "discriminator: its tokenizer is another than" in refuse(*both, "--tokenizer", another.path)


def contents(folder):
    return {name: tensor.read() for name, tensor in read_tensors(folder / "model.safetensors").items()}


def test_a_run_goes_on_from_its_own_checkpoint_and_with_the_same_models_only(
    folders, tmp_path, tokenizer, capsys, monkeypatch
):
    text = "\n\n".join(f"{line} {number}" for number in range(60) for line in TEXT.splitlines())
    for name in "train", "held_out":
        (tmp_path / f"{name}.txt").write_text(text)
    run = tmp_path / "run"
    command = [
        *("pretrain", "tiny", "--objective", "rtd", "--folder", run, "--data.files", tmp_path / "train.txt"),
        *("--data.held-out", tmp_path / "held_out.txt", "--data.length", "32", "--data.evaluate-batches", "1"),
        *("--batch-size", "8", "--steps", "1", "--optimizer.learning-rate", "0", "--optimizer.weight-decay", "0"),
    ]
    command = [str(word) for word in command]
    given = ["--start", str(folders / "discriminator"), "--generator", str(folders / "generator")]
    # None is of any use here, and compiling them takes half of the time.
    judged = {"auc": 1.0, "spread": 1.0}
    monkeypatch.setattr("deberta_jax.cli.pretrain.over_batches", lambda *_: lambda *_: judged or None)
    monkeypatch.setattr("deberta_jax.training.checkpoint.fingerprint", lambda arrays: {name: [0] for name in arrays})
    monkeypatch.setattr("deberta_jax.cli.pretrain.report", lambda *_: None)
    with jax.numpy_dtype_promotion("standard"):
        assert main([*command, *given]) == 0
        # Nothing was learned, at a rate of 0: what came in goes out.
        detector, generator = made(ReplacedTokenDetection), made(MaskedLM)
        assert same(load_pretrained(run / "generator", "masked_lm").model, generator)
        found = load_pretrained(run / "discriminator", "replaced_token_detection").model
        assert is_rounded(words(found), words(detector), words(generator))
        assert Tokenizer(run / "discriminator").sha256 == tokenizer.sha256

        monkeypatch.setattr("deberta_jax.cli.pretrain.first_model", lambda *_: pytest.fail("loaded again"))
        judged.clear()
        assert main([*command, *given]) == 0
    assert "going on from step 1" in capsys.readouterr().err
    assert main([*command, *given[:2], "--generator", "fresh"]) == 2
    assert f"generator ({given[3]} there, fresh here)" in capsys.readouterr().err
    assert main(command) == 2
    assert f"generator ({given[3]} there, None here); start ({given[1]} there, None here)" in capsys.readouterr().err

    # The tables of a checkpoint, summed, are those of the folders; its tokenizer is that of the start.
    assert main(["convert", str(run), str(tmp_path / "converted")]) == 0
    ours, theirs = contents(tmp_path / "converted"), contents(run / "discriminator")
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)
    assert Tokenizer(tmp_path / "converted").sha256 == tokenizer.sha256
