"""The benchmark of techniques samples rows, trains every configuration with the same seeds, and pairs them."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def techniques(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delitem(sys.modules, "techniques", raising=False)
    import techniques

    return techniques


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "SST-2"
    folder.mkdir()
    for split, count in (("train", 40), ("dev", 4)):
        rows = [f'text {number} with "a quote\t{number % 2}' for number in range(count)]
        (folder / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *rows, ""]))
    return folder


def test_each_configuration_is_trained_on_the_same_sample_and_the_table_pairs_seeds(
    techniques, data, tmp_path, monkeypatch, capsys
):
    scores = {"plain": [0.80, 0.82], "EMA": [0.81, 0.84], "FGM": [0.80, 0.80]}
    commands = {}

    def finetune(words):
        folder = Path(words[words.index("--folder") + 1])
        folder.mkdir()
        (folder / "seeds.json").write_text(json.dumps([{"accuracy": value} for value in scores[folder.name]]))
        commands[folder.name] = words
        return 0

    monkeypatch.setattr(techniques, "deberta_jax", finetune)
    folder = tmp_path / "runs"
    techniques.main(
        [str(data), "model", str(folder), "--examples", "10", "--seeds", "2", "--only", "EMA", "FGM", "--epochs", "1"]
    )
    sampled = (folder / "data-10/train.tsv").read_text().splitlines()
    assert len(sampled) == len(set(sampled)) == 11
    assert set(sampled) <= set((data / "train.tsv").read_text().splitlines())
    assert list(commands) == list(scores)
    assert commands["EMA"][-4:] == ["--ema", "0.999", "--epochs", "1"]
    assert all("--seeds 2 --evaluate-every" in " ".join(words) for words in commands.values())
    lines = capsys.readouterr().out.splitlines()[2:]
    assert lines == [
        "| plain | 81.00 | 1.41 | – | – |",
        "| EMA | 82.50 | 2.12 | +1.50 | 0.71 |",
        "| FGM | 80.00 | 0.00 | -1.00 | 1.41 |",
    ]
    with pytest.raises(SystemExit, match="has 40 rows, fewer than --examples 50"):
        techniques.sample(data, tmp_path / "more", 50)
