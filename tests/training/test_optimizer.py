"""The optimizers against trajectories of Microsoft's implementation (golden h01), and properties of the default."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deberta_jax.errors import InputError
from deberta_jax.training.config import OptimizerConfig
from deberta_jax.training.optimizer import is_decayed, learning_rate, make_optimizer

GOLDEN = Path(__file__).parents[1] / "golden" / "h01_optimizer"
SETTINGS = json.loads((GOLDEN / "settings.json").read_text())["settings"]
STEPS = 50
# `is_decayed` knows the scale of a layer norm by the name `scale`.
OUR_NAMES = {"deberta.embeddings.LayerNorm.weight": "deberta.embeddings.LayerNorm.scale"}


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN / "inputs.npz")), dict(np.load(GOLDEN / "outputs.npz"))


def config_of(settings: dict) -> OptimizerConfig:
    kind = (
        "radam"
        if settings["with_radam"]
        else {"adam": "microsoft_adam"}.get(settings["opt_type"], settings["opt_type"])
    )
    return OptimizerConfig(
        name=kind,
        learning_rate=float(settings["learning_rate"]),
        schedule=settings["lr_schedule"],
        warmup=float(settings["warmup_proportion"]),
        final_scale=settings["lr_schedule_ends"],
        weight_decay=settings["weight_decay"],
        beta1=settings["adam_beta1"],
        beta2=settings["adam_beta2"],
        epsilon=settings["epsilon"],
        clip_norm=settings["max_grad_norm"],
        lookahead=max(settings["lookahead_k"], 0),
    )


@pytest.mark.parametrize("variant", SETTINGS)
def test_the_originals_optimizers_reproduce_its_trajectories(variant, golden):
    inputs, outputs = golden
    settings = SETTINGS[variant]

    def group(name):
        arrays = {key.removeprefix(name): jnp.asarray(value) for key, value in inputs.items() if key.startswith(name)}
        return {OUR_NAMES.get(key, key): value for key, value in arrays.items()}

    params, target, curvature = group("init."), group("target."), group("curvature.")
    optimizer = make_optimizer(config_of(settings), STEPS)

    def loss(params):
        terms = jax.tree.map(lambda p, t, c: jnp.sum(0.5 * c * (p - t) ** 2), params, target, curvature)
        return settings["scale"] * sum(jax.tree.leaves(terms))

    def update(carry, _):
        params, state = carry
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, value, optax.tree.norm(gradients))

    run = jax.jit(lambda params: jax.lax.scan(update, (params, optimizer.init(params)), length=STEPS)[1])
    trajectory, losses, norms = run(params)
    np.testing.assert_allclose(losses, outputs[f"{variant}.loss"], rtol=1e-5)
    np.testing.assert_allclose(norms, outputs[f"{variant}.grad_norm"], rtol=1e-5)
    for name in (key.removeprefix("init.") for key in inputs if key.startswith("init.")):
        expected = outputs[f"{variant}.param.{name}"][1:]
        # Rounding errors grow along a trajectory: float64 differs by 3e-5, where one update is up to 0.05.
        np.testing.assert_allclose(trajectory[OUR_NAMES.get(name, name)], expected, atol=4e-5, err_msg=name)


def test_the_originals_schedules_are_reproduced_beyond_their_end(golden):
    _, outputs = golden
    names = [name for name in outputs if name.startswith("schedule.")]
    assert len(names) == 18
    for name in names:
        schedule, total, warmup, ends = re.fullmatch(
            r"schedule\.(\w+)\.total(\d+)_warmup([\d.]+)_ends([\d.]+)", name
        ).groups()
        config = OptimizerConfig(learning_rate=1.0, schedule=schedule, warmup=float(warmup), final_scale=float(ends))
        expected = outputs[name]
        scale = jax.jit(jax.vmap(learning_rate(config, int(total))))(jnp.arange(len(expected)))
        # Exactly at the end of a second warm-up, rounding decides in the original.
        x = np.arange(len(expected)) / int(total)
        clear = (x < 1) | (np.abs(x % 1 - float(warmup)) > 1e-9)
        np.testing.assert_allclose(scale[clear], expected[clear], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_default_schedules_are_continuous_and_never_zero(schedule):
    config = OptimizerConfig(learning_rate=1.0, schedule=schedule, warmup=10.0, final_scale=0.1)
    scale = np.asarray(jax.vmap(learning_rate(config, 100))(jnp.arange(120)))
    np.testing.assert_allclose(scale[:10], np.arange(1, 11) / 10, rtol=1e-6)
    assert scale.min() > 0 and scale.max() == 1
    assert np.abs(np.diff(scale)).max() < 0.11
    assert np.all(np.diff(scale[10:]) <= 0)
    np.testing.assert_allclose(scale[100:], 1.0 if schedule == "constant" else 0.1, rtol=1e-6)


def test_the_default_is_adamw_with_bias_correction():
    params = {"kernel": jnp.float32([1.0, -2.0]), "bias": jnp.float32([0.5, 0.5])}
    gradients = {"kernel": jnp.float32([0.3, -0.1]), "bias": jnp.float32([0.2, -0.4])}
    config = OptimizerConfig(learning_rate=0.1, schedule="constant", warmup=0.0, weight_decay=0.5, clip_norm=0.0)
    optimizer = make_optimizer(config, 10)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    # With bias correction the first step has the size of the learning rate, for any gradient.
    np.testing.assert_allclose(updates["bias"], [-0.1, 0.1], rtol=1e-4)
    np.testing.assert_allclose(updates["kernel"], [-0.1 - 0.05, 0.1 + 0.1], rtol=1e-4)


def test_only_biases_and_layer_norm_scales_do_not_decay():
    tree = {
        "word": {"embedding": 1, "norm": {"scale": 1, "bias": 1}},
        "encoder": {"query": {"kernel": 1, "bias": 1, "q_bias": 1}, "relative": {"embedding": 1}},
        "head": {"output_bias": 1},
    }
    decayed = jax.tree_util.tree_leaves_with_path(is_decayed(tree))
    assert {jax.tree_util.keystr(path, simple=True, separator=".") for path, decays in decayed if decays} == {
        "word.embedding",
        "encoder.query.kernel",
        "encoder.relative.embedding",
    }


def test_options_out_of_range_are_refused():
    with pytest.raises(InputError, match="learning_rate is -1"):
        OptimizerConfig(learning_rate=-1.0)
    with pytest.raises(InputError, match="beta2 is 1"):
        OptimizerConfig(beta2=1.0)
    with pytest.raises(InputError, match="warmup is 200 steps, but the run has only 100"):
        learning_rate(OptimizerConfig(warmup=200.0), 100)


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_updates_of_lower_layers_are_scaled_down_layer_by_layer(decay):
    class_of = {
        "classifier": 0,
        "deberta.encoder.convolution": 3,
        "deberta.embeddings": 4,
        "deberta.encoder.relative": 4,
    }
    L = 3
    model = {
        "deberta": {
            "embeddings": {"word": {"embedding": jnp.ones((4, 2))}},
            "encoder": {
                "layers": {"up": {"kernel": jnp.ones((L, 2, 2)), "bias": jnp.ones((L, 2))}},
                "relative": {"embedding": jnp.ones((4, 2))},
                "convolution": {"kernel": jnp.ones((3, 2))},
            },
        },
        "classifier": {"kernel": jnp.ones((2, 3))},
    }
    gradient = jax.tree.map(jnp.ones_like, model)

    def updates(config):
        optimizer = make_optimizer(config, 10)
        return optimizer.update(gradient, optimizer.init(model), model)[0]

    base = OptimizerConfig(learning_rate=1.0, warmup=0.0, clip_norm=0.0, weight_decay=0.0)
    plain, scaled = updates(base), updates(dataclasses.replace(base, layer_decay=decay))
    ratio = jax.tree.map(lambda a, b: np.asarray(a / b), scaled, plain)
    for layer in range(L):
        for name in ("kernel", "bias"):
            assert ratio["deberta"]["encoder"]["layers"]["up"][name][layer] == pytest.approx(decay ** (L - layer))
    for name, depth in class_of.items():
        part = ratio
        for step in name.split("."):
            part = part[step]
        for leaf in jax.tree.leaves(part):
            assert leaf == pytest.approx(decay**depth), name


def test_layer_decay_needs_encoder_layers_and_a_positive_factor():
    model = {"classifier": {"kernel": jnp.ones((2, 3))}}
    optimizer = make_optimizer(OptimizerConfig(layer_decay=0.9), 10)
    state = optimizer.init(model)
    with pytest.raises(InputError, match="the model has no encoder layers"):
        optimizer.update(model, state, model)
    with pytest.raises(InputError, match=r"optimizer.layer_decay is 0.0; it must be in \(0, 1\]"):
        OptimizerConfig(layer_decay=0.0)


def test_wsd_is_stable_until_its_decay_which_ends_at_the_final_rate():
    config = OptimizerConfig(schedule="wsd", learning_rate=2.0, warmup=4.0, decay_steps=10.0, final_scale=0.1)
    rates = np.array([float(learning_rate(config, 50)(step)) for step in range(55)])
    np.testing.assert_allclose(rates[:5], [0.5, 1.0, 1.5, 2.0, 2.0])
    np.testing.assert_array_equal(rates[4:41], 2.0)
    progress = np.arange(1, 11) / 10
    np.testing.assert_allclose(rates[41:51], 2 * (1 - 0.9 * np.sqrt(progress)), rtol=1e-6)
    np.testing.assert_allclose(rates[50:], 0.2, rtol=1e-6)


def test_the_stable_phase_of_wsd_does_not_depend_on_the_end_of_the_run():
    short, long, endless = (
        learning_rate(OptimizerConfig(schedule="wsd", warmup=5.0, decay_steps=decay), steps)
        for steps, decay in ((40, 10.0), (400, 0.1), (60, 0.0))
    )
    for step in range(30):
        assert float(short(step)) == float(long(step)) == float(endless(step))
    assert float(endless(59)) == float(endless(30)) > float(short(31))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "linear", "decay_steps": 5.0}, "add --optimizer.schedule wsd"),
        ({"schedule": "wsd", "decay_steps": -1.0}, "decay_steps is -1.0; it must be at least 0"),
        ({"schedule": "wsd", "decay_steps": 8.0, "warmup": 3.0}, "but the run has only 10"),
    ],
)
def test_a_decay_that_does_not_fit_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        learning_rate(OptimizerConfig(**options), 10)
