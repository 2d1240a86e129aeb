"""`deberta-jax pretrain` on a mixture of sources with two lengths and a decay that starts late."""

import json
import random
import shutil
from pathlib import Path

import pytest
from toy_runs import call, read_lines, two_devices, weights
from toy_tokenizers import write_unigram

from deberta_jax.data.manifest import read_manifest
from deberta_jax.data.prepare import prepare

OPTIONS = [
    *("--data.mixture", "web=0.7", "books=0.3", "--data.length", "32:4", "64", "--data.evaluate-batches", "2"),
    *("--batch-size", "8", "--evaluate-every", "100", "--checkpoint-every", "3", "--keep", "5"),
    *("--optimizer.schedule", "wsd", "--optimizer.warmup", "2"),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The options for two sources with shards of 32 and of 64 tokens in one folder."""
    folder = tmp_path_factory.mktemp("corpus")
    tokenizer = write_unigram(folder)
    rng = random.Random(0)
    for name, words in (("web", ["she", "sells", "sea", "shells"]), ("books", ["peter", "piper", "picked", "pepper"])):
        text = folder / f"{name}.txt"
        text.write_text("\n\n".join(" ".join(rng.choices(words, k=40)) + "." for _ in range(60)))
        for length in (32, 64):
            prepare([str(text)], folder / "shards" / name / str(length), tokenizer, length=length, shards=20)
    return ["--data.shards", folder / "shards", "--tokenizer", Path(tokenizer.path)]


def pretrain(folder, corpus, *options):
    """The exit code of the command on two devices."""
    with two_devices():
        return call("pretrain", "tiny", "--folder", folder, *corpus, *OPTIONS, *options)


def test_a_run_changes_its_length_resumes_bit_exactly_though_its_data_moved_and_branches_into_a_decay(
    corpus, tmp_path, capsys
):
    whole, resumed, branch = (tmp_path / name for name in ("whole", "resumed", "branch"))
    end = ("--steps", "8", "--optimizer.decay-steps", "2")
    assert pretrain(whole, corpus, *end) == 0
    out = capsys.readouterr().out
    assert "  steps 1 to 4: 8 sequences of 32 tokens\n  books: 30.00%, " in out
    assert "  steps 5 to 8: 4 sequences of 64 tokens\n  books: 30.00%, " in out
    settings = json.loads((whole / "config.json").read_text())["data"]
    assert (settings["length"], settings["mixture"]) == ({"32": 0, "64": 4}, ["web=0.7", "books=0.3"])
    lines = read_lines(whole, "train")
    assert lines[1]["learning_rate"] == lines[6]["learning_rate"] > lines[7]["learning_rate"] > 0
    # Both lengths have 256 tokens per batch, less the padding.
    assert all(128 < line["tokens"] <= 256 for line in lines)

    shutil.copytree(whole, resumed)
    for step in ("6", "8"):
        shutil.rmtree(resumed / "checkpoints" / step)
    shutil.copytree(corpus[1].parent, tmp_path / "elsewhere")
    moved = [tmp_path / "elsewhere" / option.name if isinstance(option, Path) else option for option in corpus]
    assert pretrain(resumed, moved, *end) == 0
    assert "resuming from step 3" in capsys.readouterr().err
    assert read_lines(resumed, "train") == lines
    assert read_lines(resumed, "held_out") == read_lines(whole, "held_out")
    assert weights(resumed) == weights(whole)

    checkpoint = whole / "checkpoints" / "3"
    assert pretrain(branch, corpus, "--steps", "4", "--optimizer.decay-steps", "2", "--branch-from", checkpoint) == 0
    assert "extending the run from 8 to 4 steps" not in capsys.readouterr().err
    *first, last = read_lines(branch, "train")
    assert first == lines[:3]
    assert 0 < last["learning_rate"] < lines[3]["learning_rate"]
    assert last["loss"] == pytest.approx(lines[3]["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.mixture", "web=1"], "data.mixture has weights of web, but the sources are books, web"),
        (["--data.mixture", "web=1", "books=x"], "data.mixture: 'books=x' is no weight; write NAME=WEIGHT"),
        (["--data.temperature", "0.3"], "data.mixture and data.temperature are both set"),
        (["--data.length", "32:50%", "48"], "data.length: 8 sequences of 32 tokens are no whole number of sequences"),
        (["--data.length", "32:50%", "128"], "sequences of 32 and 64 tokens, but data.length is 128"),
        (["--data.length", "32:50%", "64:50%", "--batch-size", "2"], "batch_size is 1; it must be a multiple of 2"),
        (["--branch-from", "nowhere/5"], "nowhere/5: no checkpoint; give the folder of a step"),
        (["--optimizer.decay-steps", "30"], "optimizer.decay_steps 30, but the run has only 8"),
    ],
)
def test_options_that_do_not_fit_the_sources_are_refused_in_one_line(options, message, corpus, tmp_path, capsys):
    assert pretrain(tmp_path / "run", corpus, "--steps", "8", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_shards_that_do_not_belong_together_are_refused(corpus, tmp_path, capsys):
    shards = tmp_path / "shards"
    shutil.copytree(corpus[1], shards)
    web = {length: shards / "web" / length for length in ("32", "64")}
    named = [f"web={web['32']}", f"web={web['64']}", f"books={shards}/books/32"]
    for words, message in [
        (web.values(), "data.mixture and data.temperature need several sources"),
        ([shards, f"web={corpus[1]}/web/32"], "both have sequences of 32 tokens of source web; name them"),
        (named, "source books has no shards of 64 tokens"),
    ]:
        assert pretrain(tmp_path / "run", ["--data.shards", *words, *corpus[2:]], "--steps", "8") == 2
        assert message in capsys.readouterr().err
    shutil.rmtree(web["64"])
    (text,) = read_manifest(web["32"]).sources
    command = ("prepare", "--files", text, "--tokenizer", corpus[3], "--output", web["64"], "--length", "64")
    assert call(*command, "--shards", "25") == 0
    assert pretrain(tmp_path / "run", ["--data.shards", shards, *corpus[2:]], "--steps", "8") == 2
    assert "(20 of 32 tokens, 25 of 64 tokens), so their held-out text differs" in capsys.readouterr().err


def test_the_share_of_a_source_follows_its_size_and_the_temperature(corpus, tmp_path):
    from deberta_jax.pretraining.sources import find_sources, make_mixture
    from deberta_jax.tokenizers.tokenizer import Tokenizer

    sources = find_sources([str(corpus[1])], [32], Tokenizer(corpus[3]).sha256)[32]
    sizes = {name: read_manifest(folder).sequences for name, folder in sources.items()}
    for exponent, power in ((None, 1.0), (0.3, 0.3)):
        weights = {source.name: source.weight for source in make_mixture(sources, (), exponent)}
        total = sum(size**power for size in sizes.values())
        assert weights == pytest.approx({name: size**power / total for name, size in sizes.items()})
