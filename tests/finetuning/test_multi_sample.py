"""Multi-sample dropout: the mean of losses under several masks of the head, with one pass of the encoder."""

import jax
import numpy as np
import pytest
from task_batches import batch_for, build_for
from toy_training import RELATIVE

from deberta_jax.errors import InputError
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.multi_sample import multi_sample
from deberta_jax.finetuning.objectives import plain_objective
from deberta_jax.finetuning.techniques import Techniques
from deberta_jax.training.flops import count_flops

SAMPLES = 3


def sampled(kind):
    return multi_sample(KINDS[kind], KINDS[kind].objective, SAMPLES)


@pytest.mark.parametrize("kind", ["single_label", "multiple_choice"])
def test_the_loss_is_the_mean_over_masks_of_the_head_on_the_same_states(kind):
    batch, key, plain = batch_for(kind), jax.random.key(1), KINDS[kind].objective
    model = jax.jit(build_for(kind))(jax.random.key(0))
    tokens = {name: batch[name].reshape(-1, batch[name].shape[-1]) for name in ("input_ids", "attention_mask")}
    types = batch["token_type_ids"].reshape(tokens["input_ids"].shape)

    @jax.jit
    def by_hand(model):
        encoder_key, *keys = jax.random.split(key, SAMPLES + 1)
        states = model.deberta(**tokens, token_type_ids=types, key=encoder_key).last_hidden_state
        logits = [model.head(states, key=jax.random.split(k)[1]) for k in keys]
        if kind == "multiple_choice":
            logits = [values.reshape(batch["input_ids"].shape[:2]) for values in logits]
        else:
            logits = [values.logits for values in logits]
        losses = [plain.sums(values, batch) for values in logits]
        return sum(sums.loss for sums in losses) / SAMPLES, losses[0].weight, logits

    sums = jax.jit(lambda model: plain_objective(sampled(kind))(model, batch, key))(model)
    loss, weight, logits = by_hand(model)
    assert float(sums.loss) == pytest.approx(float(loss), rel=1e-5)
    assert sums.weight == weight
    assert np.abs(np.asarray(logits[0] - logits[1])).max() > 0
    mean = plain.sums(sum(logits) / SAMPLES, batch)
    assert sums.metrics["accuracy"] == mean.metrics["accuracy"]


def test_in_evaluation_there_is_no_dropout():
    batch, model = batch_for("single_label"), jax.jit(build_for("single_label"))(jax.random.key(0))
    losses = [
        jax.jit(lambda model, f=f: plain_objective(f)(model, batch, None).loss)(model)
        for f in (sampled("single_label"), KINDS["single_label"].objective)
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("kind", ["token", "entity_ranking", "multi_label"])
def test_the_encoder_runs_once(kind):
    batch = batch_for(kind)
    model = jax.eval_shape(build_for(kind, RELATIVE), jax.random.key(0))

    def flops(task):
        gradient = jax.jit(jax.grad(lambda model: plain_objective(task)(model, batch, jax.random.key(1)).loss))
        return count_flops(gradient, model)

    assert 1 <= flops(sampled(kind)) / flops(KINDS[kind].objective) < 1.2


def test_kinds_whose_head_has_no_dropout_are_refused():
    for kind in ("extractive_qa", "seq2seq"):
        with pytest.raises(InputError, match=f"dropout_samples is 3, but models of kind {kind} have no dropout"):
            sampled(kind)
    with pytest.raises(InputError, match="dropout_samples is 0; it must be at least 1"):
        Techniques(dropout_samples=0)
