"""Techniques on the command line: they combine, the state of the average is saved, and a finished run is kept."""

from toy_runs import call, read_json, weights

from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.finetuning.techniques import Techniques
from deberta_jax.training.checkpoint import Checkpointer


def checkpointed(run):
    """The names of the arrays in the latest checkpoint of a run."""
    checkpointer = Checkpointer(run / "checkpoints", read_only=True)
    names = set(checkpointer.shapes())
    checkpointer.close()
    return names


def test_techniques_for_several_labels_are_combined_and_a_separable_data_set_is_learned(prepared, tmp_path, capsys):
    _, separable, words = prepared("multi_label")
    run = tmp_path / "run"
    options = ("--ema", "0.9", "--focal", "1", "--dropout-samples", "2", "--fgm.epsilon", "0.01")
    training = ("--epochs", "9", "--optimizer.learning-rate", "1e-2")
    words = [*words, *options, "--class-weights", "balanced", *training, "--folder", run]
    assert call("finetune", *words) == 0
    assert read_json(run / "metrics.json")["dev"][separable.metric] >= separable.score
    techniques = read_json(run / "config.json")["techniques"]
    assert (techniques["ema"], techniques["focal"], techniques["fgm"]) == (0.9, 1.0, {"epsilon": 0.01})
    assert "average.classifier.kernel.value" in checkpointed(run)
    before = weights(run)
    assert call("finetune", *words) == 0
    assert weights(run) == before
    capsys.readouterr()
    assert call("finetune", *words, "--ema", "0.99") == 2
    assert "techniques.ema (0.9 in the folder, 0.99 now)" in capsys.readouterr().err


def test_adapters_are_averaged_and_trained_at_perturbed_weights(prepared, tmp_path):
    _, _, words = prepared("single_label")
    run = tmp_path / "run"
    options = ("--ema", "0.9", "--awp.learning-rate", "0.01", "--awp.start", "0.5", "--lora.rank", "2")
    assert call("finetune", *words, *options, "--epochs", "1", "--evaluate-every", "100", "--folder", run) == 0
    averaged = {name for name in checkpointed(run) if name.startswith("average.")}
    assert "average.base.classifier.kernel.value" in averaged and "average.adapters.0.up.value" in averaged
    assert not any(name.startswith("average.base.deberta.") for name in averaged)


def test_runs_without_techniques_have_no_settings_of_them():
    assert "techniques" not in FinetuneConfig().settings()
    assert FinetuneConfig(techniques=Techniques(ema=0.9)).settings()["techniques"]["ema"] == 0.9


def test_help_lists_the_options_and_two_adversaries_are_one_line(capsys):
    assert call("finetune", "generic", "--help") == 0
    output = capsys.readouterr().out
    for option in ("--ema", "--focal", "--dropout-samples", "--fgm.epsilon", "--awp.learning-rate", "--awp.start"):
        assert f"{option} " in output
    assert call("finetune", "generic", "--fgm.epsilon", "1", "--awp.learning-rate", "1e-3") == 2
    error = capsys.readouterr().err
    assert "--fgm.epsilon and --awp.learning-rate are set; use one kind of adversarial training" in error
    assert len(error.splitlines()) == 1
