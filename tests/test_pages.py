"""The pages for newcomers: every block runs as written, with a local mock hub and toy models in released forms."""

import re
import shutil

import pytest
from documents import ROOT, blocks, broken_links, read_page, run_block
from page_files import WRITERS
from page_models import hub_and_folder
from toy_runs import two_devices

import deberta_jax as dj
from deberta_jax.cli import convert_options, evaluate_options
from deberta_jax.cli.launch import LaunchConfig
from deberta_jax.cli.parse import option_help
from deberta_jax.cli.predict_options import PredictConfig
from deberta_jax.cli.prepare import PrepareConfig
from deberta_jax.cli.tokenizer import TokenizerConfig
from deberta_jax.finetuning import recipes as finetuning
from deberta_jax.planning import options as planning
from deberta_jax.pretraining import recipes as pretraining

PAGES = [f"docs/{name}.md" for name in (
    "index", "installation", "first_steps", "concepts", "models", "from_transformers", "from_microsoft", "faq", "citing"
)]  # fmt: skip
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# The pages whose blocks a test executes: this one, tests/test_page_commands.py, and tests/test_research.py.
EXECUTED = {*PAGES, *WRITERS, "docs/research.md"}
# Options of other programs in the text, which have no counterpart here.
FOREIGN = {"--signal", "--task_dir", "--task_name", "--do_train", "--do_eval", "--init_discriminator"}


@pytest.fixture
def hub(page_models, tmp_path, monkeypatch):
    """A hub with toy models, and a current folder with nothing but a model in place of the demo's."""
    with hub_and_folder(page_models, tmp_path, monkeypatch) as hub:
        shutil.copytree(page_models["microsoft/deberta-v2-xlarge"], "runs/demo/model")
        yield hub


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs(page, hub):
    names: dict[str, object] = {}
    with two_devices():
        for block in blocks(read_page(page)):
            run_block(block, names, page)


@pytest.mark.parametrize("page", sorted({*DOCUMENTS} - EXECUTED))
def test_a_page_that_no_test_executes_has_checked_blocks_only(page):
    for block in blocks(read_page(page)):
        assert block.is_checked_only or block.language not in ("bash", "python"), block.text
        run_block(block, {}, page)


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
        evaluate_options.recipe("perplexity"),
        planning.recipe("v3-base"),
    ]
    names = {name for recipe in recipes for name in option_help(type(recipe), recipe)}
    kinds = PredictConfig, convert_options.ConvertConfig, PrepareConfig, TokenizerConfig, LaunchConfig
    names |= {name for kind in kinds for name in option_help(kind)} | {"--help", "--version", "--public"}
    # The pages also name groups of options, such as --columns.
    return names | {name.rpartition(".")[0] for name in names}


@pytest.mark.parametrize("page", [*PAGES, *WRITERS])
def test_options_in_prose_and_tables_exist(page, options):
    """The first column of tables in the pages for newcomers is not read: it has the options of other programs."""
    text = re.sub(r"^```.*?^```$", "", read_page(page), flags=re.MULTILINE | re.DOTALL)
    if page in PAGES:
        text = re.sub(r"^\| [^|]* \|", "", text, flags=re.MULTILINE)
    assert set(re.findall(r"(?<![\w=-])--[a-z][\w.-]*\w", text)) - FOREIGN <= options
