"""The pages for newcomers: every block runs as written, with a local mock hub and toy models in released forms."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
from documents import (
    ROOT,
    blocks,
    broken_links,
    check_options,
    commands,
    named_block,
    read_page,
    run_block,
)  # fmt: skip
from mock_hub import serving
from toy_folders import READING, SIZES, released, write_hosted_folder
from toy_runs import two_devices
from toy_tokenizers import write_byte_pair, write_unigram

import deberta_jax as dj
from deberta_jax.cli import convert_options, evaluate_options
from deberta_jax.cli.parse import option_help
from deberta_jax.cli.predict_options import PredictConfig
from deberta_jax.cli.prepare import PrepareConfig
from deberta_jax.cli.tokenizer import TokenizerConfig
from deberta_jax.config import DebertaConfig
from deberta_jax.finetuning import recipes as finetuning
from deberta_jax.pretraining import recipes as pretraining

PAGES = [f"docs/{name}.md" for name in (
    "index", "installation", "first_steps", "concepts", "models", "from_transformers", "from_microsoft", "faq", "citing"
)]  # fmt: skip
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
SMALL = dataclasses.replace(
    READING,
    max_position_embeddings=256,
    relative_attention=False,
    position_biased_input=True,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
# Options of other programs in the text, which have no counterpart here.
FOREIGN = {"--task_dir", "--task_name", "--do_train", "--do_eval"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    folders = released(root)
    v1 = DebertaConfig(model_type="deberta", vocab_size=420, **SIZES, max_position_embeddings=128)
    write_hosted_folder(root / "v1", v1, "masked_lm")
    write_byte_pair(root / "v1")
    # A training step without disentangled attention and without dropout compiles faster.
    write_hosted_folder(root / "small", SMALL, "masked_lm")
    write_unigram(root / "small")
    return folders | {"microsoft/deberta-base": root / "v1", "microsoft/deberta-v3-small": root / "small"}


@pytest.fixture
def hub(models, tmp_path, monkeypatch):
    """A hub with these models, and a current folder with nothing but a model in place of the demo's."""
    with serving(models) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        (tmp_path / "work").mkdir()
        monkeypatch.chdir(tmp_path / "work")
        shutil.copytree(models["microsoft/deberta-v2-xlarge"], "runs/demo/model")
        yield hub


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs(page, hub):
    names: dict[str, object] = {}
    with two_devices():
        for block in blocks(read_page(page)):
            run_block(block, names, page)


def test_the_readme_runs(hub, capsys):
    page = read_page("README.md")
    Path("texts.jsonl").write_text('{"text": "The match ended two all."}\n{"text": "They vote today."}\n')
    for name in ("five lines", "released", "released commands"):
        run_block(named_block(page, name), {}, "README.md")
    printed = capsys.readouterr().out
    assert printed.count("%  ") == 5
    assert "(2, 32)" in printed
    written = {path.name for path in Path("my-model").iterdir()}
    assert written >= {"config.json", "model.safetensors", "vocab.json", "merges.txt", "tokenizer.json"}
    assert len(Path("labels.jsonl").read_text().splitlines()) == 2
    assert json.loads(Path("my-v2/config.json").read_text())["architectures"] == ["DebertaV2ForMaskedLM"]
    run_block(named_block(page, "research"), {}, "README.md")


@pytest.mark.parametrize("page", sorted({*DOCUMENTS} - {*PAGES}))
def test_commands_are_valid(page):
    for block in blocks(read_page(page)):
        for words in commands(block.text) if block.language == "bash" else ():
            check_options(words)


@pytest.mark.parametrize("page", DOCUMENTS)
def test_links_lead_to_files_and_headings(page):
    assert list(broken_links(page)) == []


@pytest.mark.parametrize("page", DOCUMENTS)
def test_public_names_exist(page):
    assert set(re.findall(r"\bdj\.([a-zA-Z]\w*)", read_page(page))) - {"NAME"} <= set(dj.__all__)


def test_the_citation_has_the_version_of_the_package():
    assert f"version = {{{dj.__version__}}}" in read_page("docs/citing.md")


@pytest.fixture(scope="module")
def options():
    """The options of all commands."""
    recipes = [
        pretraining.recipe("v3-base"),
        finetuning.recipe("generic", finetuning.Selection()),
        evaluate_options.recipe("rte"),
    ]
    names = {name for recipe in recipes for name in option_help(type(recipe), recipe)}
    kinds = PredictConfig, convert_options.ConvertConfig, PrepareConfig, TokenizerConfig
    return names | {name for kind in kinds for name in option_help(kind)} | {"--help", "--version", "--public"}


@pytest.mark.parametrize("page", PAGES)
def test_options_in_prose_and_tables_exist(page, options):
    """Cells of the first column are not read: they have the options of other programs."""
    text = re.sub(r"^```.*?^```$", "", read_page(page), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^\| [^|]* \|", "", text, flags=re.MULTILINE)
    assert set(re.findall(r"(?<![\w=-])--[a-z][\w.-]*\w", text)) - FOREIGN <= options
