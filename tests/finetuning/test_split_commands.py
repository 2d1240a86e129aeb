"""`finetune` on tables without a dev set, and with test sets without labels."""

import csv
import json
import random
import statistics

import pytest
from separable import KEYWORDS, filled
from toy_runs import call, read_json, read_lines, weights

OPTIONS = ("--max-length", "16", "--epochs", "2", "--batch-size", "16", "--optimizer.learning-rate", "2e-2")


@pytest.fixture
def folder(tmp_path):
    """A folder with train.csv, where one label has one example, and test.csv without labels."""
    rng = random.Random(0)

    def write(name, count, *more):
        with (tmp_path / name).open("w", newline="") as file:
            table = csv.writer(file)
            labelled = name != "test.csv"
            table.writerow(("id", "text", *(("label",) if labelled else ())))
            for number in range(count):
                label = ("no", "ok")[number % 2]
                text = f"{filled(rng, KEYWORDS[number % 2])} {number}"
                table.writerow((f"r{number}", text, *((label,) if labelled else ())))
            table.writerows(more)

    write("train.csv", 60, ("last", "there is it", "closing"))
    write("test.csv", 4)
    return tmp_path


def test_a_folder_without_a_dev_set_is_split_and_its_test_set_is_predicted_in_its_layout(pretrained, folder, capsys):
    words = ("finetune", "generic", "--data", folder, "--model", pretrained, "--columns.id", "id", *OPTIONS)
    assert call(*words, "--folder", folder / "run", "--metric", "log-loss") == 0
    output = capsys.readouterr().out
    assert "held out 6 of 61 examples as dev (stratified by label, seed 0)\n" in output
    assert "1 label has only one example, which stays in training: closing\n" in output
    assert "test: 4 examples predicted (no labels)" in output
    with (folder / "run/predictions/test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["id", "text", "prediction", "probability_closing", "probability_no", "probability_ok"]
    assert list(rows[0]) == names
    assert [row["id"] for row in rows] == ["r0", "r1", "r2", "r3"]
    for row in rows:
        shares = {name.partition("_")[2]: float(row[name]) for name in names[3:]}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert row["prediction"] == max(shares, key=shares.__getitem__)
    # The best model is that with the lowest loss.
    summary, run = read_json(folder / "run/summary.json")["dev"], folder / "run"
    losses = [line["log_loss"] for line in read_lines(run, "held_out")]
    assert (summary["metric"], summary["examples"]) == ("log_loss", 6)
    assert summary["value"] == pytest.approx(min(losses), rel=1e-5)
    assert summary["confidence_interval"][0] <= summary["value"] <= summary["confidence_interval"][1]
    assert summary["baseline"]["name"] in ("always 'no'", "always 'ok'")
    assert f"dev: log_loss {min(losses):.4f}, 95 % confidence interval" in output
    assert f"<title>{folder.name}</title>" in (run / "report.html").read_text()


def test_folds_predict_each_example_once_and_their_ensemble_predicts_the_test_set(pretrained, folder, capsys):
    (folder / "train.csv").write_text("".join((folder / "train.csv").read_text().splitlines(keepends=True)[:-1]))
    run = folder / "run"
    words = ("finetune", "generic", "--data", folder, "--model", pretrained, "--columns.id", "id", *OPTIONS)
    words = (*words, "--folder", run, "--folds", "2", "--epochs", "1")
    assert call(*words) == 0
    output = capsys.readouterr().out
    lines = [json.loads(line) for line in (run / "predictions/out_of_fold.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"r{number}" for number in range(60)]
    assert sorted(line["fold"] for line in lines) == [0] * 30 + [1] * 30
    metrics = read_json(run / "metrics.json")
    assert metrics.keys() == {"out_of_fold"}
    correct = [line["prediction"] == line["answer"] for line in lines]
    assert metrics["out_of_fold"]["accuracy"] == statistics.fmean(correct)
    folds = read_json(run / "folds.json")
    for fold, scores in enumerate(folds):
        assert scores["accuracy"] == statistics.fmean(
            c for c, line in zip(correct, lines, strict=True) if line["fold"] == fold
        )
    values = [scores["accuracy"] for scores in folds]
    expected = (
        f"2 folds: accuracy mean {statistics.fmean(values):.4f}, standard deviation {statistics.pstdev(values):.4f}"
    )
    assert expected in output
    assert "<h2>Folds</h2>" in (run / "report.html").read_text()
    with (run / "predictions/test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    shares = {}
    for fold in (0, 1):
        data = (
            "--data",
            folder / "test.csv",
            "--model",
            run / f"fold-{fold}/model",
            "--folder",
            folder / f"only-{fold}",
        )
        assert call("evaluate", "generic", *data, "--max-length", "16") == 0
        with (folder / f"only-{fold}/predictions/test.csv").open(newline="") as file:
            shares[fold] = [float(row["probability_ok"]) for row in csv.DictReader(file)]
    for number, row in enumerate(rows):
        assert float(row["probability_ok"]) == pytest.approx((shares[0][number] + shares[1][number]) / 2, abs=2e-6)
    # The same command again trains nothing, and predicts the same.
    before = [weights(run / f"fold-{fold}") for fold in (0, 1)], (run / "predictions/out_of_fold.jsonl").read_text()
    assert call(*words) == 0
    assert ([weights(run / f"fold-{k}") for k in (0, 1)], (run / "predictions/out_of_fold.jsonl").read_text()) == before
