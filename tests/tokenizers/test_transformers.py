"""Tokenizers that pass between this package and both versions of transformers, with the same ids at each step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_tokenizers import TEXT, write_byte_pair, write_unigram

import deberta_jax as dj
from deberta_jax.tokenizers.train import train_tokenizer

SCRIPT = Path(__file__).parents[1] / "support" / "transformers_tokenizer.py"
# A folder with the packages of transformers 4, as `.ci/run` installs them.
FOLDER_OF_4 = os.environ.get("DEBERTA_JAX_TRANSFORMERS_4")
VERSIONS = [5, pytest.param(4, marks=pytest.mark.skipif(not FOLDER_OF_4, reason="DEBERTA_JAX_TRANSFORMERS_4 not set"))]
INPUTS = [
    *TEXT.splitlines(),
    "a[SEP]b <ent> c  <ent>.",
    "é ﬁne Ａ１２ 日本 😀",
    "  two  spaces\n\ttab ",
    ["A man eats.", "A woman [MASK]!"],
]
# As configs and classes of the three versions name them.
MODELS = {"deberta": ("DebertaTokenizer", write_byte_pair), "deberta-v2": ("DebertaV2Tokenizer", write_unigram)}


def ids_in_transformers(version, folder, model_type, saved=None):
    """What `version` of transformers makes of the inputs, in a process of its own."""
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    paths = [FOLDER_OF_4] if version == 4 else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "USE_TORCH": "0"}
    command = [sys.executable, "-W", "ignore", SCRIPT, folder, *([saved] if saved else [])]
    run = subprocess.run(
        command, input=json.dumps(INPUTS), env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


def our_ids(tokenizer):
    return [tokenizer(*([each] if isinstance(each, str) else each)).input_ids[0].tolist() for each in INPUTS]


@pytest.mark.reference
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("model_type", MODELS)
def test_a_tokenizer_of_transformers_5_keeps_its_ids(tmp_path, model_type, version):
    name, write = MODELS[model_type]
    original, converted, ours, again, final = (tmp_path / step for step in ("original", "5", "ours", "again", "final"))
    original.mkdir()
    write(original)
    (original / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    expected = ids_in_transformers(5, original, model_type, converted)
    assert {file.name for file in converted.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    read = dj.Tokenizer(converted)
    assert our_ids(read) == expected
    read.save(ours)
    assert ids_in_transformers(version, ours, model_type, again) == expected
    read_again = dj.Tokenizer(again)
    assert our_ids(read_again) == expected
    assert (read_again.sha256, read_again.special_ids) == (read.sha256, read.special_ids)
    read_again.save(final)
    assert our_ids(dj.Tokenizer(final)) == expected


@pytest.mark.reference
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("model_type", MODELS)
def test_both_versions_read_our_folder_with_our_ids(tmp_path, model_type, version):
    original, ours, converted = tmp_path / "original", tmp_path / "ours", tmp_path / "converted"
    original.mkdir()
    MODELS[model_type][1](original)
    tokenizer = dj.Tokenizer(original).with_tokens(["<ent>"])
    tokenizer.save(ours)
    assert ids_in_transformers(version, ours, model_type, converted) == our_ids(tokenizer)
    saved = dj.Tokenizer(converted)
    assert our_ids(saved) == our_ids(tokenizer)
    assert saved.special_ids == tokenizer.special_ids


@pytest.mark.reference
@pytest.mark.parametrize("version", VERSIONS)
def test_transformers_reads_a_vocabulary_that_keeps_white_space(tmp_path, version):
    texts = [f"{TEXT}\n\tif x:\n\t\ty  =  {number}\n" for number in range(10)]
    tokenizer = train_tokenizer(texts, tmp_path / "spm.model", 350, keep_whitespace=True)
    tokenizer.save(tmp_path / "saved")
    assert ids_in_transformers(version, tmp_path / "saved", "deberta-v2") == our_ids(tokenizer)
