"""The pages with commands of long runs: every block runs, with toy data, toy models and toy sizes."""

import csv
import json
import re
from pathlib import Path
from unittest import mock

import jax
import pytest
from documents import blocks, read_page, run_block
from page_files import WRITERS
from page_models import hub_and_folder
from page_sizes import toy_sizes, use_toy_sizes

# huggingface_hub calls httpx in a deprecated way where it uploads large files without xet.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
# The options that three dots at the end of a command mean.
FURTHER = ' --data.files "texts/*.txt" --tokenizer spm.model'


@pytest.fixture
def hub(page_models, tmp_path, monkeypatch, unchecked_shapes):
    """A hub that accepts uploads, an empty current folder, and toy sizes."""
    # A model without disentangled attention compiles faster.
    models = page_models | {"microsoft/deberta-v3-base": page_models["microsoft/deberta-v3-small"]}
    use_toy_sizes(monkeypatch)
    with hub_and_folder(models, tmp_path, monkeypatch) as hub:
        hub.new_repositories = tmp_path / "hub"
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub


def lines_of(path):
    return Path(path).read_text(encoding="utf-8").splitlines()


def check_readme(printed):
    assert printed.count("%  ") >= 5
    assert "(2, 32)" in printed and "(1, 2, 5, 7)" in printed
    written = {path.name for path in Path("my-model").iterdir()}
    assert written >= {"config.json", "model.safetensors", "vocab.json", "merges.txt", "tokenizer.json"}
    assert len(lines_of("labels.jsonl")) == 2
    assert len(lines_of("stars.jsonl")) == len(lines_of("reviews.csv")) - 1
    assert json.loads(Path("my-v2/config.json").read_text())["architectures"] == ["DebertaV2ForMaskedLM"]


def check_tasks(printed):
    assert all("prediction" in json.loads(line) for line in lines_of("queues.jsonl"))
    assert len(lines_of("runs/search/trials.jsonl")) == 2
    assert Path("../hub/me--reviews/README.md").is_file()


def check_tables(printed):
    assert len(lines_of("runs/folds/predictions/out_of_fold.jsonl")) == 20
    assert {path.name for path in Path("runs/folds").glob("fold-*")} == {"fold-0", "fold-1", "fold-2"}


def check_competition(printed):
    assert "essays/train.csv: 36 rows, 36 used" in printed
    with open("essays/test.csv", encoding="utf-8-sig", newline="") as file:
        ids = [row["essay_id"] for row in csv.DictReader(file)]
    header, *rows = (line.split(",") for line in lines_of("submission.csv"))
    assert header == ["essay_id", "score"]
    assert [row[0] for row in rows] == ids and {row[1] for row in rows} <= {"1", "2", "3"}
    assert Path("runs/first/report.html").is_file()


def check_pretraining(printed):
    """The evaluation of a run has the metrics that the page shows, in the same order."""
    shown = re.search(r"^step 60: held-out (.*)$", read_page("docs/pretraining.md"), re.MULTILINE)[1]
    names = re.findall(r"([a-z_]+) [\d.e%-]+", shown)
    evaluations = [re.findall(r"([a-z_]+) [\d.e%-]+", line) for line in re.findall(r"held-out (.*)", printed)]
    assert names in evaluations
    assert "dropped: 2 of 62 documents (length 1, near duplicate 1)" in printed


def check_scaling(printed):
    """The report of a plan has the lines that the page shows, without those for a chip with known peak rates."""
    [shown] = (block.text for block in blocks(read_page("docs/scaling.md")) if "chip-hours" in block.text)
    labels = re.findall(r"^  ([A-Z]?[a-z]*[A-Za-z]+(?: [a-z]+)?)  ", shown, re.MULTILINE)
    assert [label for label in labels if f"\n  {label}  " not in printed] == ["step time", "MFU"]
    assert json.loads(Path("shared/exported/config.json").read_text())["model_type"] == "deberta-v2"


def check_paper(printed):
    assert "perplexity" in printed and "ensemble of 2 models, dev: accuracy" in printed


CHECKS = {
    "README.md": check_readme,
    "docs/competition.md": check_competition,
    "docs/paper.md": check_paper,
    "docs/pretraining.md": check_pretraining,
    "docs/scaling.md": check_scaling,
    "docs/tables.md": check_tables,
    "docs/tasks.md": check_tasks,
}


@pytest.mark.parametrize("page", WRITERS)
def test_every_block_of_a_page_runs(page, hub, capsys):
    WRITERS[page]()
    names: dict[str, object] = {}
    # One device: a program for more takes longer to compile.
    with mock.patch("jax.devices", return_value=jax.devices()[:1]):
        for block in blocks(read_page(page)):
            if block.language == "bash":
                block = block._replace(text=re.sub(r" \.\.\.(?=\s)", FURTHER, block.text))
            run_block(block, names, page, toy_sizes)
    CHECKS[page]("".join(capsys.readouterr()))
