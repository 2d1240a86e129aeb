"""Every public name of `deberta_jax`, used once as a user would. It is type-checked, not run (test_typing.py)."""

from typing import Any, assert_type

import jax
import numpy as np
import optax

import deberta_jax as dj

key, ids, texts = jax.random.key(0), np.ones((1, 4), np.int32), ["A man eats."]
config, vocabulary_ids = dj.PRESETS["tiny"], [np.arange(3, 9)]

# Loading: the head gives the class of the model.
encoder, tokenizer = dj.from_pretrained("microsoft/deberta-v3-base", dtype="bfloat16")
assert_type(encoder, dj.Deberta)
assert_type(tokenizer, dj.Tokenizer)
masked_lm, _ = dj.from_pretrained("runs/model", head="masked_lm", generator=True)
assert_type(masked_lm, dj.MaskedLM)
classifier, optional = dj.from_pretrained("x", "sequence_classification", labels=["a"], require_tokenizer=False)
assert_type(classifier, dj.SequenceClassification)
assert_type(optional, dj.Tokenizer | None)
assert_type(dj.from_pretrained("x", head="token_classification"), tuple[dj.TokenClassification, dj.Tokenizer])
assert_type(dj.from_pretrained("x", head="question_answering"), tuple[dj.QuestionAnswering, dj.Tokenizer])
assert_type(dj.from_pretrained("x", head="multiple_choice"), tuple[dj.MultipleChoice, dj.Tokenizer])
assert_type(dj.from_pretrained("x", head="entity_scoring"), tuple[dj.EntityScoring, dj.Tokenizer])
detector, _ = dj.from_pretrained("x", head="replaced_token_detection")
assert_type(detector, dj.ReplacedTokenDetection)
assert_type(dj.DebertaConfig.from_pretrained("x", revision="main"), dj.DebertaConfig)
tokenizer = dj.Tokenizer.from_pretrained("x").with_tokens(["<gene>"])
dj.save_pretrained("folder", masked_lm, tokenizer)

# Models, their arguments and their outputs.
batch: dj.Batch = tokenizer(texts)
states: jax.Array = encoder(**batch).last_hidden_state
attention_mask = dj.make_attention_mask(jax.numpy.ones((1, 4), bool), None, None)
index = dj.relative_index(4, 4, buckets=8, max_distance=32)
buckets: np.ndarray = dj.log_bucket(np.arange(4), 8, 32)
q = rel = jax.numpy.ones((1, 4, 2, 8))
scores = dj.c2c_scores(q, q) + dj.c2p_scores(q, rel[0], index) + dj.p2c_scores(q, rel[0], index)
probabilities = dj.attention_probabilities(q, q, rel[0], rel[0], index=index, mask=attention_mask)
context = dj.disentangled_attention(q, q, q, rel[0], rel[0], index=index)

# Inference.
batching = dj.Batching(batch_tokens=1024)
token: str = dj.fill_mask(masked_lm, tokenizer, texts, batching=batching)[0][0][0].token
filled: str = dj.fill_mask(masked_lm, tokenizer, texts, fill_order="left_to_right")[0].text
generated: dj.Generated = dj.generate(masked_lm, tokenizer, texts)[0]
measured: dj.Perplexity = dj.perplexity(masked_lm, tokenizer, iter(texts), stride=16)
classification = dj.classify(classifier, tokenizer, texts)[0]
results: list[Any] = [
    dj.zero_shot(classifier, tokenizer, texts, ["a", "b"]),
    dj.tag_entities(dj.from_pretrained("x", head="token_classification")[0], tokenizer, texts),
    dj.answer(dj.from_pretrained("x", head="question_answering")[0], tokenizer, texts, texts),
    dj.choose(dj.from_pretrained("x", head="multiple_choice")[0], tokenizer, texts, [["a", "b"]]),
    dj.score_entities(dj.from_pretrained("x", head="entity_scoring")[0], tokenizer, texts, texts, [[(0, 1)]]),
    dj.detect_replaced(detector, tokenizer, texts),
    dj.activations(encoder, tokenizer, "A man"),
    dj.predict(classifier, tokenizer, texts),
    list(dj.stream(dj.pipeline(classifier, tokenizer), [("A man",)])),
]
rewards: np.ndarray = dj.score(classifier, tokenizer, texts, texts, function="sigmoid")
best: int = dj.rank(classifier, tokenizer, "a", texts, top=None, windows=True)[0].index
vectors: np.ndarray = dj.embed(encoder, tokenizer, texts, pooling="max", prompt="query: ")
if isinstance(encoder, dj.SentenceEncoder):
    pooled: jax.Array = encoder.pool(states, batch.attention_mask)

# Training.
mesh = dj.make_mesh()
placed = jax.device_put(encoder, dj.shardings(encoder, mesh, {"embed": "fsdp"}))
optimizer = optax.adamw(1e-3)
state: dj.TrainState = dj.initial_state(lambda key: dj.MaskedLM(config, key=key), optimizer, 0, mesh)
step = dj.make_step(dj.masked_lm_objective, optimizer, optax.constant_schedule(1e-3), dj.shardings(state, mesh))
causal = dj.make_step(dj.causal_lm_objective, optimizer, optax.constant_schedule(1e-3), dj.shardings(state, mesh))
state, metrics = step(state, {"input_ids": jax.numpy.asarray(ids)})
pair: dj.ReplacedTokenPair = dj.initial_pair(config, config, key=key)
lora = dj.LoraModel(classifier, dj.LoraConfig(rank=8), targets=["attention.query", "up"], key=key)
merged = dj.merge_lora(lora)
dj.save_adapter("adapter", lora, tokenizer, base="microsoft/deberta-v3-base")
adapted, _ = dj.from_pretrained("adapter", "sequence_classification", base="microsoft/deberta-v3-base")
objective = dj.lora_objective(dj.plain_objective(dj.classification_objective(label_smoothing=0.1)))
sums: dj.Sums = objective(lora, {"input_ids": jax.numpy.asarray(ids)}, None)
replaced = dj.replace_tokens({"input_ids": jax.numpy.asarray(ids)}, jax.numpy.asarray(ids))
loss = dj.discriminator_objective(pair.detector(), replaced, key).loss
sequence = next(dj.pack(vocabulary_ids, 16, cls_id=tokenizer.cls_id, sep_id=tokenizer.sep_id, pad_id=tokenizer.pad_id))
vocabulary = dj.MaskingVocabulary(
    tokenizer.mask_id, tokenizer.vocab_size, tokenizer.special_ids, tokenizer.word_starts()
)
masked = dj.mask_tokens(*sequence, np.random.default_rng(0), vocabulary, dj.Masking(rate=0.2))
error: type[ValueError] = dj.InputError
version: str = dj.__version__

# Models with other parameters.
masked_lm = dj.resized(dj.MaskedLM(config, param_dtype="bfloat16", key=key), config.vocab_size + 1, key=key)
short: dj.MaskedLM = dj.first_layers(dj.with_config(masked_lm, hidden_dropout_prob=0.0), 2)
first_kernel: jax.Array = dj.layer(short, 0).up.kernel[...]
names: dict[str, jax.Array] = dj.parameters(short)
labels = dj.label(short, lambda name: "slow" if "embeddings" in name else "fast")
by_layer = optax.chain(optax.multi_transform({"slow": optax.sgd(1e-4), "fast": optax.sgd(1e-3)}, labels))
by_layer = optax.chain(by_layer, dj.scale_by_layer([0.5, 1.0], embeddings=0.1))
output: dj.HeadOutput = short(ids, output_hidden_states=True)
assert_type(output.hidden_states, jax.Array | None)

# What a call returns depends on what it requests.
assert_type(masked_lm(ids, masked_positions=ids), jax.Array)
logits: jax.Array = masked_lm(**batch)
assert_type(masked_lm(ids, output_attentions=True), dj.HeadOutput[jax.Array])
assert_type(dj.from_pretrained("x", head="question_answering")[0](ids).start, jax.Array)
assert_type(dj.merge_lora(lora), dj.SequenceClassification)
assert_type(dj.shardings(state, mesh), dj.TrainState)
implementation: str = dj.attention_implementation((2, 512, 12, 64), platform="gpu")
context, probabilities = dj.attention_with_probabilities(q, q, q, is_causal=True)
