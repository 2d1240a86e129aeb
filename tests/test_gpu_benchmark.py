"""The GPU benchmark times the implementation that it names."""

import sys
from pathlib import Path

import jax
import pytest

from deberta_jax.errors import InputError
from deberta_jax.ops.attention import IMPLEMENTATIONS, xla

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def programs(monkeypatch):
    """The training steps of the benchmark in tiny sizes."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in ("gpu_models", "replaced_tokens", "steps"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import gpu_models

    return list(gpu_models.training_programs("tiny", "tiny", is_gpu=False))


def test_a_training_step_has_the_attention_of_its_name(programs, monkeypatch, unchecked_shapes):
    traced = []

    def recorded(*arguments, **options):
        traced.append(options)
        return xla(*arguments, **options)

    monkeypatch.setitem(IMPLEMENTATIONS, "xla_per_head", recorded)
    for program in programs:
        with pytest.raises(InputError, match="attention is 'missing'"):
            program.prepare(2, "missing")
        method = program.make_method(2, program.remat, "xla_per_head")
        model = jax.eval_shape(method.build, jax.random.key(0))
        assert {x.encoder.layers.attention.attention for x in _encoders(model)} == {"xla_per_head"}
    jax.eval_shape(lambda model, ids: _encoders(model)[0](ids).last_hidden_state, model, jax.numpy.ones((1, 8), int))
    assert traced


def _encoders(model):
    parts = (model.generator, model.discriminator) if hasattr(model, "generator") else (model,)
    return [part.deberta for part in parts]
