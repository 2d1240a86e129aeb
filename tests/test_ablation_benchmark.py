"""The ablation compares models that differ as their names say, and resumes from its results."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import pytest
from toy_tasks import write_toy_task

from deberta_jax.errors import InputError
from deberta_jax.model.masked_lm import MaskedLM

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MODULES = "ablation", "ablation_figure", "ablation_report", "ablation_runs", "ablation_setup", "pretraining_text"
FOLDERS = {
    "cola": "glue/CoLA",
    "rte": "glue/RTE",
    "sst-2": "glue/SST-2",
    "sts-b": "glue/STS-B",
    "squad": "squad",
    "cb": "superglue/CB",
    "copa": "superglue/COPA",
}


@pytest.fixture
def ablation(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import ablation

    return ablation


@pytest.fixture
def data(tmp_path):
    """The folders that the benchmark reads, with a little text and a few rows of each task."""
    folder = tmp_path / "data"
    for name, path in FOLDERS.items():
        write_toy_task(name, folder / path)
    text = "\n\n".join(f"Paragraph {k} has words, and then more words about the number {k}." for k in range(300))
    for name in ("gutenberg/book.txt", "wikitext-2/valid.txt", "wikitext-2/test.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "wikitext-103-part").mkdir()
    (folder / "wikitext-103-part/wiki.train.tokens").write_text(text)
    return folder


def run(ablation, data, folder, *options):
    # The default of JAX, which scripts have: optax mixes dtypes.
    with jax.numpy_dtype_promotion("standard"):
        ablation.main([str(data), str(folder), "--scale", "toy", "--seeds", "1", *options])


def test_each_variant_differs_from_deberta_as_its_name_says(ablation):
    import ablation_setup

    base = ablation_setup.SCALES["small"].config(4000)

    def tree(name):
        variant = ablation_setup.VARIANTS[name]
        config = dataclasses.replace(base, **variant.fields)
        model = jax.eval_shape(
            lambda key: MaskedLM(config, enhanced_mask_decoder=variant.enhanced_mask_decoder, key=key),
            jax.random.key(0),
        )
        return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(model)}

    trees = {name: tree(name) for name in ablation_setup.VARIANTS}
    deberta = trees["DeBERTa"]
    for name, parameters in trees.items():
        has_decoder = any("decoder.position" in path for path in parameters)
        assert has_decoder == ("EMD" not in name and "BERT)" not in name), name
        assert (name == "DeBERTa") == (parameters == deberta), name
        config = dataclasses.replace(base, **ablation_setup.VARIANTS[name].fields)
        expected = {term for term in ("c2p", "p2c") if f"without {term}" not in name and f"and {term}" not in name}
        assert set(config.active_terms) == (set() if "BERT)" in name else expected), name
    assert any("convolution" in path for path in trees["with convolution"])
    assert len(trees["with shared projections"]) < len(deberta)


def test_results_are_written_once_and_reported(ablation, data, tmp_path, monkeypatch, capsys):
    import ablation_figure
    import ablation_setup

    variants = {name: ablation_setup.VARIANTS[name] for name in ("DeBERTa", "without EMD")}
    for module in (ablation, ablation_figure):
        monkeypatch.setattr(module, "VARIANTS", variants)
    monkeypatch.setattr(ablation, "RTD", {name: ablation_setup.RTD[name] for name in ("GDES, joint step",)})
    toy = ablation_setup.SCALES["toy"]
    sizes = {"downstream": {"sst-2": toy.downstream["sst-2"]}, "sift": {"sst-2": toy.sift["sst-2"]}}
    monkeypatch.setitem(ablation_setup.SCALES, "toy", dataclasses.replace(toy, **sizes))
    folder = tmp_path / "run"
    run(ablation, data, folder)
    lines = (folder / "results.jsonl").read_text().splitlines()
    assert len(lines) == 2 + 2 + 1 + 1 + 2
    output = capsys.readouterr().out
    for text in ("## Parts", "## Replaced-token detection", "## Sharing", "## SiFT", "without EMD |", "| SST-2"):
        assert text in output
    assert (folder / "ablation.png").stat().st_size > 1000
    results = [json.loads(line) for line in lines]
    losses = {(line["name"], line["seed"]): line["loss"] for line in results if "loss" in line}
    assert len(set(losses.values())) == len(losses)
    # An interrupted run repeats the missing cell only, with the same result.
    (folder / "results.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    run(ablation, data, folder)
    again = (folder / "results.jsonl").read_text().splitlines()
    assert again[:-1] == lines[:-1]
    assert len(again) == len(lines)
    assert json.loads(again[-1])["score"] == results[-1]["score"]


def test_sift_alone_names_the_missing_experiment(ablation, data, tmp_path):
    with pytest.raises(InputError, match="parts"):
        run(ablation, data, tmp_path / "run", "--experiments", "sift")


def test_noise_is_estimated_from_all_rows(ablation):
    from ablation_report import compare
    from scipy import stats

    values = {"a": [1.0, 2.0, 4.0], "b": [2.0, 2.5, 5.5]}
    comparison = compare(values, "a")["b"]
    assert comparison.difference == pytest.approx(1.0)
    assert comparison.p == pytest.approx(stats.ttest_rel(values["b"], values["a"]).pvalue)
    assert comparison.error == pytest.approx(stats.sem([1.0, 0.5, 1.5]))
    values["c"] = [9.0, 10.0, 12.0]
    compared = compare(values, "a")
    assert compared["c"].exceeds_noise and compared["c"].error == pytest.approx(0)
    assert not compared["a"].exceeds_noise
