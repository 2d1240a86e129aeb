"""Random search over published values: what is drawn, how a search resumes, and how its results are shown."""

import itertools
import json
import math
import random

import pytest
from toy_runs import CONFIG, call, read_json, read_lines, weights

from deberta_jax.cli import finetune_runs
from deberta_jax.errors import DivergenceError, InputError, StopRequested
from deberta_jax.finetuning import run as run_module
from deberta_jax.finetuning.best_model import best_run
from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.finetuning.published import DEFAULT_VALUES, GRIDS, PUBLISHED
from deberta_jax.finetuning.recipes import Selection, recipe
from deberta_jax.finetuning.search import RECORD, Trial, search
from deberta_jax.finetuning.search_options import SEARCHED, option_word, parse_search
from deberta_jax.finetuning.search_report import plot_search, ranked, search_table, summary_lines
from deberta_jax.finetuning.search_space import draw_trials, options_of, published_values, search_values, with_options

ALL = ("rate,epochs,layer-decay,batch-size,warmup,dropout",)


def test_names_are_separated_by_commas_or_spaces_and_may_have_values():
    assert parse_search(("rate", "epochs,layer-decay")) == {"rate": (), "epochs": (), "layer-decay": ()}
    assert parse_search(("rate=1e-5,2e-5,1e-5", "epochs")) == {"rate": (1e-5, 2e-5), "epochs": ()}
    assert parse_search(()) == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("rates",),
            "search: no option 'rates'; the options are rate, epochs, layer-decay, batch-size, warmup, dropout",
        ),
        (("rate,,epochs",), "search: no option ''"),
        (("rate", "rate=1"), "search: rate is given twice"),
        (("rate=fast",), "search: rate cannot be 'fast'; each value must be above 0"),
        (("rate=",), "search: rate cannot be ''"),
        (("epochs=0",), "search: epochs cannot be '0'"),
        (("batch-size=1.5",), "search: batch-size cannot be '1.5'; each value must be a whole number from 1"),
        (("dropout=1",), "search: dropout cannot be '1'; each value must be at least 0 and below 1"),
        (("layer-decay=nan",), "search: layer-decay cannot be 'nan'"),
    ],
)
def test_other_names_and_values_are_one_line(words, message):
    with pytest.raises(InputError, match=message):
        FinetuneConfig(search=words)


def test_a_search_and_seeds_exclude_each_other_and_a_search_has_a_trial():
    with pytest.raises(InputError, match="search and seeds are both set"):
        FinetuneConfig(search=("rate",), seeds=2)
    with pytest.raises(InputError, match="search and folds are both set"):
        FinetuneConfig(search=("rate",), folds=5)
    with pytest.raises(InputError, match="trials is 0; it must be at least 1"):
        FinetuneConfig(search=("rate",), trials=0)


def test_every_value_was_published_for_the_model_or_the_task():
    rates = published_values("rate", "rte", "microsoft/deberta-v3-large")
    assert set(rates) == {rows["v3-large"].learning_rate for rows in PUBLISHED.values() if "v3-large" in rows}
    rows = PUBLISHED["copa"].values()
    assert (
        published_values("epochs", "copa", "") == (3.0, 4.0, 8.0) == tuple(sorted({float(row.epochs) for row in rows}))
    )
    # Without settings of the task: the grid of the paper, or values of other tasks.
    assert published_values("rate", "boolq", "microsoft/deberta-v2-xxlarge") == GRIDS["v2-xxlarge"].learning_rates
    for name in ("epochs", "batch-size", "warmup", "dropout"):
        assert published_values(name, "generic", "") == DEFAULT_VALUES[name]
        field = SEARCHED[name].field[-1]
        for value in DEFAULT_VALUES[name]:
            tasks = [
                task for task, rows in PUBLISHED.items() if any(getattr(row, field) == value for row in rows.values())
            ]
            assert len(tasks) > 1


@pytest.mark.parametrize("task", ["generic", "rte", "copa", "squad", "ner"])
@pytest.mark.parametrize("model", ["", "microsoft/deberta-v3-small", "mini", "v2-xxlarge"])
def test_every_option_has_several_values_for_every_task_and_model(task, model):
    for values in search_values(task, model, ALL).values():
        assert len(values) > 1
        assert list(values) == sorted(set(values))


def test_the_help_states_the_values_for_a_table(capsys):
    assert call("finetune", "generic", "--help") == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, values in DEFAULT_VALUES.items():
        assert f"{name} {','.join(f'{value:g}' for value in values)}" in text


def test_options_are_read_from_a_run_and_written_to_it():
    config = recipe("rte", Selection("microsoft/deberta-v3-large"))
    options = options_of(config, search_values("rte", "", ALL))
    assert options == {
        "rate": 1e-5, "epochs": 6.0, "layer-decay": 1.0, "batch-size": 32, "warmup": 50.0, "dropout": 0.3
    }  # fmt: skip
    other = {"rate": 3e-5, "epochs": 2.0, "layer-decay": 0.9, "batch-size": 16.0, "warmup": 0.1, "dropout": 0.0}
    changed = with_options(config, other)
    assert options_of(changed, other) == other
    assert isinstance(changed.batch_size, int)
    assert changed.optimizer.weight_decay == config.optimizer.weight_decay
    assert with_options(config, options) == config


def drawn(values, trials, seed=0, effective=lambda options: tuple(options.values()), first=None):
    return draw_trials(first or {"a": 0.0, "b": 0.0}, values, trials, seed, effective)


def test_trials_are_distinct_random_combinations_and_more_of_them_have_the_same_first_ones():
    values = {"a": tuple(map(float, range(5))), "b": tuple(map(float, range(7)))}
    trials = drawn(values, 100)
    assert len(trials) == 35 == len({tuple(trial.values()) for trial in trials})
    assert {tuple(trial.values()) for trial in trials} == set(itertools.product(*values.values()))
    assert drawn(values, 12) == trials[:12]
    assert trials[0] == {"a": 0.0, "b": 0.0}
    assert drawn(values, 12, seed=1) != trials[:12]


def test_every_combination_is_as_likely_as_any_other_to_be_drawn_first():
    values = {"a": (1.0, 2.0), "b": (1.0, 2.0, 3.0)}
    counts = dict.fromkeys(itertools.product(*values.values()), 0)
    for seed in range(600):
        counts[tuple(drawn(values, 2, seed)[1].values())] += 1
    assert min(counts.values()) > 60 and max(counts.values()) < 140


def test_combinations_with_the_same_effect_are_drawn_once():
    values = {"a": (1.0, 2.0, 3.0), "b": (1.0, 2.0)}
    trials = drawn(values, 10, effective=lambda options: options["a"])
    assert [trial["a"] for trial in trials[:1]] == [0.0] and len(trials) == 4


def test_a_space_of_any_size_is_drawn_from():
    values = {name: tuple(map(float, range(1000))) for name in "abcdef"}
    assert len(drawn(values, 20, first=dict.fromkeys("abcdef", -1.0))) == 20


def test_the_best_of_equal_runs_is_the_first_and_missing_numbers_are_the_worst():
    runs = [{}, {"f1": math.nan}, {"f1": 0.5}, {"f1": 0.7}, {"f1": 0.7}]
    assert best_run(runs, "f1") == 3
    assert best_run(runs[:3], "f1") == 2
    assert best_run(runs[:2], "f1") == 0
    errors = [{}, {"rmse": math.nan}, {"rmse": 0.7}, {"rmse": 0.5}, {"rmse": 0.5}]
    assert best_run(errors, "rmse") == 3


class Counted:
    """A stub of training: the metric depends on the options; counts its calls."""

    def __init__(self, stop_at=None, diverging=()):
        self.calls, self._stop_at, self._diverging = [], stop_at, diverging

    def __call__(self, config, folder, training):
        if len(self.calls) == self._stop_at:
            raise StopRequested(15, 7)
        self.calls.append(folder.name)
        (folder / "checkpoints").mkdir(parents=True)
        if folder.name in self._diverging:
            raise DivergenceError("step 3: loss nan")
        return {"f1": config.optimizer.learning_rate * config.epochs, "loss": math.nan}


def toy_search(folder, train, trials=6, words=("rate=1e-2,1e-3,1e-4", "epochs=1,2,3"), **options):
    config = FinetuneConfig(task="generic", folder=folder, search=words, trials=trials, batch_size=8, **options)
    return search(config, 20, config.settings(), train)


def test_a_search_resumes_where_it_stopped_and_can_be_extended(tmp_path):
    whole = Counted()
    expected = toy_search(tmp_path / "whole", whole)
    stopped = Counted(stop_at=3)
    with pytest.raises(StopRequested):
        toy_search(tmp_path / "run", stopped)
    assert len((tmp_path / "run" / RECORD).read_text().splitlines()) == 3
    rest = Counted()
    assert str(toy_search(tmp_path / "run", rest)) == str(expected)
    assert stopped.calls + rest.calls == whole.calls == [f"trial-{number}" for number in range(6)]
    assert (tmp_path / "run" / RECORD).read_text() == (tmp_path / "whole" / RECORD).read_text()
    more = Counted()
    assert str(toy_search(tmp_path / "run", more, trials=8)[:6]) == str(expected)
    assert more.calls == ["trial-6", "trial-7"]
    # Fewer trials keep the record of the others.
    assert len(toy_search(tmp_path / "run", Counted(stop_at=0), trials=2)) == 2
    assert len((tmp_path / "run" / RECORD).read_text().splitlines()) == 8


def test_another_search_in_the_folder_is_refused(tmp_path):
    toy_search(tmp_path / "run", Counted())
    for change in ({"words": ("rate=1e-2,1e-3",)}, {"seed": 1}):
        with pytest.raises(InputError, match="contains a run with other settings: .*(search|seed)"):
            toy_search(tmp_path / "run", Counted(), **change)


def test_a_trial_that_diverges_has_no_result_and_the_search_continues(tmp_path, capsys):
    trials = toy_search(tmp_path / "run", Counted(diverging=("trial-0", "trial-2")))
    assert [trial.number for trial in trials if not trial.metrics] == [0, 2]
    assert "trial 2 has no result: step 3: loss nan" in capsys.readouterr().out
    assert [row[-1] for row in search_table(trials, "f1").rows][-2:] == ["diverged"] * 2
    assert "best: trial" in summary_lines(trials, "f1")[-2]
    plot_search(trials, "f1", tmp_path / "plot.png", title="toy")
    again = Counted()
    assert str(toy_search(tmp_path / "run", again)) == str(trials)
    assert not again.calls
    with pytest.raises(InputError, match="no trial of .* has a finite loss; try lower learning rates"):
        toy_search(tmp_path / "none", Counted(diverging=[f"trial-{number}" for number in range(6)]))


def test_checkpoints_of_finished_trials_are_removed_and_a_damaged_record_is_named(tmp_path):
    toy_search(tmp_path, Counted())
    assert not list(tmp_path.glob("trial-*/checkpoints"))
    path = tmp_path / RECORD
    path.write_text(path.read_text().replace('"trial": 1', '"trail": 1'))
    with pytest.raises(InputError, match=r"trials\.jsonl line 2: damaged; delete the line"):
        toy_search(tmp_path, Counted())


def test_a_batch_size_that_does_not_fit_the_devices_is_refused_before_the_first_trial(tmp_path):
    train = Counted()
    with pytest.raises(InputError, match="batch_size is 13; it must be a multiple of 2"):
        toy_search(tmp_path / "run", train, words=("batch-size=8,13,16",))
    assert not train.calls and not (tmp_path / "run").exists()


def test_the_table_has_the_best_trial_first_and_the_plot_every_option(tmp_path):
    generator = random.Random(0)
    options = [
        {"rate": generator.choice((1e-5, 2e-5, 3e-5)), "epochs": generator.choice((3.0, 4.0)), "dropout": None}
        for _ in range(7)
    ]
    trials = [Trial(number, each, 10, {"f1": generator.random()}) for number, each in enumerate(options)]
    values = [float(row[-1]) for row in search_table(trials, "f1").rows]
    assert values == sorted(values, reverse=True) and len(values) == 7
    best = ranked(trials, "f1")[0]
    lines = summary_lines(trials, "f1")
    assert lines[0].split() == ["trial", "rate", "epochs", "dropout", "f1"]
    assert f"best: trial {best.number}, f1 {best.metrics['f1']:.4f} (options as given: " in lines[-2]
    assert f"{option_word('rate')} {best.options['rate']:g} --epochs {best.options['epochs']:g}" in lines[-2]
    assert "optimistic" in lines[-1]
    assert plot_search(trials, "f1", tmp_path / "search.png", title="reviews.csv").stat().st_size > 10_000


TOY = ("--epochs", "1", "--search", "rate=2e-2,1e-3", "--trials", "2", "--checkpoint-every", "2")


def test_a_search_keeps_its_best_model_and_an_interrupted_trial_resumes_bit_for_bit(
    prepared, tmp_path, capsys, monkeypatch
):
    words = [*prepared("single_label").words, *TOY]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert call("finetune", *words, "--folder", whole) == 0
    output = capsys.readouterr().out
    assert "trial 1 (2 of 2): rate 0.001" in output and "best: trial" in output and "optimistic" in output
    lines = [json.loads(line) for line in (whole / RECORD).read_text().splitlines()]
    best = max(lines, key=lambda line: line["metrics"]["accuracy"])["trial"]
    assert weights(whole) == weights(whole / f"trial-{best}")
    assert read_json(whole / "trial-1/config.json")["optimizer"]["learning_rate"] == 1e-3
    assert read_json(whole / "metrics.json")["dev"]["accuracy"] == pytest.approx(lines[best]["metrics"]["accuracy"])
    report = (whole / "report.html").read_text()
    assert "<h2>Search</h2>" in report and "optimistic" in report
    assert (whole / "search.png").exists()
    assert "The best trial of a random search over rate." in (whole / "model/README.md").read_text()

    # A stop in the second trial, after a checkpoint; a trial has six batches.
    original, batches_read = run_module.Batches.__next__, itertools.count()

    def interrupted(batches):
        if next(batches_read) == 9:
            raise StopRequested(15, 3)
        return original(batches)

    monkeypatch.setattr(run_module.Batches, "__next__", interrupted)
    assert call("finetune", *words, "--folder", stopped) == 0
    assert len((stopped / RECORD).read_text().splitlines()) == 1
    assert list((stopped / "trial-1/checkpoints").iterdir())
    monkeypatch.undo()
    assert call("finetune", *words, "--folder", stopped) == 0
    assert (stopped / RECORD).read_text() == (whole / RECORD).read_text()
    for number in range(2):
        assert weights(stopped / f"trial-{number}") == weights(whole / f"trial-{number}")
        assert read_lines(stopped / f"trial-{number}", "train") == read_lines(whole / f"trial-{number}", "train")


def test_a_trial_trains_a_model_with_its_dropout(prepared, tmp_path, monkeypatch):
    dropouts = []

    def train(config, inputs, objective, folder, training, settings):
        dropouts.append((config.head_dropout, inputs.model.config.cls_dropout, settings["head_dropout"]))
        raise DivergenceError("step 1: loss nan")

    monkeypatch.setattr(finetune_runs, "train_run", train)
    words = ("--search", "dropout=0.3,0.4", "--trials", "3", "--folder", tmp_path / "run")
    assert call("finetune", *prepared("single_label").words, *words) == 2
    assert dropouts[0] == (None, CONFIG.cls_dropout, None)
    assert {dropout[0] for dropout in dropouts[1:]} == {0.3, 0.4}
    assert all(len(set(dropout)) == 1 for dropout in dropouts[1:])
