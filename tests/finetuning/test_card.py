"""Model cards of fine-tuned models, and `finetune --push-to-hub` with a local mock hub."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import pytest
import yaml
from toy_runs import CONFIG, call, read_json

from deberta_jax.cli import finetune as command
from deberta_jax.finetuning.card import CardInputs, base_name, finetuned_card, portable_settings
from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.finetuning.custom import find_task
from deberta_jax.finetuning.evaluate import Evaluation
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.hub.pretrained import from_pretrained, save_pretrained
from deberta_jax.model.heads import SequenceClassification
from deberta_jax.tasks.columns import Columns
from deberta_jax.tasks.examples import Examples, ReadReport, TextExample

# huggingface_hub calls httpx in a deprecated way where it uploads large files without xet.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
SECRET = "a text of the table"


def test_a_card_states_data_metrics_with_counts_and_settings_but_no_text_and_no_local_path(tmp_path):
    (tmp_path / "base").mkdir()
    task = find_task("generic", Columns(text="review", label=("stars",)))
    examples = [TextExample(str(k), SECRET, None, "good" if k < 3 else None) for k in range(4)]
    report = ReadReport(str(tmp_path / "reviews.csv"), read=5, used=4, skipped={"empty": 1})
    splits = {"train": Examples(examples, [report]), "dev": Examples(examples, [])}
    config = FinetuneConfig(task="generic", model=str(tmp_path / "base"), data=tmp_path / "reviews.csv", epochs=2.0)
    settings = config.settings() | {"rows": "a1b2", "content": {"model": "c3d4"}}
    inputs = CardInputs(tmp_path / "reviews.csv", config.model, settings, "The best of 3 seeds.")
    evaluations = [Evaluation("dev", examples, [], {"accuracy": 2 / 3}), Evaluation("test", examples, [], {})]
    text = finetuned_card(task, KINDS["single_label"], CONFIG, splits, evaluations, inputs)
    assert str(tmp_path) not in text and SECRET not in text and "a1b2" not in text and "c3d4" not in text
    assert "| train | 4 | reviews.csv: 5 rows, 4 used |" in text
    assert "| dev | accuracy | 0.6667 | 3 |" in text and "optimistic" in text
    assert "on reviews.csv. The best of 3 seeds." in text
    assert '"epochs": 2.0,' in text
    assert "*to be added*" in text and "## Versions" in text
    metadata = yaml.safe_load(text.split("---")[1])
    assert metadata["pipeline_tag"] == "text-classification" and "base_model" not in metadata


def test_the_base_model_is_named_if_others_can_load_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert base_name("microsoft/deberta-v3-small") == "microsoft/deberta-v3-small"
    for name in (str(tmp_path), "/no/such/folder"):
        assert base_name(name) == "a local model"
    (tmp_path / "owner/name").mkdir(parents=True)
    assert base_name("owner/name") == "a local model"
    assert portable_settings({"model": str(tmp_path), "rows": 1, "epochs": 3}) == {
        "model": "a local model",
        "epochs": 3,
    }


@pytest.fixture
def untrained(monkeypatch, tokenizer):
    """Replaces training by a model with random weights."""

    def train(config, inputs, objective, folder, training, settings):
        model = dataclasses.replace(CONFIG, labels=("bad", "good"))
        save_pretrained(folder / "model", SequenceClassification(model, key=jax.random.key(0)), tokenizer)
        return {"accuracy": 0.5}

    monkeypatch.setattr(command, "train_run", train)


def test_a_run_is_uploaded_with_its_card(writable_hub, prepared, untrained, tmp_path, capsys):
    words = [*prepared("single_label").words, "--folder", tmp_path / "run"]
    assert call("finetune", *words, "--push-to-hub", "me/reviews") == 0, capsys.readouterr().err
    assert f"uploaded to {writable_hub.url}/me/reviews" in capsys.readouterr().out
    assert writable_hub.private == {"me/reviews"}
    repository = writable_hub.repositories["me/reviews@main"]
    model, _ = from_pretrained("me/reviews", "sequence_classification")
    assert model.deberta.config.labels == ("bad", "good")
    text = (repository / "README.md").read_text()
    assert text == (tmp_path / "run/model/README.md").read_text()
    assert 'dj.from_pretrained("me/reviews", "sequence_classification")' in text
    accuracy = read_json(tmp_path / "run/metrics.json")["dev"]["accuracy"]
    held_out = re.search(rf"\| dev \| accuracy \| {accuracy:.4f} \| (\d+) \|", text)[1]
    assert f"| train | {96 - int(held_out)} | reviews.csv: 96 rows, 96 used |" in text
    for path in repository.iterdir():
        content = path.read_bytes()
        assert str(Path(words[words.index("--data") + 1]).parent).encode() not in content
        assert str(tmp_path).encode() not in content

    # An upload that fails loses nothing.
    writable_hub.read_only = True
    assert call("finetune", *words, "--push-to-hub", "me/other") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the upload to me/other on the Hub" in error and "the folder is complete: `deberta-jax upload" in error
    assert json.loads((tmp_path / "run/metrics.json").read_text())


def test_the_token_is_checked_before_training(writable_hub, prepared, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "train_run", lambda *arguments: pytest.fail("trained"))
    writable_hub.role = "read"
    words = [*prepared("single_label").words, "--folder", tmp_path / "run", "--push-to-hub", "me/reviews"]
    assert call("finetune", *words) == 2
    assert "your token can read, but not write" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert call("finetune", *words[:-2], "--public") == 2
    assert "public is set without push_to_hub" in capsys.readouterr().err
    assert call("finetune", *words, "--folds", "3") == 2
    assert "folds and push_to_hub are both set" in capsys.readouterr().err
