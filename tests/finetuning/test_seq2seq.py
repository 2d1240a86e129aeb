"""Sequence to sequence: sequences and losses of the mask of UniLM, and a trained model that writes its targets."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from inference_models import random_model
from toy_runs import read_json

from deberta_jax.cli.main import main
from deberta_jax.finetuning.features import windows_of
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.inference.encode import encode
from deberta_jax.tasks.examples import Seq2SeqExample

KIND = KINDS["seq2seq"]
EXAMPLE = Seq2SeqExample("1", "The quick brown fox", "A man eats")


def feature_of(tokenizer, example=EXAMPLE, max_length=32):
    rows = encode(tokenizer, [KIND.encoding.training_inputs(example)], max_length)
    [feature] = KIND.encoding.targets(example, windows_of(rows, 1)[0], {}, max_length)
    return feature


def test_the_last_token_of_the_source_and_the_target_predict_the_target(tokenizer):
    feature = feature_of(tokenizer)
    source, target = (tokenizer.encode(text).tolist() for text in (EXAMPLE.source, EXAMPLE.target))
    [ids] = feature.sequences
    assert ids.tolist() == [tokenizer.cls_id, *source, tokenizer.sep_id, *target, tokenizer.sep_id]
    assert feature.targets["labels"].tolist() == [*target, tokenizer.sep_id]
    assert feature.targets["positions"].tolist() == list(range(len(source) + 1, len(ids) - 1))
    assert feature.targets["source_lengths"] == len(source) + 2


def test_a_model_writes_at_most_as_many_tokens_as_its_training_sequences_have(tokenizer):
    lengths = [KIND.config_keys(tokenizer, [EXAMPLE], length)["deberta_jax_max_new_tokens"] for length in (32, 3)]
    assert lengths == [len(tokenizer.encode(EXAMPLE.target)) + 1, 3]


def test_a_long_source_is_truncated_and_the_target_is_whole(tokenizer):
    feature = feature_of(tokenizer, EXAMPLE._replace(source="fox " * 40))
    assert len(feature.sequences[0]) == 32
    target = tokenizer.encode(EXAMPLE.target).tolist()
    assert feature.targets["labels"].tolist() == [*target, tokenizer.sep_id]


def test_the_loss_is_that_of_the_next_tokens_and_later_ones_do_not_matter(tokenizer):
    model = random_model("masked_lm", max_position_embeddings=32)
    feature = feature_of(tokenizer)
    [ids] = feature.sequences
    batch = {name: jnp.asarray(value)[None] for name, value in feature.targets.items()}
    batch |= {"input_ids": jnp.asarray(ids)[None], "attention_mask": jnp.ones((1, len(ids)), jnp.int32)}
    logits = np.asarray(KIND.objective.outputs(model, batch, None))[0]
    sums = KIND.objective.sums(jnp.asarray(logits)[None], batch)
    expected = -sum(
        float(jax.nn.log_softmax(row)[label]) for row, label in zip(logits, feature.targets["labels"], strict=True)
    )
    np.testing.assert_allclose(sums.loss, expected, rtol=1e-5)
    changed = batch | {"input_ids": batch["input_ids"].at[0, -2:].set(9)}
    np.testing.assert_array_equal(np.asarray(KIND.objective.outputs(model, changed, None))[0, :-2], logits[:-2])


def test_a_trained_model_writes_targets_from_the_command_line(finished, capfd):
    folder = finished("seq2seq").folder / "model"
    config = read_json(folder / "config.json")
    assert config["deberta_jax_objective"] == "seq2seq"
    # The longest target and [SEP].
    assert 4 <= config["deberta_jax_max_new_tokens"] <= 8
    assert main(["predict", str(folder), "--text", "the shells is it from"]) == 0
    [line] = capfd.readouterr().out.splitlines()
    assert json.loads(line)["prediction"]["text"] == "shells of it"


def test_a_length_beyond_the_absolute_positions_is_refused_before_training(prepared, tmp_path, capfd):
    words = [str(word) for word in prepared("seq2seq").words]
    words[words.index("--max-length") + 1] = "65"
    assert main(["finetune", *words, "--folder", str(tmp_path / "run")]) == 2
    assert "max_length is 65, but the model has 64 absolute positions" in capfd.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()
